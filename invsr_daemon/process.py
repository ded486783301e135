"""`invsr-daemon process`: a command line's inputs through the runner, with progress for people or scripts."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol

from tqdm import tqdm

from .config import Settings, load
from .devices import choose_devices
from .logs import counted, printable
from .media.suffixes import FILM_SUFFIXES, PICTURE_SUFFIXES
from .model import hub
from .outbox import Manners
from .plans import Job, Plan, Target
from .pool import Pool
from .records import ConfigError, InvsrError, OutputExistsError, Task
from .runner import Interrupted, Result, run_job

log = logging.getLogger(__name__)

DONE, FAILED, INTERRUPTED = 0, 1, 130
RESTORED = "_restored"
STOPPED = "stopped; run the same command again to go on from here"
REPORT_SECONDS = 10.0


def process_inputs(
    inputs: Sequence[Path],
    output: Path | None,
    config_file: Path | None,
    options: dict[str, Any],
    *,
    overwrite: bool,
    as_json: bool,
) -> int:
    """Restore every input; the exit code. Raises ConfigError before anything is begun."""
    settings = load(config_file, options)
    logging.basicConfig(level=settings.log.level.upper(), format="%(message)s", stream=sys.stderr)
    targets = list(_targets(inputs, output))
    if not targets:
        raise ConfigError("there is no film or picture in " + ", ".join(map(str, inputs)))
    model_dir = hub.resolve(settings.model, settings.models_dir)
    model, fingerprint = settings.model_settings(model_dir), hub.fingerprint(model_dir)
    devices = choose_devices(settings.devices, settings.workers)
    manners = Manners("overwrite" if overwrite else "fail")
    jobs = {
        path: Job(path.resolve(), target, settings, model, fingerprint, str(target), manners)
        for path, target in targets
    }
    report: _Report = _Json() if as_json else _Bars() if sys.stderr.isatty() else _Lines()
    return asyncio.run(_Session(settings, jobs, devices, report).run())


def _targets(inputs: Sequence[Path], output: Path | None) -> Iterator[tuple[Path, Target]]:
    """Every input file with the place of its result; folders are searched for films and pictures."""
    several = len(inputs) > 1 or any(path.is_dir() for path in inputs)
    into_folder = output is not None and (several or output.is_dir() or not output.suffix)
    if output is not None and into_folder and output.is_file():
        raise ConfigError(f"-o {output}: several results need a folder, and this is a file")
    for path in inputs:
        if path.is_dir():
            root = output or _beside(path)
            for found in _films_and_pictures(path, root):
                yield found, Target(root.absolute() / found.relative_to(path).parent, found.stem)
        elif output is None or (into_folder and output.resolve() == path.absolute().parent.resolve()):
            yield path, Target(path.absolute().parent, path.stem + RESTORED)
        elif into_folder:
            yield path, Target(output.absolute(), path.stem)
        else:
            yield path, Target(output.absolute().parent, output.stem, output.suffix)


def _beside(folder: Path) -> Path:
    """Where the results of a folder go if nothing was said: NAME_restored."""
    named = Path(os.path.abspath(folder))  # "." and ".." have a name, too
    if not named.name:
        raise ConfigError(f"{folder} has nothing beside it: give a folder for the results with -o")
    return named.with_name(named.name + RESTORED)


def _films_and_pictures(folder: Path, results: Path) -> list[Path]:
    """By suffix, hidden files and the results' own folder left out, in order of their names."""
    if results.resolve() == folder.resolve():
        raise ConfigError(f"-o {results}: results of a folder need another folder than its own")
    suffixes = FILM_SUFFIXES | PICTURE_SUFFIXES
    earlier = _inside(folder, results)
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in suffixes
        and path.is_file()
        and not path.is_symlink()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and not (earlier and path.relative_to(folder).is_relative_to(earlier))
    )


def _inside(folder: Path, other: Path) -> Path | None:
    """Another folder's path in this one, if it lies there."""
    outer, inner = folder.resolve(), other.resolve()
    return inner.relative_to(outer) if inner.is_relative_to(outer) else None


class _Session:
    """All jobs of one command on one pool, as many at once as there are workers."""

    def __init__(
        self, settings: Settings, jobs: dict[Path, Job], devices: tuple[str, ...], report: _Report
    ) -> None:
        self._settings = settings
        self._jobs = jobs
        self._devices = devices
        self._report = report
        self._results: dict[Path, Path] = {}  # whose each is
        self._stopping = asyncio.Event()
        self._failures = 0

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        everything = asyncio.current_task()
        assert everything is not None
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._signalled, everything)
        turns = asyncio.Semaphore(len(self._devices))
        try:
            limits = self._settings.limits
            async with Pool(self._devices, limits.cpu_threads, limits.stall_seconds) as pool:
                self._report.begin(self._settings, self._devices)
                async with asyncio.TaskGroup() as group:
                    for path, job in self._jobs.items():
                        group.create_task(self._one(path, job, pool, turns))
        except asyncio.CancelledError:
            self._report.say(STOPPED)
            _leave_now(INTERRUPTED)
        if self._stopping.is_set():
            self._report.say(STOPPED)
            return INTERRUPTED
        return FAILED if self._failures else DONE

    def _signalled(self, everything: asyncio.Task[Any]) -> None:
        """First signal: finish the chunks under way. Second: now."""
        if self._stopping.is_set():
            everything.cancel()
            return
        self._stopping.set()
        self._report.say("stopping when the chunks under way are finished; once more stops now")

    async def _one(self, path: Path, job: Job, pool: Pool, turns: asyncio.Semaphore) -> None:
        async with turns:
            if self._stopping.is_set():
                return
            began = time.monotonic()
            try:
                result = await run_job(job, pool, self, self._stopping)
                self._claim(result.output, job)
            except Interrupted:
                return
            except InvsrError as error:
                self._failures += 1
                self._report.failed(path, error)
            else:
                self._report.done(path, result, time.monotonic() - began)

    def _claim(self, output: Path, job: Job) -> None:
        """Even if it may overwrite, a command keeps the result of each of its inputs."""
        other = self._results.setdefault(output, job.source)
        if other != job.source:
            raise OutputExistsError(f"{output} is the result of {other}, too: give each a folder of its own")

    # As an observer

    def planned(self, plan: Plan) -> None:
        self._claim(plan.output, plan.job)
        self._report.planned(plan)

    def progress(self, plan: Plan, frames: int) -> None:
        self._report.progress(plan, frames)

    def finished(self, plan: Plan, task: Task, device: str, seconds: float) -> None:
        self._report.finished(plan, task, device, seconds)

    def ended(self, plan: Plan) -> None:
        self._report.ended(plan)


