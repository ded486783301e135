"""The inbox folder: which files have arrived in it, and lie still.

Scans of the whole folder, at the start and again and again, are the truth. inotify's events (by way of
watchdog) only say where to look before the next scan: they get lost in bursts and in `cp -r`, and are
not sent at all for what other machines do on a network file system.

A file is ready when its inode, size and time of change have stayed the same for the settling
time, on the monotonic clock. Only regular files count, reached without a symbolic link below the
inbox; every path is walked folder by folder with O_NOFOLLOW. Whoever opens an arrival later compares
the identity of what was opened with the arrival's.
"""

from __future__ import annotations

import asyncio
import errno
import fnmatch
import logging
import os
import re
import stat
import threading
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from watchdog.events import (
    DirCreatedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers.api import EventDispatcher
from watchdog.observers.inotify import InotifyObserver
from watchdog.utils import BaseThread

from .records import Identity

log = logging.getLogger(__name__)

# On these, other machines' or processes' changes send no events here; and every `fuse.*`.
# fmt: off
REMOTE_FILE_SYSTEMS = frozenset({
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse", "fuseblk", "9p", "virtiofs", "ceph", "afs", "lustre",
    "gpfs", "beegfs", "ocfs2", "gfs2", "orangefs", "vboxsf", "prl_fs", "vmhgfs",
})
# fmt: on
POLL_SECONDS = 10.0  # the longest time between scans where there are no events
CHECK_SECONDS = 2.0  # how often to see whether the folder and its observer are still the same
LOOKS_PER_SETTLING = 4
SHORTEST_WAIT, LONGEST_WAIT = 0.05, 5.0  # between two looks at what is settling
DEEPEST = 64  # folders inside folders
SLICE = 500  # sightings between two turns of the event loop
# Not "modified": a slow writer would send floods of it, and what is settling is looked at anyway.
HINTS: list[type[FileSystemEvent]] = [
    FileCreatedEvent,
    FileClosedEvent,
    FileMovedEvent,
    DirCreatedEvent,
    DirMovedEvent,
]

# What opening a folder says that was removed, or replaced by a file or by a link, meanwhile.
GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})

FolderId = tuple[int, int]  # device and inode


@dataclass(frozen=True)
class Watching:
    """Which folder to watch, and how.

    `ignore` are shell patterns, matched against the name and against the path relative to `root`, of
    files and of folders (`*` matches slashes too). `excluded` folders are never entered. `polling`
    None means: wherever the kind of file system needs it.
    """

    root: Path
    settle_seconds: float
    rescan_seconds: float
    polling: bool | None = None
    ignore: tuple[str, ...] = ()
    excluded: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Arrival:
    """A regular file that lies still. `path` is absolute, without symbolic links below the inbox."""

    path: Path
    relative: Path
    identity: Identity


@dataclass(frozen=True)
class Status:
    """How the watching goes. `scanned` is the time of the last whole scan on the monotonic clock."""

    watching: Literal["inotify", "polling"]
    scanned: float | None
    settling: int
    problem: str | None


class Settling:
    """Which files have stayed the same for long enough. Paths are relative to the inbox.

    Each identity of a path is reported once. `known` says of an identity seen for the first time
    whether it was dealt with earlier, perhaps in an earlier run, and need not be reported at all.
    """

    def __init__(self, settle_seconds: float, known: Callable[[str, Identity], bool]) -> None:
        self._settle_seconds = settle_seconds
        self._known = known
        self._moving: dict[str, tuple[Identity, float]] = {}
        self._settled: dict[str, Identity] = {}

    def observe(self, path: str, identity: Identity, began: float, ended: float) -> bool:
        """Whether the file is ready, after a look at it between two times of a clock that never goes back.

        Quiet is counted from the end of the first look to the beginning of this one: never too long.
        """
        if self._settled.get(path) == identity:
            self._moving.pop(path, None)
            return False
        first, since = self._moving.get(path, (None, ended))
        if first != identity:
            if self._known(path, identity):
                self._settle(path, identity)
            else:
                self._moving[path] = identity, ended
            return False
        if began - since < self._settle_seconds:
            return False
        self._settle(path, identity)
        return True

    def _settle(self, path: str, identity: Identity) -> None:
        self._moving.pop(path, None)
        self._settled[path] = identity

    def forget(self, path: str) -> None:
        """The file is gone."""
        self._moving.pop(path, None)
        self._settled.pop(path, None)

    def forget_all_but(self, paths: Collection[str]) -> None:
        """Only these are still there."""
        for path in (self._moving.keys() | self._settled.keys()).difference(paths):
            self.forget(path)

    def moving(self) -> set[str]:
        """What was seen and is not ready."""
        return set(self._moving)


