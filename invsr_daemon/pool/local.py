"""A pool of processes on this machine: a worker for each device, and media processes as they are needed."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AbstractAsyncContextManager
from typing import Self

from ..confinement import confinement_problem
from ..wire.plans import Priority
from .leasing import Leases
from .media import MediaProcesses
from .protocol import Worker
from .reach import Reach
from .worker import WorkerProcess

log = logging.getLogger(__name__)


class LocalPool:
    """Worker processes on devices of this machine. One that dies is replaced when it is next asked."""

    def __init__(
        self, devices: tuple[str, ...], threads: int, reach: Reach, stall_seconds: float | None = None
    ) -> None:
        self.media = MediaProcesses(stall_seconds, reach.inbox)
        self._leases = Leases(WorkerProcess(device, threads, reach, stall_seconds) for device in devices)

    async def __aenter__(self) -> Self:
        if problem := confinement_problem():
            log.warning("%s", problem)
        return self

    async def __aexit__(self, *exception: object) -> None:
        await asyncio.gather(self.media.stop(), *(worker.stop() for worker in self._leases.workers))

    @property
    def size(self) -> int:
        return len(self._leases.workers)

    @property
    def busy(self) -> int:
        return self._leases.busy

    def lease(
        self, priority: Priority = (), avoid: Worker | None = None
    ) -> AbstractAsyncContextManager[WorkerProcess]:
        return self._leases.lease(priority, avoid)

    def pause(self) -> None:
        self._leases.pause()

    def resume(self) -> None:
        self._leases.resume()
