"""The folders of the inbox: read step by step, without following links."""

from __future__ import annotations

import errno
import fnmatch
import logging
import os
import re
import stat
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from ...files.folders import OPEN_FOLDER
from ...files.identities import identity_in
from ...records import Identity
from .arrivals import FolderId, Watching

log = logging.getLogger(__name__)

DEEPEST = 64  # folders inside folders

# What opening a folder says that was removed, or replaced by a file or by a link, meanwhile.
GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


class Tree:
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
                sweep.found[path] = identity_in(descriptor, name, found)
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
                found.add(folder_id_of(folder.stat()))
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
            if folder_id_of(os.fstat(descriptor)) in sweep.excluded:
                raise _ExcludedError
        yield descriptor
    finally:
        os.close(descriptor)


def _open_folder(name: str, outer: int) -> int:
    return os.open(name, OPEN_FOLDER, dir_fd=outer)


def folder_id_of(found: os.stat_result) -> FolderId:
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
