"""Who gets which worker: by priority, then in the order they were asked for. Every make of pool uses it."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Generic, TypeVar

from ..errors import InvsrError
from ..wire.plans import Priority
from .protocol import Worker

W = TypeVar("W", bound=Worker)


@dataclass
class _Waiter(Generic[W]):
    """Someone who wants a worker: on any device but those to avoid, if there are others at all."""

    future: asyncio.Future[W]
    avoid: Collection[str]


class Leases(Generic[W]):
    """Workers that come and go, and whoever waits for one."""

    def __init__(self, workers: Iterable[W] = ()) -> None:
        self._workers = list(workers)
        self._idle = list(self._workers)
        self._waiting: list[tuple[Priority, int, _Waiter[W]]] = []
        self._asked = count()
        self._paused = False
        self._refusal: InvsrError | None = None

    @property
    def workers(self) -> tuple[W, ...]:
        return tuple(self._workers)

    @property
    def busy(self) -> int:
        """How many workers are leased."""
        return sum(worker not in self._idle for worker in self._workers)

    def add(self, worker: W) -> None:
        """Take a worker in: whoever waits may get it at once."""
        self._refusal = None
        self._workers.append(worker)
        self._give_back(worker)

    def remove(self, worker: W) -> None:
        """Lease a worker to nobody any more. Who has it keeps it to the end of the lease."""
        self._workers.remove(worker)
        if worker in self._idle:
            self._idle.remove(worker)
        self._match()  # whoever avoids the only one left gets it

    def refuse(self, error: InvsrError) -> None:
        """Let nobody wait any more, until a worker comes; `error` says why there is none."""
        self._refusal = error
        while self._waiting:
            waiter = heapq.heappop(self._waiting)[-1]
            if not waiter.future.done():
                waiter.future.set_exception(error)

    def pause(self) -> None:
        """Lease no worker until `resume`; those that are leased go on."""
        self._paused = True

    def resume(self) -> None:
        """Lease workers again."""
        self._paused = False
        self._match()

    @asynccontextmanager
    async def lease(self, priority: Priority = (), avoid: Collection[str] = ()) -> AsyncIterator[W]:
        """A worker; lower priorities come first. `avoid`: rather none on these devices."""
        worker = await self._leased(priority, avoid)
        try:
            yield worker
        finally:
            self._give_back(worker)

    async def _leased(self, priority: Priority, avoid: Collection[str]) -> W:
        if self._refusal is not None:
            raise self._refusal
        waiter = _Waiter[W](asyncio.get_running_loop().create_future(), avoid)
        heapq.heappush(self._waiting, (priority, next(self._asked), waiter))
        self._match()
        try:
            return await waiter.future
        except asyncio.CancelledError:
            # It may have been handed over in this very moment.
            if waiter.future.done() and not waiter.future.cancelled() and not waiter.future.exception():
                self._give_back(waiter.future.result())
            raise

    def _give_back(self, worker: W) -> None:
        if worker in self._workers:  # it may have been removed meanwhile
            self._idle.append(worker)
            self._match()

    def _match(self) -> None:
        """Hand idle workers to whoever waits, the first in line first."""
        passed: list[tuple[Priority, int, _Waiter[W]]] = []
        while self._idle and self._waiting and not self._paused:
            entry = heapq.heappop(self._waiting)
            waiter = entry[-1]
            if waiter.future.done():  # cancelled while it waited
                continue
            fitting = [w for w in self._idle if self._suits(w, waiter)]
            if not fitting:
                passed.append(entry)
                continue
            self._idle.remove(fitting[0])
            waiter.future.set_result(fitting[0])
        for entry in passed:
            heapq.heappush(self._waiting, entry)

    def _suits(self, worker: W, waiter: _Waiter[W]) -> bool:
        others = any(each.device not in waiter.avoid for each in self._workers)
        return not others or worker.device not in waiter.avoid
