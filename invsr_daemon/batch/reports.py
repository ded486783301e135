"""How a `process` command tells its progress: lines, bars on a terminal, or JSON events for scripts."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..errors import InvsrError
from ..jobs.observing import Result
from ..jobs.stopping import forget_stdout
from ..logs import counted, lasting, printable
from ..settings.settings import Settings
from ..wire.plans import Plan, frames_of

QUIET_SECONDS = 3.0  # Seconds: an input that ends sooner has no line of its own before its result's.
REPORT_SECONDS = 10.0
STOPPED = "stopped; run the same command again to go on from here"


@dataclass(frozen=True)
class Totals:
    """How a command ended. `unfinished` counts inputs that an interruption left, begun or not."""

    restored: int
    were_there: int
    failed: Mapping[Path, InvsrError]
    unfinished: int
    exit_code: int

    def __str__(self) -> str:
        text = f"{self.restored} restored, {len(self.failed)} failed, {self.were_there} were there"
        return f"{text}, {self.unfinished} unfinished" if self.unfinished else text

    @property
    def inputs(self) -> int:
        return self.restored + self.were_there + len(self.failed) + self.unfinished


class Course:
    """How far an input is. Frames of an earlier run count as done, but not for the speed."""

    def __init__(self, plan: Plan) -> None:
        self.total = plan.frames
        self.chunks = len(plan.tasks)
        self.before = plan.frames - sum(frames_of(task) for task in plan.waiting())
        self.done = 0
        self.told = time.monotonic()
        self._first: tuple[float, int] | None = None

    def add(self, frames: int) -> None:
        self.done += frames
        if self._first is None and self.done > self.before:
            self._first = (time.monotonic(), self.done)

    def begun(self) -> str:
        before = f", {counted(self.before, 'frame')} done before" if self.before else ""
        return f"{counted(self.total, 'frame')} in {counted(self.chunks, 'chunk')}{before}"

    def __str__(self) -> str:
        text = f"{self.done} of {counted(self.total, 'frame')} ({100 * self.done // self.total} %)"
        rate = self._per_second()
        if not rate:
            return text
        left = lasting((self.total - self.done) / rate)
        speed = f"{rate:.1f}" if rate >= 1 else f"{rate:.2g}"
        return f"{text}, {speed} a second, about {left} left"

    def _per_second(self) -> float:
        if self._first is None:
            return 0.0
        since, done = self._first
        return max(0, self.done - done) / max(time.monotonic() - since, 1e-3)


class Report:
    """Plain lines on stderr, one every ten seconds while an input takes. Paths are as they were given."""

    def __init__(self) -> None:
        self._courses: dict[Path, Course] = {}
        self._announcing: dict[Path, asyncio.TimerHandle] = {}

    def begin(self, settings: Settings, devices: tuple[str, ...], left_out: Mapping[str, int]) -> None:
        schedule = ",".join(map(str, settings.schedule()))
        where = ", ".join(devices)
        self.say(f"model {settings.model} on {where}; timesteps {schedule}; scale {settings.scale:g}")
        if left_out:
            number = counted(sum(left_out.values()), "file")
            self.say(f"left out: {number} ({', '.join(sorted(left_out))})")

    def planned(self, path: Path, plan: Plan) -> None:
        course = self._courses[path] = Course(plan)
        loop = asyncio.get_running_loop()
        self._announcing[path] = loop.call_later(QUIET_SECONDS, self.say, f"{path}: {course.begun()}")

    def progress(self, path: Path, frames: int) -> None:
        course = self._courses[path]
        course.add(frames)
        if time.monotonic() - course.told >= REPORT_SECONDS:
            course.told = time.monotonic()
            self.say(f"{path}: {course}")

    def ended(self, path: Path) -> None:
        """Count an input that was planned, however it ended."""
        del self._courses[path]
        if announcing := self._announcing.pop(path, None):
            announcing.cancel()

    def done(self, path: Path, result: Result, seconds: float) -> None:
        self.say(_told(path, result, seconds))
        for note in result.notes:
            self.say(f"{path}: note: {note}")

    def failed(self, path: Path, error: InvsrError) -> None:
        self.say(f"invsr-daemon: {path}: {error}")

    def stopping(self) -> None:
        self.say("stopping when the chunks under way are finished; once more stops now")

    def summary(self, totals: Totals) -> None:
        if totals.unfinished:
            self.say(STOPPED)
        if totals.inputs > 1:
            for path, error in totals.failed.items():
                self.say(f"failed: {path}: {error}")
            self.say(str(totals))

    def say(self, text: str) -> None:
        print(printable(text), file=sys.stderr, flush=True)


def _told(path: Path, result: Result, seconds: float) -> str:
    if result.was_there:
        return f"{path}: was restored before: {result.output}"
    earlier = result.frames - result.computed
    resumed = f", {earlier} of them in an earlier run" if earlier else ""
    return f"{path} -> {result.output} ({counted(result.frames, 'frame')}{resumed}; {seconds:.1f} s)"


class Bars(Report):
    """A progress bar per input on a terminal."""

    def __init__(self) -> None:
        super().__init__()
        self._bars: dict[Path, tqdm[Any]] = {}

    def planned(self, path: Path, plan: Plan) -> None:
        course = self._courses[path] = Course(plan)
        self._bars[path] = tqdm(
            total=course.total,
            initial=course.before,  # these do not count for the speed
            unit="frame",
            desc=printable(str(path)),
            dynamic_ncols=True,
            leave=False,
            smoothing=0.1,
        )

    def progress(self, path: Path, frames: int) -> None:
        course, bar = self._courses[path], self._bars[path]
        course.add(frames)
        bar.update(course.done - bar.n)

    def ended(self, path: Path) -> None:
        super().ended(path)
        self._bars.pop(path).close()

    def say(self, text: str) -> None:
        tqdm.write(printable(text), file=sys.stderr)


class Events(Report):
    """One JSON object per line on stdout; failures and interruptions on stderr too, for people.

    Where nobody reads them any more, or their disk is full, the command is interrupted at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self._closed = False

    def begin(self, settings: Settings, devices: tuple[str, ...], left_out: Mapping[str, int]) -> None:
        self._write(
            "begin",
            model=settings.model,
            devices=devices,
            timesteps=settings.schedule(),
            scale=settings.scale,
            left_out=dict(left_out),
        )

    def planned(self, path: Path, plan: Plan) -> None:
        course = self._courses[path] = Course(plan)
        self._write(
            "planned",
            path=str(path),
            output=str(plan.output),
            frames=course.total,
            chunks=course.chunks,
            done=course.before,
        )

    def progress(self, path: Path, frames: int) -> None:
        course = self._courses[path]
        course.add(frames)
        if frames:  # a sign of life is no event
            self._write("progress", path=str(path), done=course.done, total=course.total)

    def done(self, path: Path, result: Result, seconds: float) -> None:
        self._write(
            "done",
            path=str(path),
            output=str(result.output),
            frames=result.frames,
            computed=result.computed,
            was_there=result.was_there,
            seconds=round(seconds, 3),
            notes=result.notes,
        )

    def failed(self, path: Path, error: InvsrError) -> None:
        self._write("failed", path=str(path), **_described(error))
        super().failed(path, error)

    def stopping(self) -> None:
        self._write("interrupted")
        super().stopping()

    def summary(self, totals: Totals) -> None:
        failed = [{"path": str(path), **_described(error)} for path, error in totals.failed.items()]
        self._write(
            "summary",
            restored=totals.restored,
            were_there=totals.were_there,
            failed=failed,
            unfinished=totals.unfinished,
            exit_code=totals.exit_code,
        )
        if totals.unfinished:
            self.say(STOPPED)

    def _write(self, event: str, **values: object) -> None:
        if self._closed:
            return
        try:
            print(json.dumps({"event": event, **values}), flush=True)
        except OSError as error:
            self._closed = True
            forget_stdout()
            self.say(f"stdout cannot be written to: {error.strerror}")
            for _ in range(2):  # as a person does who does not wait for what is under way
                os.kill(os.getpid(), signal.SIGINT)


def _described(error: InvsrError) -> dict[str, str]:
    return {"error": type(error).__name__, "reason": str(error)}
