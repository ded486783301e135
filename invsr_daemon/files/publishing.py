"""Publishing: a result appears under its name only whole, and never over something unasked."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Literal

from ..errors import DiskFullError, InvsrError, OutputError, OutputExistsError, UnwritableError
from .durable import DISK_FULL, link_new, sync

Collision = Literal["fail", "suffix", "overwrite"]

# The name is at fault, not the folder: no later attempt will go better.
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
    def of(cls, partial: Path, output: Path) -> Imprint:
        found = partial.stat()
        return cls(str(output), found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)

    def lies_there(self) -> bool:
        """Whether the output's name belongs to this very file."""
        try:
            return Imprint.of(Path(self.output), Path(self.output)) == self
        except OSError:
            return False


def publish(
    final: Path,
    key: str,
    policy: PublishPolicy,
    write: Callable[[Path], None],
    announce: Callable[[Imprint], None] = lambda imprint: None,
) -> Imprint:
    """Have `write` fill a hidden file in the target's folder, then give it its name; the published file.

    The hidden file's name depends on `key` alone, so that a run after a crash takes it up and leaves no
    litter. `announce` hears of a name before it is given: whoever notes that durably can recognise the
    file after a crash.

    Raises OutputExistsError if the name is taken, OutputError if there can be no such name,
    UnwritableError, DiskFullError.
    """
    partial = begin(final, key)
    try:
        with explaining(final.parent):
            write(partial)
        return finish(partial, final, policy, announce)
    finally:
        clear(final, key)


def begin(final: Path, key: str) -> Path:
    """The hidden file to fill for a result, not there yet, in a folder that is there."""
    partial = _partial(final, key)
    with explaining(final.parent):
        final.parent.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)
    return partial


def finish(partial: Path, final: Path, policy: PublishPolicy, announce: Callable[[Imprint], None]) -> Imprint:
    """Give a filled file its name, durably: see `publish`."""
    with explaining(final.parent):
        _dress(partial, policy)
        sync(partial)
        imprint = _named(partial, final, policy.collision, announce)
        sync(final.parent)
    return imprint


def _partial(final: Path, key: str) -> Path:
    return final.with_name(f".{final.stem[:48]}.{key[:16]}.part")


def clear(final: Path, key: str) -> None:
    """Remove the hidden file: of a result that has its name, or of one that will not get it."""
    with suppress(OSError):  # gone already, or its folder is: no reason to hide an error before
        _partial(final, key).unlink()


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
    total, _, free = shutil.disk_usage(_nearest(folder))
    if total and free < least_free:
        return f"{free >> 20} MiB free in {folder}, less than limits.min_free_space"
    return None


def _nearest(folder: Path) -> Path:
    """The folder itself, or the nearest one above that is there."""
    return next(each for each in (folder, *folder.parents) if os.path.lexists(each))


def check_free(final: Path, collision: Collision) -> None:
    """Raise OutputExistsError early if the name is taken and that is not provided for."""
    if collision == "fail" and os.path.lexists(final):
        raise _taken(final)


def check_writable(final: Path, key: str) -> None:
    """Try a result's folder with an empty hidden file, before anything is computed for it.

    Raises OutputError, UnwritableError, DiskFullError.
    """
    partial = begin(final, key)
    try:
        with explaining(final.parent):
            partial.touch()
            with suppress(FileNotFoundError):
                final.lstat()  # a name that is too long
    finally:
        clear(final, key)


def _taken(final: Path) -> OutputExistsError:
    return OutputExistsError(f"{final} is already there, and it was not asked to be replaced")


def _dress(partial: Path, policy: PublishPolicy) -> None:
    if policy.owner is not None:
        try:
            os.chown(partial, *policy.owner)
        except PermissionError as error:
            raise OutputError(
                "results.owner: this user may not give files to another (see docs/operations.md)"
            ) from error
    if policy.mode is not None:
        partial.chmod(policy.mode)


def _named(partial: Path, final: Path, collision: Collision, announce: Callable[[Imprint], None]) -> Imprint:
    if collision == "overwrite":
        imprint = Imprint.of(partial, final)
        announce(imprint)
        os.replace(partial, final)
        return imprint
    for name in _names(final, collision):
        imprint = Imprint.of(partial, name)
        announce(imprint)
        if link_new(partial, name):
            return imprint
    raise _taken(final)


def _names(final: Path, collision: Collision) -> Iterator[Path]:
    """film.mp4, then film (2).mp4, film (3).mp4 and so on, if asked for."""
    further = (final.with_stem(f"{final.stem} ({number})") for number in count(2))
    return chain([final], further if collision == "suffix" else ())


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