def _leave_now(code: int) -> NoReturn:
    """End without waiting for threads, which cannot be cancelled: one may be syncing a long film."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class _Report(Protocol):
    """How a command's progress is told."""

    def begin(self, settings: Settings, devices: tuple[str, ...]) -> None: ...

    def planned(self, plan: Plan) -> None: ...

    def progress(self, plan: Plan, frames: int) -> None: ...

    def finished(self, plan: Plan, task: Task, device: str, seconds: float) -> None: ...

    def done(self, path: Path, result: Result, seconds: float) -> None: ...

    def failed(self, path: Path, error: InvsrError) -> None: ...

    def say(self, text: str) -> None: ...

    def ended(self, plan: Plan) -> None: ...


def _heading(settings: Settings, devices: tuple[str, ...]) -> str:
    schedule = ",".join(map(str, settings.schedule()))
    return f"model {settings.model} on {', '.join(devices)}; timesteps {schedule}; scale {settings.scale:g}"


def _summary(path: Path, result: Result, seconds: float) -> str:
    if result.was_there:
        return f"{path}: was restored before: {result.output}"
    resumed = (
        f", {result.frames - result.computed} of them in an earlier run"
        if result.computed < result.frames
        else ""
    )
    return f"{path} -> {result.output} ({counted(result.frames, 'frame')}{resumed}; {seconds:.1f} s)"


class _Lines:
    """Plain lines on stderr, progress every ten seconds."""

    def __init__(self) -> None:
        self._begun: dict[str, float] = {}
        self._frames: dict[str, int] = {}
        self._said = time.monotonic()

    def begin(self, settings: Settings, devices: tuple[str, ...]) -> None:
        self.say(_heading(settings, devices))

    def planned(self, plan: Plan) -> None:
        self._begun[plan.key] = time.monotonic()
        self._frames[plan.key] = 0
        chunks = counted(len(plan.tasks), "chunk")
        self.say(f"{plan.job.source.name}: {counted(plan.frames, 'frame')} in {chunks}")

    def progress(self, plan: Plan, frames: int) -> None:
        self._frames[plan.key] += frames
        now = time.monotonic()
        if now - self._said >= REPORT_SECONDS:
            self._said = now
            done, seconds = self._frames[plan.key], now - self._begun[plan.key]
            whole = counted(plan.frames, "frame")
            self.say(f"{plan.job.source.name}: {done} of {whole} after {seconds:.0f} s")

    def finished(self, plan: Plan, task: Task, device: str, seconds: float) -> None:
        pass

    def done(self, path: Path, result: Result, seconds: float) -> None:
        self.say(_summary(path, result, seconds))
        for note in result.notes:
            self.say(f"{path}: note: {note}")

    def failed(self, path: Path, error: InvsrError) -> None:
        self.say(f"invsr-daemon: {path}: {error}")

    def say(self, text: str) -> None:
        print(printable(text), file=sys.stderr, flush=True)

    def ended(self, plan: Plan) -> None:
        pass


class _Bars(_Lines):
    """A progress bar per job on a terminal."""

    def __init__(self) -> None:
        super().__init__()
        self._bars: dict[str, tqdm[Any]] = {}

    def planned(self, plan: Plan) -> None:
        self._bars[plan.key] = tqdm(
            total=plan.frames,
            unit="frame",
            desc=printable(plan.job.source.name),
            dynamic_ncols=True,
            leave=False,
            smoothing=0.1,
        )

    def progress(self, plan: Plan, frames: int) -> None:
        self._bars[plan.key].update(frames)

    def say(self, text: str) -> None:
        tqdm.write(printable(text), file=sys.stderr)

    def ended(self, plan: Plan) -> None:
        self._bars.pop(plan.key).close()


class _Json(_Lines):
    """One JSON object per line on stdout; failures on stderr too, for people."""

    def begin(self, settings: Settings, devices: tuple[str, ...]) -> None:
        self._write("begin", model=settings.model, devices=devices, timesteps=settings.schedule())

    def planned(self, plan: Plan) -> None:
        self._write("planned", input=str(plan.job.source), output=str(plan.output), frames=plan.frames)

    def progress(self, plan: Plan, frames: int) -> None:
        self._write("progress", input=str(plan.job.source), frames=frames)

    def done(self, path: Path, result: Result, seconds: float) -> None:
        self._write(
            "done",
            input=str(path),
            output=str(result.output),
            frames=result.frames,
            computed=result.computed,
            seconds=round(seconds, 3),
            notes=result.notes,
        )

    def failed(self, path: Path, error: InvsrError) -> None:
        self._write("failed", input=str(path), error=type(error).__name__, reason=str(error))
        super().failed(path, error)

    def _write(self, event: str, **values: object) -> None:
        print(json.dumps({"event": event, **values}), flush=True)
