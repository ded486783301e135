"""`invsr-daemon process`: a command line's inputs through the runner, with progress for people or scripts."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import hub
from ..errors import ConfigError, Interrupted, InvsrError, OutputExistsError, ResourceError
from ..files.publishing import PublishPolicy, explaining, too_little_space
from ..jobs.observing import Result
from ..jobs.runner import run_job
from ..jobs.stopping import TwoSignals, leave_now
from ..jobs.workfolders import forget_loose, make_state_folder
from ..pool.devices import choose_devices
from ..pool.local import LocalPool
from ..pool.protocol import Pool
from ..pool.reach import Reach
from ..records import Task
from ..settings.reading import load
from ..settings.settings import Settings
from ..wire.plans import Job, Plan, Target
from .reports import Bars, Events, Report, Totals
from .targets import find_targets

log = logging.getLogger(__name__)

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
# How long a command waits for a device while all are set aside. Its finished pieces are kept.
DEVICE_SECONDS = 600.0


def process_inputs(
    inputs: Sequence[Path],
    output: str | None,
    config_file: Path | None,
    options: dict[str, Any],
    *,
    overwrite: bool,
    as_json: bool,
) -> int:
    """Restore every input and return the exit code. Raises ConfigError before anything is begun."""
    settings = load(config_file, options)
    logging.basicConfig(level=settings.log.level.upper(), format="%(message)s", stream=sys.stderr)
    targets = find_targets(inputs, output, settings)
    if not targets.places:
        raise ConfigError("there is no film or picture in " + ", ".join(map(str, inputs)))
    jobs = _jobs(targets.places, settings, PublishPolicy("overwrite" if overwrite else "fail"))
    devices = choose_devices(settings.devices, settings.workers)
    if settings.results.sidecar:
        log.warning("results.sidecar is for the daemon: `process` writes none")
    make_state_folder(settings.state_dir)
    forget_loose(settings.state_dir, time.time(), settings.keep_seconds)
    report: Report = Events() if as_json else Bars() if sys.stderr.isatty() else Report()
    session = _Session(settings, jobs, devices, report)
    return asyncio.run(session.run(targets.left_out))


def _jobs(places: Mapping[Path, Target], settings: Settings, policy: PublishPolicy) -> dict[Path, Job]:
    model_dir = hub.require(settings.model, settings.models_dir)
    model = settings.model_settings(model_dir, hub.fingerprint(model_dir))
    return {
        path: Job(path.resolve(), target, settings, model, str(target), policy)
        for path, target in places.items()
    }


class _Session:
    """All jobs of one command on one pool, as many at once as there are workers."""

    def __init__(
        self, settings: Settings, jobs: dict[Path, Job], devices: tuple[str, ...], report: Report
    ) -> None:
        self._settings = settings
        self._jobs = jobs
        self._devices = devices
        self._report = report
        self._owners: dict[Path, Path] = {}  # of results
        # Links to one file share its work folder: one of them is restored after the other.
        self._one_at_a_time = {job.source: asyncio.Lock() for job in jobs.values()}
        self._signals = TwoSignals(self._begin_to_stop)
        self._pool: LocalPool | None = None
        self._done: list[Result] = []
        self._failed: dict[Path, InvsrError] = {}

    async def run(self, left_out: Mapping[str, int]) -> int:
        """Restore all inputs; return the exit code. `left_out`: other files in the folders, by suffix."""
        self._signals.listen()
        self._report.begin(self._settings, self._devices, left_out)
        turns = asyncio.Semaphore(len(self._devices))
        try:
            limits, reach = self._settings.limits, Reach(self._settings.state_dir / "work")
            async with (
                LocalPool(
                    self._devices, limits.cpu_threads, reach, limits.stall_seconds, patience=DEVICE_SECONDS
                ) as pool,
                asyncio.TaskGroup() as group,
            ):
                self._pool = pool
                for path, job in self._jobs.items():
                    group.create_task(self._one(path, job, pool, turns))
        except asyncio.CancelledError:
            self._report.summary(self._totals())
            leave_now(INTERRUPTED)
        totals = self._totals()
        self._report.summary(totals)
        return totals.exit_code

    def _begin_to_stop(self) -> None:
        self._report.stopping()
        if self._pool is not None:
            self._pool.refuse()  # whoever waits for a device that is well

    def _totals(self) -> Totals:
        were_there = sum(result.was_there for result in self._done)
        unfinished = len(self._jobs) - len(self._done) - len(self._failed)
        exit_code = INTERRUPTED if unfinished else self._exit_code()
        return Totals(len(self._done) - were_there, were_there, self._failed, unfinished, exit_code)

    def _exit_code(self) -> int:
        if not self._failed:
            return DONE
        wrong = all(isinstance(error, ConfigError) for error in self._failed.values())
        return USAGE if wrong and not self._done else FAILED

    async def _one(self, path: Path, job: Job, pool: Pool, turns: asyncio.Semaphore) -> None:
        async with self._one_at_a_time[job.source], turns:
            if self._signals.stopping.is_set():
                return
            began = time.monotonic()
            watcher = _Watcher(path, self._report, self._claim)
            try:
                await asyncio.to_thread(_check_space, job)
                result = await run_job(job, pool, watcher, self._signals.stopping)
            except Interrupted:
                return
            except InvsrError as error:
                self._failed[path] = error
                self._report.failed(path, error)
            else:
                self._done.append(result)
                self._report.done(path, result, time.monotonic() - began)

    def _claim(self, path: Path, output: Path) -> None:
        """Refuse a name that another input of this command has taken, even if results may be overwritten."""
        other = self._owners.setdefault(output, path)
        if other != path:
            raise OutputExistsError(
                f"{output} is the result of {other}, too: give this one another place with -o"
            )


def _check_space(job: Job) -> None:
    """Raise ResourceError if the disk is too full to begin."""
    least = job.settings.limits.min_free_space
    for folder in (job.settings.state_dir, job.target.folder):
        with explaining(folder):
            why = too_little_space(folder, least)
        if why:
            raise ResourceError(why)


@dataclass(frozen=True)
class _Watcher:
    """Watches one input for the report, under the name that it was given."""

    path: Path
    report: Report
    claim: Callable[[Path, Path], None]

    def looked(self, plan: Plan) -> None:
        self.claim(self.path, plan.output)

    def planned(self, plan: Plan) -> None:
        self.report.planned(self.path, plan)

    def progress(self, plan: Plan, frames: int) -> None:
        self.report.progress(self.path, frames)

    def finished(self, plan: Plan, task: Task, device: str, seconds: float) -> None:
        pass

    def ended(self, plan: Plan) -> None:
        self.report.ended(self.path)
