"""Opening files from strangers: once, whatever their names lead to by then.

A name can be made to lead elsewhere between two looks. So a file is opened once, no link is followed, and
what was opened is compared with what was found before. All else goes by the descriptor.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import InputError, UnreadableError
from ..records import Identity
from .identities import identity_of

CHANGED = "it was changed while it was being restored"
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_PASS = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def opened(path: Path, identity: Identity | None = None, below: Path | None = None) -> Iterator[int]:
    """A descriptor of a regular file with something in it.

    `identity`: it must be this very file. `below`: a folder from which on no folder of the path may be
    a link. Raises InputError, UnreadableError.
    """
    descriptor = _open(path, below)
    try:
        found = check_regular(descriptor)
        if identity is not None and not found.matches(identity):
            raise InputError(CHANGED)
        yield descriptor
    finally:
        os.close(descriptor)


def check_regular(descriptor: int) -> Identity:
    """Which file is open. InputError if it is no regular one, or empty."""
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        raise InputError("it is not a regular file")
    if found.st_size == 0:
        raise InputError("it is empty (zero bytes)")
    return identity_of(descriptor)


def _open(path: Path, below: Path | None) -> int:
    try:
        if below is None or not path.is_relative_to(below):
            return os.open(path, _READ)
        return _open_below(below, path.relative_to(below))
    except FileNotFoundError as error:
        raise InputError("there is no such file") from error
    except PermissionError as error:
        raise UnreadableError(
            "this user may not read it, or a folder above it: see chmod and chgrp"
        ) from error
    except OSError as error:
        why = "it is a symbolic link" if error.errno == errno.ELOOP else error.strerror
        raise InputError(f"it cannot be opened: {why}") from error


def _open_below(root: Path, relative: Path) -> int:
    """Folder by folder, none of them a link. Raises OSError."""
    folder = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in relative.parts[:-1]:
            inner = os.open(name, _PASS, dir_fd=folder)
            os.close(folder)
            folder = inner
        return os.open(relative.name, _READ, dir_fd=folder)
    finally:
        os.close(folder)
