"""The store, on a thread of its own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from ..errors import ResourceError
from ..store.store import Store
from .gate import PAUSE_SECONDS, Gate, Hold

T = TypeVar("T")

log = logging.getLogger(__name__)


class Ledger:
    """The store, on a thread of its own: a slow disk must not hold up the event loop."""

    def __init__(self, path: Path, gate: Gate, stopping: asyncio.Event) -> None:
        self._path = path
        self._gate = gate
        self._stopping = stopping
        self._thread = ThreadPoolExecutor(1, "store")
        self._store: Store | None = None

    async def open(self) -> None:
        """Raises StoreError, ResourceError."""
        self._store = await self._run(lambda: Store.open(self._path))

    async def close(self) -> None:
        await self.call(Store.close)
        self._thread.shutdown()

    async def call(self, question: Callable[[Store], T]) -> T:
        """What the store answers. Raises StoreError, ResourceError."""
        store = self._store
        assert store is not None
        return await self._run(lambda: question(store))

    async def write(self, change: Callable[[Store], T]) -> T:
        """Write down what must not be lost: again and again, as long as the disk is full or busy.

        Raises ResourceError if the daemon stops meanwhile: the next start finds what was not written down.
        """
        while True:
            try:
                return await self.call(change)
            except ResourceError as error:
                if self._stopping.is_set():
                    raise
                self._gate.block(Hold.after(error))
                await asyncio.sleep(PAUSE_SECONDS)

    def note(self, change: Callable[[Store], None]) -> None:
        """Write something down soon, in the order of calls; the next plan finds again what is lost."""
        store = self._store
        assert store is not None
        self._thread.submit(change, store).add_done_callback(_complain)

    async def _run(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)


def _complain(done: Future[None]) -> None:
    error = done.exception()
    if error is not None:
        log.warning("a step could not be written down: %s", error)
