"""Jobs that wait for room on a disk: each for itself, longer each time."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from ..errors import DiskFullError, NoRoomError
from ..files.publishing import require_room
from ..store.store import retry_delay


@dataclass(frozen=True)
class _Shortage:
    error: DiskFullError
    times: int


class Shortages:
    """What jobs lacked on a disk when they were last tried. It is not kept over a restart."""

    def __init__(self) -> None:
        self._jobs: dict[int, _Shortage] = {}

    def put_off(self, job: int, error: DiskFullError) -> float:
        """Note that a job found no room; how many seconds it is to wait."""
        before = self._jobs.get(job)
        times = 1 if before is None else before.times + 1
        self._jobs[job] = _Shortage(error, times)
        return retry_delay(times)

    def forget(self, job: int) -> None:
        """A job had room this time."""
        self._jobs.pop(job, None)

    def check(self, job: int) -> None:
        """Raise NoRoomError if a job's result, whose size is known, would still not fit.

        So it is not looked at, nor joined, again and again in vain.
        """
        shortage = self._jobs.get(job)
        if shortage is None or not isinstance(shortage.error, NoRoomError):
            return
        with suppress(OSError):  # the attempt will say what is wrong there
            require_room(shortage.error.folder, shortage.error.needed)
