"""Forgetting jobs that ended long ago: their logs, their pieces, and in the end that there were any."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from . import logs
from .intake import room_of
from .runner import clear_room
from .store import JobRow

KEY = "[0-9a-f]" * 32  # how work folders and notes are named


def forget_loose(state_dir: Path, before: float) -> None:
    """Remove what `process` keeps and has not used since: pieces of interrupted runs, notes of results.

    What is kept of the daemon's jobs lies in rooms of its own, and is the daemon's.
    """
    for work in state_dir.glob(f"work/{KEY}"):
        if _older(work, before):
            _remove_unused(work)
    for note in state_dir.glob(f"done/{KEY}.json"):
        if _older(note, before):
            with suppress(OSError):  # another day
                note.unlink()


def _older(path: Path, before: float) -> bool:
    try:
        return path.stat().st_mtime < before
    except OSError:  # it has gone
        return False


def _remove_unused(work: Path) -> None:
    with suppress(OSError), (work / "lock").open("a") as lock:  # a process that works there holds it
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(work, ignore_errors=True)


def forgettable(state_dir: Path, rows: Sequence[JobRow]) -> list[int]:
    """Remove what is kept of these jobs; the ids of those whose record may go, too.

    A file that still lies in the inbox needs its record: it would be taken for a new one.
    """
    for row in rows:
        clear_room(state_dir, room_of(row.id))
        logs.remove(state_dir, row.id)
    return [row.id for row in rows if not os.path.lexists(row.source)]
