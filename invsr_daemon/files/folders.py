"""Folders that strangers may write to: walked step by step, never through a link, acted in by descriptor.

Whoever may write to a folder may exchange any name in it at any time, so what a name was found to be says
nothing about what it is a moment later. An open folder stays that folder, an open file that file: everything
here acts relative to the one and on the other.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK
# What renameat2() says where the kernel or the file system does not know its flag.
NO_FLAGS = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})
RENAME_NOREPLACE = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


class Folder:
    """An open folder. Its methods take names in it, never paths; they follow no link. All raise OSError."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def at(cls, path: Path) -> Self:
        """A folder by its path, whose every part is trusted: links are followed."""
        return cls(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NONBLOCK))

    def inner(self, name: str) -> Folder:
        """A folder in this one."""
        try:
            return Folder(os.open(name, OPEN_FOLDER, dir_fd=self._descriptor))
        except NotADirectoryError:
            if stat.S_ISLNK(self.stat(name).st_mode):
                why = f"{name} is a symbolic link, which is not followed"
                raise OSError(errno.ELOOP, why) from None
            raise

    def make(self, name: str) -> None:
        """Make a folder in this one, if nothing has the name."""
        with suppress(FileExistsError):
            os.mkdir(name, dir_fd=self._descriptor)

    def stat(self, name: str) -> os.stat_result:
        return os.stat(name, dir_fd=self._descriptor, follow_symlinks=False)

    @contextmanager
    def opened(self, name: str, flags: int = os.O_RDONLY) -> Iterator[int]:
        """A descriptor of what is there; a FIFO is not waited for."""
        descriptor = os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=self._descriptor)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def create(self, name: str, mode: int = 0o666) -> int:
        """A descriptor of a new, empty file of ours; the umask takes from its mode."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        return os.open(name, flags, mode, dir_fd=self._descriptor)

    def remove(self, name: str) -> None:
        os.unlink(name, dir_fd=self._descriptor)

    def link(self, descriptor: int, name: str) -> None:
        """Give an open file a further name, which nothing has. Raises FileExistsError."""
        os.link(path_of(descriptor), name, dst_dir_fd=self._descriptor)

    def replace(self, name: str, final: str) -> None:
        """Give what has a name another one, and that one's file none."""
        os.replace(name, final, src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)

    def rename(self, name: str, final: str) -> None:
        """Give what has a name another one, which nothing has. Raises FileExistsError."""
        try:
            self._rename_no_replace(name, final)
        except OSError as error:
            if error.errno not in NO_FLAGS:
                raise
            self._rename_over_placeholder(name, final)

    def _rename_no_replace(self, name: str, final: str) -> None:
        rename = getattr(_LIBC, "renameat2", None)
        if rename is None:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        sys.audit("os.rename", name, final, self._descriptor, self._descriptor)
        here, names = self._descriptor, (os.fsencode(name), os.fsencode(final))
        if rename(here, names[0], here, names[1], ctypes.c_uint(RENAME_NOREPLACE)):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), final)

    def _rename_over_placeholder(self, name: str, final: str) -> None:
        """An empty file takes the name for us alone, for the moment until it is replaced."""
        os.close(self.create(final))
        self.replace(name, final)

    def sync(self) -> None:
        """Make the names in it durable."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True)
class Place:
    """Where a file lies or is to lie. `root` and all above is trusted; below it no link is followed."""

    root: Path
    relative: Path

    @classmethod
    def of(cls, path: Path) -> Place:
        """The place of a path whose folder is trusted."""
        return cls(path.parent, Path(path.name))

    @classmethod
    def below(cls, path: Path, depth: int) -> Place:
        """The place of a path that is so many names, at least one, longer than its root's."""
        root = path.parents[depth - 1]
        return cls(root, path.relative_to(root))

    @property
    def path(self) -> Path:
        return self.root / self.relative

    @property
    def name(self) -> str:
        return self.relative.name

    def named(self, name: str) -> Place:
        """Another name in the same folder."""
        return Place(self.root, self.relative.with_name(name))

    def open_folder(self, *, make: bool = False) -> Folder:
        """The folder that it lies in; made, with all above, if asked. Raises OSError, ELOOP for a link."""
        if make:
            self.root.mkdir(parents=True, exist_ok=True)
        folder = Folder.at(self.root)
        for name in self.relative.parts[:-1]:
            with folder:
                if make:
                    folder.make(name)
                folder = folder.inner(name)
        return folder

    @contextmanager
    def opened(self, flags: int = os.O_RDONLY) -> Iterator[int]:
        """A descriptor of what lies there. Raises OSError."""
        with self.open_folder() as folder, folder.opened(self.name, flags) as descriptor:
            yield descriptor


@dataclass(frozen=True)
class HeldFile:
    """A file that another process made and holds open: where it lies, and which one it is."""

    place: Place
    device: int
    inode: int

    @classmethod
    def of(cls, place: Place, descriptor: int) -> HeldFile:
        found = os.fstat(descriptor)
        return cls(place, found.st_dev, found.st_ino)

    @contextmanager
    def opened(self) -> Iterator[int]:
        """A descriptor of this very file, for reading and writing. Raises OSError."""
        with self.place.opened(os.O_RDWR) as descriptor:
            found = os.fstat(descriptor)
            if (found.st_dev, found.st_ino) != (self.device, self.inode):
                raise OSError(errno.ESTALE, "the hidden file was exchanged for another one")
            yield descriptor


def path_of(descriptor: int) -> str:
    """A path by which this process reaches an open file, whatever its names are."""
    return f"/proc/self/fd/{descriptor}"
