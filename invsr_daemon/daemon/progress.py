"""How a running job goes: for the store, the status line and the watchdog."""

from __future__ import annotations

import logging
import time
from collections import deque

from ..logs import counted
from ..records import Task, VideoTask
from ..store.rows import JobRow
from ..wire.plans import Plan, frames_of
from .ledger import Ledger

log = logging.getLogger(__name__)

RATE_SECONDS = 60.0


class JobProgress:
    """Watches jobs for the ledger, the status line and the watchdog."""

    def __init__(self, row: JobRow, ledger: Ledger, rate: Rate) -> None:
        self._row = row
        self._ledger = ledger
        self._rate = rate
        self._before = 0  # frames of an earlier run, of which the runner tells first

    def looked(self, plan: Plan) -> None:
        pass

    def planned(self, plan: Plan) -> None:
        frames = [frames_of(task) for task in plan.tasks]
        waiting = {_index(task) for task in plan.waiting()}
        self._before = plan.frames - sum(frames_of(task) for task in plan.waiting())
        whole = f"{counted(sum(frames), 'frame')} in {counted(len(frames), 'chunk')}"
        log.info("%s: %s, %d to do", self._row.relative, whole, len(waiting))
        now = time.time()
        self._ledger.note(lambda store: store.note_plan(self._row.id, plan.output, frames, waiting, now))

    def progress(self, plan: Plan, frames: int) -> None:
        self._rate.add(frames - self._before)
        self._before = 0

    def finished(self, plan: Plan, task: Task, device: str, seconds: float) -> None:
        now = time.time()
        self._ledger.note(lambda store: store.note_chunk(self._row.id, _index(task), seconds, device, now))

    def ended(self, plan: Plan) -> None:
        pass


def _index(task: Task) -> int:
    return task.chunk.index if isinstance(task, VideoTask) else 0


class Rate:
    """Frames of the last minute, and when the last one came, or could not come."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()
        self.last = time.monotonic()

    def add(self, frames: int) -> None:
        self.last = time.monotonic()
        self._seen.append((self.last, frames))

    def none_due(self) -> None:
        """Nobody works, so none is missed."""
        self.last = time.monotonic()

    def per_second(self) -> float:
        now = time.monotonic()
        while self._seen and self._seen[0][0] < now - RATE_SECONDS:
            self._seen.popleft()
        return max(0, sum(frames for _, frames in self._seen)) / RATE_SECONDS
