"""What is left to do when a job has ended: the sidecar, the original, a note of what failed.

Everything here may be done again after a crash: it looks at what is there and does what is missing.
"""

from __future__ import annotations

import errno
import filecmp
import hashlib
import json
import logging
import os
import shutil
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from itertools import chain, count
from pathlib import Path

from .. import __version__, hub
from ..errors import InvsrError, OutputExistsError
from ..files.durable import sync
from ..files.publishing import Collision, PublishPolicy, clear, explained, publish
from ..records import Identity
from ..settings.settings import Settings
from ..store.rows import JobRow
from ..store.store import REPLACED
from .intake import publish_policy, thaw

log = logging.getLogger(__name__)

NOTE_SUFFIX = ".error.txt"
SIDECAR_SUFFIX = ".json"
LARGEST_OF_OURS = 2**20  # bytes of a note or sidecar: a larger file is none
GONE = "it is no longer there"


def tidy(row: JobRow, now: Settings) -> None:
    """Do what the job's settings ask for after it is done or has failed; `now`: the daemon's of this moment.

    Raises OutputError or ResourceError; the result itself is safe by then.
    """
    settings = thaw(row.settings, now)
    if row.state == "done" and row.output is not None:
        if settings.results.sidecar:
            _write_sidecar(row, settings, row.output)
        _remove_note(row.source)
        _dispose(row, settings)
    elif row.state == "failed" and still_the_same(row):
        _lay_aside(row, settings)


def _lay_aside(row: JobRow, settings: Settings) -> None:
    """What failed gets its note, then goes: cut off anywhere, this can be done again."""
    place = row.source
    if settings.failures.move_to is not None:
        place = copy_to(row.source, settings.failures.move_to.absolute() / row.relative)
    if settings.failures.note:
        _write_note(row, place)
    if place != row.source:
        _remove_original(row)


def still_the_same(row: JobRow) -> bool:
    """Whether the file that was accepted still has its name."""
    try:
        return Identity.of(os.lstat(row.source)) == row.identity
    except OSError:
        return False


def _dispose(row: JobRow, settings: Settings) -> None:
    after = settings.originals.after
    if after == "keep":
        return
    if not still_the_same(row):
        log.info("%s has changed or gone since: left alone", row.source)
        return
    if after == "archive" and settings.originals.archive is not None:
        copy_to(row.source, settings.originals.archive.absolute() / row.relative)
    _remove_original(row)