def is_remote(mountinfo: str, path: str) -> bool:
    """Whether a path without symbolic links lies where events cannot be relied on.

    `mountinfo` is the text of /proc/self/mountinfo: see proc_pid_mountinfo(5).
    """
    deepest, file_system = "", ""
    for line in mountinfo.strip("\n").split("\n"):
        fields, _, rest = line.partition(" - ")
        mount_point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields.split(" ")[4])
        # Of mounts on the same folder the last one hides the others.
        if len(mount_point) >= len(deepest) and f"{path}/".startswith(mount_point.rstrip("/") + "/"):
            deepest, file_system = mount_point, rest.split(" ")[0]
    return file_system in REMOTE_FILE_SYSTEMS or file_system.startswith("fuse.")


class _Hints(FileSystemEventHandler):
    """Passes on where something happened, relative to the folder that is watched."""

    def __init__(self, folder: str, hint: Callable[[str], None]) -> None:
        self._prefix = os.path.join(folder, "")
        self._hint = hint

    def on_any_event(self, event: FileSystemEvent) -> None:
        path = os.fsdecode(event.dest_path or event.src_path)
        if path.startswith(self._prefix):
            self._hint(path.removeprefix(self._prefix))


class _Observer:
    """watchdog's threads on one folder. Raises OSError if inotify does not let it watch."""

    def __init__(self, folder: str, hint: Callable[[str], None]) -> None:
        # Its errors are races while it stops, its warnings tell of lost events: the scans mend both.
        logging.getLogger("watchdog").setLevel(logging.CRITICAL)
        others = _watchdog_threads()
        self._observer = InotifyObserver()
        try:
            self._observer.schedule(_Hints(folder, hint), folder, recursive=True, event_filter=HINTS)
            self._observer.start()
        except OSError:
            self._observer.stop()
            raise
        self._threads = _watchdog_threads() - others

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


class _Watcher:
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

    def tend(self, folder: FolderId) -> bool:
        """See to it that the inbox, which is this folder, is watched. Whether it was not until now."""
        died = self._observer is not None and not self._observer.is_well()
        if folder == self._folder and not died:
            return False
        if died:
            log.warning("the observer of the inbox died: a new one takes over")
        elif self._folder is not None:
            log.warning("the inbox %s was replaced by another folder: watching that", _shown(self._watching))
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
        if is_remote(_mountinfo(), folder) if polling is None else polling:
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


def _mountinfo() -> str:
    return os.fsdecode(Path("/proc/self/mountinfo").read_bytes())


def _inotify_reason(error: OSError) -> str:
    limits = {errno.ENOSPC: "fs.inotify.max_user_watches", errno.EMFILE: "fs.inotify.max_user_instances"}
    limit = limits.get(error.errno or 0)
    return f"{error.strerror}; raise the sysctl {limit}" if limit else str(error.strerror)


def _shown(watching: Watching) -> str:
    return repr(str(watching.root))


