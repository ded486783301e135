"""The processes that work for the parent, from its side: start, hand over requests, notice deaths.

Workers, one per device, and media processes, as many as are needed. The parent itself imports neither
torch nor FFmpeg. Each is a fresh interpreter that reads requests from its stdin, and dies with the parent.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Self

from ..wire.plans import Priority
from .media import MediaProcesses
from .worker import Worker


@dataclass
class _Waiter:
    """Someone who wants a worker: any but `avoid`, if there are others at all."""

    future: asyncio.Future[Worker]
    avoid: Worker | None


class Pool:
    """Workers, leased by priority, then in the order they were asked for; a dead one is replaced."""

    def __init__(self, devices: tuple[str, ...], threads: int, stall_seconds: float | None = None) -> None:
        self.workers = [Worker(device, threads, stall_seconds) for device in devices]
        self.media = MediaProcesses(stall_seconds)
        self._idle = list(self.workers)
        self._waiting: list[tuple[Priority, int, _Waiter]] = []
        self._asked = count()
        self._paused = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await asyncio.gather(self.media.stop(), *(worker.stop() for worker in self.workers))

    @property
    def busy(self) -> int:
        """How many workers are leased."""
        return len(self.workers) - len(self._idle)

    def pause(self) -> None:
        """Lease no worker until `resume`; those that are leased go on."""
        self._paused = True

    def resume(self) -> None:
        """Lease workers again."""
        self._paused = False
        self._match()

    @asynccontextmanager
    async def lease(self, priority: Priority = (), avoid: Worker | None = None) -> AsyncIterator[Worker]:
        """A worker; lower priorities come first. `avoid`: rather another than this one."""
        worker = await self._leased(priority, avoid)
        try:
            yield worker
        finally:
            self._give_back(worker)

    async def _leased(self, priority: Priority, avoid: Worker | None) -> Worker:
        waiter = _Waiter(asyncio.get_running_loop().create_future(), avoid)
        heapq.heappush(self._waiting, (priority, next(self._asked), waiter))
        self._match()
        try:
            return await waiter.future
        except asyncio.CancelledError:
            if waiter.future.done() and not waiter.future.cancelled():  # handed over in this very moment
                self._give_back(waiter.future.result())
            raise

    def _give_back(self, worker: Worker) -> None:
        self._idle.append(worker)
        self._match()

    def _match(self) -> None:
        """Hand idle workers to whoever waits, the first in line first."""
        passed: list[tuple[Priority, int, _Waiter]] = []
        while self._idle and self._waiting and not self._paused:
            entry = heapq.heappop(self._waiting)
            waiter = entry[-1]
            if waiter.future.done():  # cancelled while it waited
                continue
            fitting = [w for w in self._idle if w is not waiter.avoid or len(self.workers) == 1]
            if not fitting:
                passed.append(entry)
                continue
            self._idle.remove(fitting[0])
            waiter.future.set_result(fitting[0])
        for entry in passed:
            heapq.heappush(self._waiting, entry)