def copy_to(source: Path, target: Path) -> Path:
    """Have a file under another name too, numbered if that is taken; a link where one is possible.

    Nothing is ever replaced, and what an earlier call has made is found again. The new path. Raises
    OutputError, DiskFullError.
    """
    key = hashlib.sha256(os.fsencode(source)).hexdigest()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for name in chain([target], (target.with_stem(f"{target.stem} ({n})") for n in count(2))):
            try:
                os.link(source, name)
            except FileExistsError:
                if not _is_copy(source, name):
                    continue
            clear(target, key)
            sync(name.parent)
            return name
    except OSError as error:
        if error.errno in (errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
            copied = publish(target, key, PublishPolicy("suffix"), lambda partial: _copy(source, partial))
            return Path(copied.output)
        raise explained(error, target.parent) from error
    raise AssertionError("unreachable: the names never end")


def _is_copy(source: Path, other: Path) -> bool:
    """Whether it is the same file, or one with the same content that was copied with its times."""
    here, there = os.lstat(source), os.lstat(other)
    if os.path.samestat(here, there):
        return True
    alike = (here.st_mode, here.st_size, here.st_mtime_ns) == (
        there.st_mode,
        there.st_size,
        there.st_mtime_ns,
    )
    return alike and filecmp.cmp(source, other, shallow=False)


def _remove_original(row: JobRow) -> None:
    """Remove it, but not what took its place while it was copied, which may take long."""
    if not still_the_same(row):
        log.warning("%s: %s meanwhile: that is left alone", row.source, REPLACED)
        return
    row.source.unlink()
    sync(row.source.parent)


def _copy(source: Path, partial: Path) -> None:
    shutil.copy2(source, partial)


def _note_of(source: Path) -> Path:
    return source.with_name(source.name + NOTE_SUFFIX)


def _write_note(row: JobRow, place: Path) -> None:
    when = datetime.fromtimestamp(row.ended or 0, UTC).astimezone().isoformat(timespec="seconds")
    again = f"`invsr-daemon retry {row.id}` tries again"
    if place != row.source:
        again = f"once it is back at {row.source}, {again}"
    lines = [
        _heading(place),
        "",
        f"{row.reason}",
        "",
        f"Job {row.id}, {when}, after {row.attempts} attempt(s). `invsr-daemon jobs show {row.id}` tells",
        f"more; {again}. A changed file is taken up by itself.",
        "",
    ]
    _put(_note_of(place), "\n".join(lines).encode(errors="surrogateescape"), PublishPolicy(), _is_note)


def _heading(place: Path) -> str:
    return f"{place.name} could not be restored."


def _is_note(path: Path) -> bool:
    """Whether a file is one that this program wrote about the one beside it."""
    about = path.with_name(path.name.removesuffix(NOTE_SUFFIX))
    return _content(path).startswith(os.fsencode(_heading(about)))


def _remove_note(source: Path) -> None:
    """What an earlier attempt left beside it, now that one has succeeded."""
    note = _note_of(source)
    if _is_note(note):
        with suppress(OSError):
            note.unlink()


def _write_sidecar(row: JobRow, settings: Settings, output: Path) -> None:
    if not still_the_same(row):
        log.info("%s has changed or gone since: its result gets no sidecar", row.source)
        return
    model_dir = hub.resolve(settings.model, settings.models_dir)
    with row.source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    described = {
        "source": {"path": str(row.relative), "size": row.identity.size, "sha256": digest},
        "result": {"path": output.name, "frames": row.frames},
        "model": {"name": settings.model, "fingerprint": hub.fingerprint(model_dir)},
        "settings": json.loads(row.settings),
        "seed": settings.seed,
        "seconds": None if row.started is None or row.ended is None else round(row.ended - row.started, 3),
        "notes": row.reason.splitlines() if row.reason else [],
        "job": row.id,
        "version": __version__,
    }
    content = json.dumps(described, indent=2).encode() + b"\n"
    _put(output.with_name(output.name + SIDECAR_SUFFIX), content, publish_policy(settings), _is_sidecar)


def _is_sidecar(path: Path) -> bool:
    """Whether a file is one that this program wrote about the result beside it."""
    try:
        told = json.loads(_content(path))
        return bool(told["result"]["path"] == path.name.removesuffix(SIDECAR_SUFFIX) and told["job"])
    except (ValueError, LookupError, TypeError, RecursionError):
        return False


def _content(path: Path) -> bytes:
    """What a file holds that may be a note or a sidecar; nothing for any other."""
    with suppress(OSError):
        found = path.lstat()
        if stat.S_ISREG(found.st_mode) and found.st_size <= LARGEST_OF_OURS:  # a FIFO would be waited for
            return path.read_bytes()
    return b""


def _put(path: Path, content: bytes, how: PublishPolicy, is_ours: Callable[[Path], bool]) -> None:
    """Write a file beside another one. An earlier one of ours is replaced, anything else left alone."""
    key = hashlib.sha256(os.fsencode(path)).hexdigest()
    collision: Collision = "overwrite" if is_ours(path) else "fail"
    try:
        publish(path, key, replace(how, collision=collision), lambda partial: _fill(partial, content))
    except OutputExistsError:
        log.warning("%s is not written: another file has that name", path)


def _fill(partial: Path, content: bytes) -> None:
    partial.write_bytes(content)


def tidy_up(row: JobRow, now: Settings) -> str | None:
    """`tidy`; the reason if it could not be done."""
    try:
        tidy(row, now)
    except InvsrError as error:
        return str(error)
    except OSError as error:
        return f"{row.source} cannot be moved or removed: {error.strerror}"
    return None
