"""Checksums of finished pieces: what a disk has damaged since is computed again, not joined.

Beside each piece lies its seal: `chunk-000004.nut.sha256` holds the SHA-256 of the file as it was finished,
and below it notes of what the worker had to do without, a line each.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from ..files.durable import attempt_at
from ..files.publishing import explaining
from ..records import Task

log = logging.getLogger(__name__)

SUFFIX = ".sha256"


def seal(piece: Path, notes: Iterable[str] = ()) -> None:
    """Note what a finished piece holds. Raises ResourceError or OutputError if that cannot be written."""
    attempt = attempt_at(_seal_of(piece))
    with explaining(piece.parent):
        attempt.write_text("\n".join([_digest(piece), *notes]))
        os.replace(attempt, _seal_of(piece))


def seal_rest(tasks: Iterable[Task]) -> None:
    """Seal finished pieces that have no seal yet: a run may have been killed just before it wrote one."""
    for piece in _finished(tasks):
        if not _seal_of(piece).exists():
            seal(piece)


def remove_damaged(tasks: Iterable[Task]) -> int:
    """Remove finished pieces that do not hold what they held when they were sealed; how many there were."""
    damaged = [piece for piece in _finished(tasks) if not _is_whole(piece)]
    for piece in damaged:
        log.warning("%s has changed since it was finished, and is computed again: is its disk well?", piece)
        with explaining(piece.parent):
            piece.unlink()
            _seal_of(piece).unlink(missing_ok=True)
    return len(damaged)


def notes_of(tasks: Iterable[Task]) -> tuple[str, ...]:
    """What workers had to do without for these pieces, as far as they are sealed; each note once."""
    notes: dict[str, None] = {}
    for piece in _finished(tasks):
        with suppress(OSError, UnicodeDecodeError):  # a piece with such a seal is computed again
            notes.update(dict.fromkeys(_seal_of(piece).read_text().splitlines()[1:]))
    return tuple(notes)


def _finished(tasks: Iterable[Task]) -> list[Path]:
    return [task.output for task in tasks if task.output.exists()]


def _seal_of(piece: Path) -> Path:
    return piece.with_name(piece.name + SUFFIX)


def _is_whole(piece: Path) -> bool:
    """Whether it can be read and holds what its seal says."""
    try:
        return _digest(piece) == _seal_of(piece).read_text().partition("\n")[0]
    except (OSError, UnicodeDecodeError):  # of the disk: the piece is computed again
        return False


def _digest(piece: Path) -> str:
    with piece.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
