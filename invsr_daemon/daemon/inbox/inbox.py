"""The inbox folder: which files have arrived in it, and lie still.

Scans of the whole folder, at the start and again and again, are the truth. inotify's events (by way of
watchdog) only say where to look before the next scan: they get lost in bursts and in `cp -r`, and are
not sent at all for what other machines do on a network file system.

A file is ready when its identity has stayed the same for the settling time, on the monotonic clock, and
nobody has it open for writing, as far as that can be known. Only regular files count, reached without a
symbolic link below the inbox; every path is walked folder by folder with O_NOFOLLOW. Whoever opens an
arrival later compares the identity of what was opened with the arrival's.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from ...files.folders import Place
from ...files.writers import has_writer
from ...logs import printable
from ...records import Identity
from .arrivals import Arrival, InboxStatus, Watching
from .observing import Watcher, shown_root
from .scanning import Tree, folder_id_of
from .settling import Settling

log = logging.getLogger(__name__)

POLL_SECONDS = 10.0  # the longest time between scans where there are no events
CHECK_SECONDS = 2.0  # how often to see whether the folder and its observer are still the same
LOOKS_PER_SETTLING = 4
SHORTEST_WAIT, LONGEST_WAIT = 0.05, 5.0  # between two looks at what is settling
LONGEST_HELD_SECONDS = 600.0
WRITTEN = "someone is writing to it"
SLICE = 500  # sightings between two turns of the event loop


@dataclass(frozen=True)
class _Look:
    """What was there between two times. `whole`: it was a scan of everything."""

    began: float
    ended: float
    found: dict[str, Identity]
    whole: bool


class _Lookout:
    """All that touches the file system. Its calls come from one thread, which may hang with a mount."""

    def __init__(self, watching: Watching, hint: Callable[[str], None]) -> None:
        self._watching = watching
        self._closing = threading.Event()
        self._tree = Tree(watching, self._closing)
        self._watcher = Watcher(watching, hint)
        self._absent: str | None = None
        self._held: dict[str, float] = {}  # since when, by events alone

    @property
    def hears(self) -> bool:
        return self._watcher.hears

    @property
    def problem(self) -> str | None:
        return self._absent or self._watcher.problem

    def look(self, paths: Collection[str] | None) -> _Look | None:
        """Look at these paths, or, for None or if the folder is a new one, at all. None: it is not there."""
        try:
            look = self._look(paths)
        except OSError as error:
            self._missed(error)
            return None
        self._found()
        return look

    def _look(self, paths: Collection[str] | None) -> _Look:
        root = os.open(self._watching.root, os.O_RDONLY | os.O_DIRECTORY | os.O_NONBLOCK)
        try:
            return self._look_below(root, paths)
        finally:
            os.close(root)

    def _look_below(self, root: int, paths: Collection[str] | None) -> _Look:
        if paths is None:
            self._watcher.retry()
        if self._watcher.tend(folder_id_of(os.fstat(root))):
            paths = None  # watched first, scanned afterwards: nothing falls in between
        began = time.monotonic()
        found = self._tree.scan(root) if paths is None else self._tree.look(root, paths)
        return _Look(began, time.monotonic(), found, paths is None)

    def _missed(self, error: OSError) -> None:
        self._watcher.stop()
        absent = f"the inbox {shown_root(self._watching)} cannot be read: {error.strerror}"
        if absent != self._absent:
            log.warning("%s; waiting for it", absent)
        self._absent = absent

    def _found(self) -> None:
        if self._absent is not None:
            log.info("the inbox %s is there again", shown_root(self._watching))
        self._absent = None

    def written(self, paths: Collection[str]) -> frozenset[str]:
        """Those of these files that someone has open for writing, as far as that can be known."""
        written = frozenset(path for path in paths if self._is_written(path))
        self._held = {path: since for path, since in self._held.items() if path in written}
        return written

    def _is_written(self, path: str) -> bool:
        try:
            with Place(self._watching.root, Path(path)).opened() as descriptor:
                told = has_writer(descriptor)
        except BlockingIOError:  # someone has an exclusive lease on it
            return True
        except OSError:  # gone, or not to be read: whoever opens it next will say so
            return False
        return self._is_held(path) if told is None else told

    def _is_held(self, path: str) -> bool:
        """Whether events alone tell of a writer. They get lost at times, so nobody waits for one for ever."""
        if not self._watcher.heard_no_end_of(path):
            return False
        since = self._held.setdefault(path, time.monotonic())
        return time.monotonic() < since + LONGEST_HELD_SECONDS

    def hurry(self) -> None:
        """Break off a scan under way. From any thread."""
        self._closing.set()

    def close(self) -> None:
        self._watcher.stop()


def _nothing_known(arrival: Arrival) -> bool:
    return False


class Inbox:
    """Watches one folder for as long as its context lasts, and tells of files that arrived and lie still.

    `known` is asked, on the event loop's thread, about every identity that is new to this object.
    """

    def __init__(self, watching: Watching, known: Callable[[Arrival], bool] = _nothing_known) -> None:
        self._watching = watching
        self._settling = Settling(
            watching.settle_seconds, lambda path, identity: known(self._arrival(path, identity))
        )
        self._lookout = _Lookout(watching, self._hint_from_thread)
        self._thread = ThreadPoolExecutor(1, "inbox")
        self._hints: set[str] = set()
        self._hinted = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._looked = time.monotonic()
        self._scanned: float | None = None
        self._written: frozenset[str] = frozenset()

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._loop is not None
        self._lookout.hurry()
        closed = self._loop.run_in_executor(self._thread, self._lookout.close)
        try:
            await asyncio.shield(closed)  # being cancelled once more must not leave threads behind
        finally:
            self._thread.shutdown()

    @property
    def status(self) -> InboxStatus:
        watching: Literal["inotify", "polling"] = "inotify" if self._lookout.hears else "polling"
        moving = self._settling.moving()
        problem = self._lookout.problem
        return InboxStatus(watching, self._scanned, len(moving), problem, self._written & moving)

    async def arrivals(self) -> AsyncIterator[list[Arrival]]:
        """Files that became ready, in batches, for ever. One reader at a time."""
        while True:
            batch = await self._look()
            if batch:
                yield batch
            await self._until_due()

    async def _look(self) -> list[Arrival]:
        assert self._loop is not None
        hints, self._hints = self._hints, set()
        self._hinted.clear()
        paths = None if self._scan_is_due() else self._settling.moving() | hints
        look = await self._loop.run_in_executor(self._thread, self._lookout.look, paths)
        self._looked = time.monotonic()
        return [] if look is None else await self._take_in(look, paths or ())

    async def _take_in(self, look: _Look, asked: Collection[str]) -> list[Arrival]:
        if look.whole:
            self._scanned = look.ended
            self._settling.forget_all_but(look.found)
        for path in asked:
            if path not in look.found:
                self._settling.forget(path)
        ready = {}
        for number, (path, identity) in enumerate(look.found.items()):
            if self._settling.observe(path, identity, look.began, look.ended):
                ready[path] = identity
            if number % SLICE == SLICE - 1:
                await asyncio.sleep(0)
        await self._hold_written(ready)
        return [self._arrival(path, identity) for path, identity in ready.items()]

    async def _hold_written(self, ready: dict[str, Identity]) -> None:
        """Keep files that someone is writing to from what is ready, and say so."""
        if not ready:
            return
        assert self._loop is not None
        written = await self._loop.run_in_executor(self._thread, self._lookout.written, tuple(ready))
        for path in written:
            self._settling.hold(path, ready.pop(path))
        waiting = self._written & self._settling.moving()
        for path in sorted(written - waiting):
            log.info("%s waits: %s", printable(path), WRITTEN)
        self._written = waiting | written

    async def _until_due(self) -> None:
        """Wait for a hint or the next thing to do; then for some time to have gone by since the last look."""
        pause = min(max(self._watching.settle_seconds / LOOKS_PER_SETTLING, SHORTEST_WAIT), LONGEST_WAIT)
        if not self._settling.moving():
            idle = min(CHECK_SECONDS, self._watching.rescan_seconds)
            with suppress(TimeoutError):
                async with asyncio.timeout(idle):  # Python 3.11's wait_for may swallow a cancellation
                    await self._hinted.wait()
        await asyncio.sleep(self._looked + pause - time.monotonic())

    def _scan_is_due(self) -> bool:
        every = self._watching.rescan_seconds
        if not self._lookout.hears:
            every = min(every, POLL_SECONDS)
        return self._scanned is None or time.monotonic() >= self._scanned + every

    def _arrival(self, path: str, identity: Identity) -> Arrival:
        return Arrival(self._watching.root.absolute() / path, Path(path), identity)

    def _hint_from_thread(self, path: str) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._hint, path)

    def _hint(self, path: str) -> None:
        self._hints.add(path)
        self._hinted.set()
