"""Files that look like others, and which file is which."""

from __future__ import annotations

import os
from pathlib import Path

from invsr_daemon.files.identities import identity_of
from invsr_daemon.records import Identity

MOST_TRIES = 1000


def identity_at(path: Path) -> Identity:
    """Of the file that has a path."""
    descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW)
    try:
        return identity_of(descriptor)
    finally:
        os.close(descriptor)


def replace_alike(path: Path, content: bytes) -> None:
    """Remove a file, and put another one there of the same inode and times: as rm and cp -p may do it.

    The content must be as long. AssertionError where the file system gives no inode again.
    """
    before = path.stat()
    assert len(content) == before.st_size
    path.unlink()
    kept = []
    for number in range(MOST_TRIES):
        path.write_bytes(content)
        if path.stat().st_ino == before.st_ino:
            break
        kept.append(path.rename(path.with_name(f".{number}")))
    for other in kept:
        other.unlink()
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    found = path.stat()
    assert (found.st_ino, found.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
