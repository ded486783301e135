"""Events of the inbox's file system. They are hints: the inbox is also read again now and then."""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

from watchdog.events import (
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileClosedNoWriteEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileMovedEvent,
    FileOpenedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers.api import EventDispatcher
from watchdog.observers.inotify import InotifyObserver
from watchdog.utils import BaseThread

from ...files.mounts import is_remote
from .arrivals import FolderId, Watching

log = logging.getLogger(__name__)

# Not "modified": a slow writer would send floods of it, and what is settling is looked at anyway.
HINTS: list[type[FileSystemEvent]] = [
    FileCreatedEvent,
    FileClosedEvent,
    FileMovedEvent,
    DirCreatedEvent,
    DirMovedEvent,
]
HEARD: list[type[FileSystemEvent]] = [
    *HINTS,
    FileOpenedEvent,
    FileClosedNoWriteEvent,
    FileDeletedEvent,
    DirDeletedEvent,
]


class Writers:
    """New files whose writers have not closed them yet, as far as events tell.

    A file that appears and is opened then has a writer. One that is linked or moved there is opened by
    readers alone, who close it without having written.
    """

    def __init__(self) -> None:
        self._opened: dict[str, int] = {}  # how often each new file is open

    def hear(self, event: FileSystemEvent) -> None:
        path = os.fsdecode(event.src_path)
        if isinstance(event, FileCreatedEvent):
            self._opened[path] = 0
        elif isinstance(event, FileOpenedEvent) and path in self._opened:
            self._opened[path] += 1
        elif isinstance(event, FileClosedNoWriteEvent) and path in self._opened:
            self._opened[path] = max(0, self._opened[path] - 1)
        elif isinstance(event, (FileClosedEvent, FileMovedEvent, FileDeletedEvent)):
            self._opened.pop(path, None)
        elif isinstance(event, (DirMovedEvent, DirDeletedEvent)):
            below = os.path.join(path, "")
            self._opened = {each: times for each, times in self._opened.items() if not each.startswith(below)}

    def has(self, path: str) -> bool:
        return self._opened.get(path, 0) > 0


class _Hints(FileSystemEventHandler):
    """Passes on where something happened, relative to the folder that is watched, and who writes there."""

    def __init__(self, folder: str, hint: Callable[[str], None], writers: Writers) -> None:
        self._prefix = os.path.join(folder, "")
        self._hint = hint
        self._writers = writers

    def on_any_event(self, event: FileSystemEvent) -> None:
        self._writers.hear(event)
        path = os.fsdecode(event.dest_path or event.src_path)
        if isinstance(event, tuple(HINTS)) and path.startswith(self._prefix):
            self._hint(path.removeprefix(self._prefix))


class _Observer:
    """watchdog's threads on one folder. Raises OSError if inotify does not let it watch."""

    def __init__(self, folder: str, hint: Callable[[str], None]) -> None:
        # Its errors are races while it stops, its warnings tell of lost events: the scans mend both.
        logging.getLogger("watchdog").setLevel(logging.CRITICAL)
        others = _watchdog_threads()
        self._folder = folder
        self._writers = Writers()
        self._observer = InotifyObserver()
        try:
            hints = _Hints(folder, hint, self._writers)
            self._observer.schedule(hints, folder, recursive=True, event_filter=HEARD)
            self._observer.start()
        except OSError:
            self._observer.stop()
            raise
        self._threads = _watchdog_threads() - others

    def heard_no_end_of(self, path: str) -> bool:
        """Whether a new file, relative to the folder, was opened and not closed after writing."""
        return self._writers.has(os.path.join(self._folder, path))

    def is_well(self) -> bool:
        """One dead thread is enough to make it deaf, and only some of them are known to watchdog."""
        return all(thread.is_alive() for thread in self._threads)

    def stop(self) -> None:
        try:
            self._observer.stop()
        except KeyError:
            self._abandon()
        self._observer.join()

    def _abandon(self) -> None:
        """Finish what watchdog 7.1 stops halfway.

        It mislays a folder that was moved away, made anew and removed, and then its stop() raises
        KeyError. Its emitter cannot be woken any more: that one sleeps on until the process ends.
        """
        for thread in self._threads - {self._observer, *self._observer.emitters}:
            thread.stop()
        self._observer.event_queue.put(EventDispatcher.stop_event)


def _watchdog_threads() -> set[BaseThread]:
    return {thread for thread in threading.enumerate() if isinstance(thread, BaseThread)}


class Watcher:
    """Keeps an observer on the folder that has the inbox's name just now."""

    def __init__(self, watching: Watching, hint: Callable[[str], None]) -> None:
        self._watching = watching
        self._hint = hint
        self._folder: FolderId | None = None
        self._observer: _Observer | None = None
        self.problem: str | None = None

    @property
    def hears(self) -> bool:
        return self._observer is not None

    def heard_no_end_of(self, path: str) -> bool:
        """Whether events tell that someone still writes to a new file, relative to the inbox."""
        return self._observer is not None and self._observer.heard_no_end_of(path)

    def tend(self, folder: FolderId) -> bool:
        """See to it that the inbox, which is this folder, is watched. Whether it was not until now."""
        died = self._observer is not None and not self._observer.is_well()
        if folder == self._folder and not died:
            return False
        if died:
            log.warning("the observer of the inbox died: a new one takes over")
        elif self._folder is not None:
            log.warning(
                "the inbox %s was replaced by another folder: watching that", shown_root(self._watching)
            )
        self.stop()
        self._folder = folder
        self._start()
        return True

    def retry(self) -> None:
        """Start the observer if it could not be started before."""
        if self.problem is not None:
            self._start()

    def stop(self) -> None:
        self._folder = None
        if self._observer is not None:
            self._observer.stop()
            self._observer = None

    def _start(self) -> None:
        folder = os.path.realpath(self._watching.root)  # a link itself would be watched as a link
        polling = self._watching.polling
        if is_remote(Path(folder)) if polling is None else polling:
            self.problem = None
            return
        try:
            self._observer = _Observer(folder, self._hint)
        except OSError as error:
            problem = f"inotify cannot watch the inbox, so it is polled: {_inotify_reason(error)}"
            if problem != self.problem:
                log.warning("%s", problem)
            self.problem = problem
        else:
            self.problem = None


def _inotify_reason(error: OSError) -> str:
    limits = {errno.ENOSPC: "fs.inotify.max_user_watches", errno.EMFILE: "fs.inotify.max_user_instances"}
    limit = limits.get(error.errno or 0)
    return f"{error.strerror}; raise the sysctl {limit}" if limit else str(error.strerror)


def shown_root(watching: Watching) -> str:
    return repr(str(watching.root))
