"""Files that outlive a power cut: synced before they get their name, and the name synced too."""

from __future__ import annotations

import errno
import os
import secrets
from contextlib import suppress
from pathlib import Path

from .folders import Folder

ATTEMPT_SUFFIX = ".partial"
DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
# The disk, its server or its mount fails: that may pass.
DISK_FAILS = frozenset(
    {
        *(errno.EIO, errno.EREMOTEIO, errno.EROFS, errno.ESTALE, errno.ENODEV, errno.ENXIO),
        *(errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH),
    }
)


def sync(path: Path) -> None:
    """Make a file's content, or a folder's names, durable. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_rename(partial: Path, final: Path) -> None:
    """Make `partial` durable, then give it its name, durably. Raises OSError."""
    sync(partial)
    os.replace(partial, final)
    sync(final.parent)


def attempt_at(final: Path) -> Path:
    """A name beside `final` for this attempt alone: two processes never write into one file."""
    return final.with_name(f".{final.name}.{secrets.token_hex(8)}{ATTEMPT_SUFFIX}")


def finish_attempt(attempt: Path, final: Path) -> None:
    """Make an attempt's file durable, then give it its name, durably. Raises OSError.

    If another attempt was first, its file keeps the name and this one goes.
    """
    sync(attempt)
    link_new(attempt, final)
    attempt.unlink(missing_ok=True)
    sync(final.parent)


def remove_attempts(folder: Path) -> None:
    """Remove what attempts left that were killed. None may be under way."""
    for attempt in folder.glob(f".*{ATTEMPT_SUFFIX}"):
        with suppress(OSError):  # it costs space, no more
            attempt.unlink()


def link_new(path: Path, final: Path) -> bool:
    """Give a file a name in its folder that nothing has; whether it was free. Raises OSError.

    On a file system without hard links the file is renamed.
    """
    try:
        os.link(path, final)
    except FileExistsError:
        return False
    except OSError:
        return _rename_new(path, final)
    return True


def _rename_new(path: Path, final: Path) -> bool:
    with Folder.at(final.parent) as folder:
        try:
            folder.rename(path.name, final.name)
        except FileExistsError:
            return False
    return True
