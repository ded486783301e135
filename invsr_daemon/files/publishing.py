"""Publishing: a result appears under its name only whole, and never over something unasked."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import BinaryIO, Literal

from ..errors import DiskFullError, InvsrError, NoRoomError, OutputError, OutputExistsError, UnwritableError
from .durable import DISK_FULL
from .folders import Folder, HeldFile, Place

Collision = Literal["fail", "suffix", "overwrite"]

# The name is at fault, not the folder: no later attempt will go better.
LONGEST_NAME = 255  # bytes, on Linux
LASTING = frozenset({errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL})


@dataclass(frozen=True)
class PublishPolicy:
    """How results are published: what happens if a name is taken, and what a result's inode carries.

    `owner` is (uid, gid), -1 for what stays as it is; `mode` are permission bits.
    """

    collision: Collision = "fail"
    mode: int | None = None
    owner: tuple[int, int] | None = None


@dataclass(frozen=True)
class Imprint:
    """A published file, or one about to be: what tells it from any other under the same name."""

    output: str
    device: int
    inode: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, found: os.stat_result, output: Path) -> Imprint:
        return cls(str(output), found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)

    def lies_there(self) -> bool:
        """Whether the output's name belongs to this very file."""
        output = Path(self.output)
        try:
            return Imprint.of(output.lstat(), output) == self
        except OSError:
            return False


class HiddenFile:
    """A file beside a result's place, hidden until it gets the result's name.

    Its name depends on `key` alone, so that a run after a crash takes it up and leaves no litter. It is made
    anew, and from then on only its descriptor counts: whatever strangers do to its name, nothing else is
    written to, and nothing else gets the result's name.

    `open` and `finish` may still run on a thread when `discard` is called: then what is open is closed at
    their end.
    """

    def __init__(self, place: Place, key: str) -> None:
        self.place = place
        self._name = f".{place.relative.stem[:48]}.{key[:16]}.part"
        self._folder: Folder | None = None
        self._descriptor: int | None = None
        self._guard = threading.Lock()
        self._in_use = False
        self._discarded = False

    @property
    def name(self) -> str:
        return self._name

    @property
    def descriptor(self) -> int:
        assert self._descriptor is not None, "it is open"
        return self._descriptor

    @property
    def held(self) -> HeldFile:
        """What another process needs to write to it."""
        return HeldFile.of(self.place.named(self._name), self.descriptor)

    def open(self, mode: int | None = None) -> None:
        """Make it, empty, and its folder if that is not there; `mode`: the one it is to have in the end.

        Raises OutputError if there can be no such file, UnwritableError, DiskFullError.
        """
        with self._used(), explaining(self.place.path.parent):
            self._folder = self.place.open_folder(make=True)
            with suppress(FileNotFoundError):
                self._folder.remove(self._name)
            # Nobody may open it for more than he may in the end; this user may all the time.
            at_first = 0o666 if mode is None else mode & 0o666 | 0o600
            self._descriptor = self._folder.create(self._name, at_first)

    def finish(self, policy: PublishPolicy, announce: Callable[[Imprint], None]) -> Imprint:
        """Give it the result's name, durably: see `publish`."""
        with self._used(), explaining(self.place.path.parent):
            _dress(self.descriptor, policy)
            os.fsync(self.descriptor)
            imprint = self._named(policy.collision, announce)
            self._open_folder.sync()
        return imprint

    @property
    def _open_folder(self) -> Folder:
        assert self._folder is not None, "it is open"
        return self._folder

    def _named(self, collision: Collision, announce: Callable[[Imprint], None]) -> Imprint:
        folder, found = self._open_folder, os.fstat(self.descriptor)
        for name in names_for(self.place.relative, collision):
            imprint = Imprint.of(found, self.place.path.with_name(name))
            announce(imprint)
            if collision == "overwrite":
                folder.replace(self._name, name)
            elif not self._name_new(name):
                continue
            if not os.path.samestat(folder.stat(name), found):
                raise OSError(errno.ESTALE, f"another file has just got the name {name}")
            return imprint
        raise _taken(self.place.path)

    def _name_new(self, name: str) -> bool:
        """Whether the name was free. link() fails where rename() replaces; not every file system has it."""
        try:
            self._open_folder.link(self.descriptor, name)
        except FileExistsError:
            return False
        except FileNotFoundError:  # somebody has removed it
            raise
        except OSError:
            return self._rename_new(name)
        return True

    def _rename_new(self, name: str) -> bool:
        try:
            self._open_folder.rename(self._name, name)
        except FileExistsError:
            return False
        return True

    def discard(self) -> None:
        """Remove it: it has the result's name, or will not get it."""
        with self._guard:
            self._discarded = True
            if self._in_use:
                self._remove()
            else:
                self._close()

    @contextmanager
    def _used(self) -> Iterator[None]:
        with self._guard:
            self._in_use = True
        try:
            yield
        finally:
            with self._guard:
                self._in_use = False
                if self._discarded:
                    self._close()

    def _close(self) -> None:
        self._remove()
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        if self._folder is not None:
            self._folder.close()
            self._folder = None

    def _remove(self) -> None:
        if self._folder is not None:
            with suppress(OSError):  # gone already: no reason to hide an error before
                self._folder.remove(self._name)


