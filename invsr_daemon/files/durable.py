"""Files that outlive a power cut: synced before they get their name, and the name synced too."""

from __future__ import annotations

import errno
import os
from pathlib import Path

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


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