class _Tree:
    """Looks at the files below an opened folder, never through a symbolic link."""

    def __init__(self, watching: Watching, closing: threading.Event) -> None:
        # (?!) matches nothing
        self._ignored = re.compile("|".join(map(fnmatch.translate, watching.ignore)) or "(?!)")
        self._excluded = watching.excluded
        self._closing = closing
        self._complaints: dict[str, str] = {}

    def scan(self, root: int) -> dict[str, Identity]:
        """Every regular file. What is skipped is logged once, for as long as it stays."""
        sweep = _Sweep(root, self._excluded_now(), {}, {})
        self._walk(sweep, "")
        self._complain(sweep.complaints)
        self._complaints = sweep.complaints
        return sweep.found

    def look(self, root: int, paths: Iterable[str]) -> dict[str, Identity]:
        """Those of these that are regular files, and all files of those that are folders."""
        sweep = _Sweep(root, self._excluded_now(), {}, {})
        for folder, names in _by_folder(paths).items():
            if folder.count("/") < DEEPEST and not any(map(self._ignores, _prefixes(folder))):
                for inner in self._enter(sweep, folder, names):
                    self._walk(sweep, inner)
        self._complain(sweep.complaints)
        self._complaints |= sweep.complaints
        return sweep.found

    def _walk(self, sweep: _Sweep, folder: str) -> None:
        folders = [folder]
        while folders and not self._closing.is_set():
            folders += self._enter(sweep, folders.pop(), None)

    def _enter(self, sweep: _Sweep, folder: str, names: Iterable[str] | None) -> list[str]:
        """Note the files of a folder (all, or those with these names); return its folders."""
        try:
            with _opened(sweep, folder) as descriptor:
                if names is None:
                    with os.scandir(descriptor) as entries:
                        return self._sort(sweep, folder, descriptor, (entry.name for entry in entries))
                return self._sort(sweep, folder, descriptor, names)
        except _ExcludedError:
            return []
        except OSError as error:
            if not folder:
                raise
            if error.errno not in GONE:
                sweep.complaints[folder] = f"the folder cannot be read: {error.strerror}"
            return []

    def _sort(self, sweep: _Sweep, folder: str, descriptor: int, names: Iterable[str]) -> list[str]:
        folders = []
        for name in names:
            path = f"{folder}/{name}" if folder else name
            if self._ignores(path):
                continue
            try:
                found = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
            except FileNotFoundError:
                continue
            except OSError as error:
                sweep.complaints[path] = f"it cannot be looked at: {error.strerror}"
                continue
            if stat.S_ISREG(found.st_mode):
                sweep.found[path] = Identity.of(found)
            elif not stat.S_ISDIR(found.st_mode):
                sweep.complaints[path] = f"it is {_kind(found.st_mode)}, not a regular file"
            elif path.count("/") >= DEEPEST:
                sweep.complaints[path] = f"it is more than {DEEPEST} folders deep"
            else:
                folders.append(path)
        return folders

    def _ignores(self, path: str) -> bool:
        return bool(self._ignored.match(path) or self._ignored.match(path.rpartition("/")[2]))

    def _excluded_now(self) -> frozenset[FolderId]:
        """By device and inode: another spelling or a bind mount is the same folder."""
        found = set()
        for folder in self._excluded:
            with suppress(OSError):  # it is not there: then it cannot be entered either
                found.add(_folder_id(folder.stat()))
        return frozenset(found)

    def _complain(self, complaints: dict[str, str]) -> None:
        for path, why in complaints.items():
            if self._complaints.get(path) != why:
                log.warning("in the inbox %r is skipped: %s", path, why)


@dataclass(frozen=True)
class _Sweep:
    """One look around, and what it found."""

    root: int
    excluded: frozenset[FolderId]
    found: dict[str, Identity]
    complaints: dict[str, str]


class _ExcludedError(Exception):
    """A path leads into an excluded folder."""


@contextmanager
def _opened(sweep: _Sweep, folder: str) -> Iterator[int]:
    """A folder below the root, entered step by step. Raises OSError, ELOOP for a link."""
    descriptor = _open_folder(".", sweep.root)
    try:
        for name in folder.split("/") if folder else ():
            outer, descriptor = descriptor, _open_folder(name, descriptor)
            os.close(outer)
            if _folder_id(os.fstat(descriptor)) in sweep.excluded:
                raise _ExcludedError
        yield descriptor
    finally:
        os.close(descriptor)


def _open_folder(name: str, outer: int) -> int:
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=outer)


def _folder_id(found: os.stat_result) -> FolderId:
    return found.st_dev, found.st_ino


def _by_folder(paths: Iterable[str]) -> dict[str, list[str]]:
    names: defaultdict[str, list[str]] = defaultdict(list)
    for path in paths:
        folder, _, name = path.rpartition("/")
        names[folder].append(name)
    return names


def _prefixes(folder: str) -> Iterator[str]:
    """The folder itself and all that hold it, but the root."""
    while folder:
        yield folder
        folder = folder.rpartition("/")[0]


def _kind(mode: int) -> str:
    kinds = {stat.S_IFLNK: "a symbolic link", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


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
        self._tree = _Tree(watching, self._closing)
        self._watcher = _Watcher(watching, hint)
        self._absent: str | None = None

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
        if self._watcher.tend(_folder_id(os.fstat(root))):
            paths = None  # watched first, scanned afterwards: nothing falls in between
        began = time.monotonic()
        found = self._tree.scan(root) if paths is None else self._tree.look(root, paths)
        return _Look(began, time.monotonic(), found, paths is None)

    def _missed(self, error: OSError) -> None:
        self._watcher.stop()
        absent = f"the inbox {_shown(self._watching)} cannot be read: {error.strerror}"
        if absent != self._absent:
            log.warning("%s; waiting for it", absent)
        self._absent = absent

    def _found(self) -> None:
        if self._absent is not None:
            log.info("the inbox %s is there again", _shown(self._watching))
        self._absent = None

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
    def status(self) -> Status:
        watching: Literal["inotify", "polling"] = "inotify" if self._lookout.hears else "polling"
        return Status(watching, self._scanned, len(self._settling.moving()), self._lookout.problem)

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
        ready = []
        for number, (path, identity) in enumerate(look.found.items()):
            if self._settling.observe(path, identity, look.began, look.ended):
                ready.append(self._arrival(path, identity))
            if number % SLICE == SLICE - 1:
                await asyncio.sleep(0)
        return ready

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
