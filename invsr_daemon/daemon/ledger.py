"""The store, on a thread of its own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from ..store.store import Store

T = TypeVar("T")

log = logging.getLogger(__name__)


class Records:
    """The store, on a thread of its own: a slow disk must not hold up the event loop."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, "store")
        self._store: Store | None = None

    async def open(self) -> None:
        """Raises StoreError, ResourceError."""
        self._store = await self._run(lambda: Store.open(self._path))

    async def close(self) -> None:
        await self.call(Store.close)
        self._thread.shutdown()

    async def call(self, question: Callable[[Store], T]) -> T:
        """What the store answers."""
        store = self._store
        assert store is not None
        return await self._run(lambda: question(store))

    def note(self, change: Callable[[Store], None]) -> None:
        """Write something down soon, in the order of calls; what is lost is found again by the next plan."""
        store = self._store
        assert store is not None
        self._thread.submit(change, store).add_done_callback(_complain)

    async def _run(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)


def _complain(done: object) -> None:
    error = done.exception()  # type: ignore[attr-defined] # a Future; its class is generic only in stubs
    if error is not None:
        log.warning("a step could not be written down: %s", error)
