"""What is watched, and what has arrived."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ...records import Identity

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
class InboxStatus:
    """How the watching goes. `scanned` is the time of the last whole scan on the monotonic clock.

    `written`: files, relative to the inbox, that lie still, but that someone has open for writing.
    """

    watching: Literal["inotify", "polling"]
    scanned: float | None
    settling: int
    problem: str | None
    written: frozenset[str] = frozenset()