def publish(
    place: Place,
    key: str,
    policy: PublishPolicy,
    write: Callable[[BinaryIO], None],
    announce: Callable[[Imprint], None] = lambda imprint: None,
) -> Imprint:
    """Have `write` fill a hidden file in the target's folder, then give it its name; the published file.

    `announce` hears of a name before it is given: whoever notes that durably can recognise the file after a
    crash.

    Raises OutputExistsError if the name is taken, OutputError if there can be no such name,
    UnwritableError, DiskFullError.
    """
    hidden = HiddenFile(place, key)
    try:
        hidden.open(policy.mode)
        with explaining(place.path.parent), open(hidden.descriptor, "wb", closefd=False) as file:
            write(file)
        return hidden.finish(policy, announce)
    finally:
        hidden.discard()


def clear(place: Place, key: str) -> None:
    """Remove what a run that was killed may have left of a hidden file."""
    with suppress(OSError), place.open_folder() as folder:  # there is none, or its folder is gone
        folder.remove(HiddenFile(place, key).name)


def obstacle(folder: Path, least_free: int) -> str | None:
    """Why nothing should be written to a folder now, if so; it need not be there yet."""
    try:
        return unwritable(folder) or too_little_space(folder, least_free)
    except OSError as error:
        return f"{_nearest(folder)} cannot be looked at: {error.strerror}"


def unwritable(folder: Path) -> str | None:
    """Why a folder, or the nearest one above that is there, cannot be written to, if so."""
    there = _nearest(folder)
    try:
        if not there.is_dir():
            return f"{there} is not a folder"
        if not os.access(there, os.W_OK | os.X_OK):
            return f"{there} cannot be written to"
    except OSError as error:
        return f"{there} cannot be looked at: {error.strerror}"
    return None


def too_little_space(folder: Path, least_free: int) -> str | None:
    """How little is free on a folder's disk, if that is less; the folder need not be there yet.

    Raises OSError.
    """
    free = free_bytes(folder)
    if free is not None and free < least_free:
        return f"{free >> 20} MiB free in {folder}, less than limits.min_free_space"
    return None


def free_bytes(folder: Path) -> int | None:
    """What is free on a folder's disk; None if that does not tell. The folder need not be there yet.

    Raises OSError.
    """
    total, _, free = shutil.disk_usage(_nearest(folder))
    return free if total else None


def require_room(folder: Path, needed: int) -> None:
    """Raise NoRoomError if less than these bytes is free on a folder's disk. Raises OSError."""
    free = free_bytes(folder)
    if free is not None and free < needed:
        raise NoRoomError(folder, needed, free)


def _nearest(folder: Path) -> Path:
    """The folder itself, or the nearest one above that is there."""
    return next(each for each in (folder, *folder.parents) if os.path.lexists(each))


def check_free(place: Place, collision: Collision) -> None:
    """Raise OutputExistsError early if the name is taken and that is not provided for."""
    if collision == "fail" and os.path.lexists(place.path):
        raise _taken(place.path)


def check_writable(place: Place, key: str) -> None:
    """Try a result's folder with an empty hidden file, before anything is computed for it.

    Raises OutputError, UnwritableError, DiskFullError.
    """
    hidden = HiddenFile(place, key)
    try:
        hidden.open()
        with explaining(place.path.parent), suppress(FileNotFoundError):
            place.path.lstat()  # a name that is too long
    finally:
        hidden.discard()


def _taken(final: Path) -> OutputExistsError:
    return OutputExistsError(f"{final} is already there, and it was not asked to be replaced")


def _dress(descriptor: int, policy: PublishPolicy) -> None:
    if policy.owner is not None:
        try:
            os.fchown(descriptor, *policy.owner)
        except PermissionError as error:
            raise OutputError(
                "results.owner: this user may not give files to another (see docs/operations.md)"
            ) from error
    if policy.mode is not None:
        os.fchmod(descriptor, policy.mode)


def names_for(final: Path, collision: Collision) -> Iterator[str]:
    """film.mp4, then film (2).mp4, film (3).mp4 and so on, if asked for; long ones are shortened."""
    further = (_fitting(final.stem, f" ({number}){final.suffix}") for number in count(2))
    return chain([final.name], further if collision == "suffix" else ())


def _fitting(stem: str, end: str) -> str:
    """A name that file systems take: whole characters of the stem go until it does."""
    while len(os.fsencode(stem + end)) > LONGEST_NAME:
        stem = stem[:-1]
    return stem + end


@contextmanager
def explaining(folder: Path) -> Iterator[None]:
    """Errors of the file system inside the block are about writing into a folder: see `explained`."""
    try:
        yield
    except OSError as error:
        raise explained(error, folder) from error


def explained(error: OSError, folder: Path) -> InvsrError:
    """What an error while writing into a folder means."""
    if error.errno in DISK_FULL:
        return DiskFullError(f"the disk of {folder} is full")
    kind = OutputError if error.errno in LASTING else UnwritableError
    return kind(f"{folder} cannot be written to: {error.strerror}")
