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
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from .. import __version__, hub
from ..errors import InUseError, InvsrError, OutputError, OutputExistsError
from ..files.folders import Folder, Place, path_of
from ..files.identities import identity_of
from ..files.publishing import Collision, PublishPolicy, clear, explaining, names_for, publish
from ..files.writers import writers_kept_out
from ..logs import printable
from ..settings.settings import Settings
from ..store.rows import JobRow
from ..store.store import REPLACED
from .intake import publish_policy, thaw

log = logging.getLogger(__name__)

NOTE_SUFFIX = ".error.txt"
SIDECAR_SUFFIX = ".json"
LARGEST_OF_OURS = 2**20  # bytes of a note or sidecar: a larger file is none
BLOCK = 2**20  # bytes
PERMISSIONS = 0o777
ACCESS_LIST = "system.posix_acl_access"
# What link() says between file systems, on those without hard links, and of files that are not ours.
NO_LINK_POSSIBLE = frozenset({errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS})
GONE = "it is no longer there"


def tidy(row: JobRow, now: Settings) -> None:
    """Do what the job's settings ask for after it is done or has failed; `now`: the daemon's of this moment.

    Raises InUseError if the original has to wait for a writer, OutputError or ResourceError; the result is
    safe by then.
    """
    settings = thaw(row.settings, now)
    if row.state == "done" and row.output is not None:
        if settings.results.sidecar:
            _write_sidecar(row, settings, place_of_result(row.output, row))
        _remove_note(place_of_original(row))
        _dispose(row, settings)
    elif row.state == "failed" and still_the_same(row):
        _lay_aside(row, settings)


def place_of_original(row: JobRow) -> Place:
    """Where the original lies; below the inbox no link is followed."""
    return Place.below(row.source, len(row.relative.parts))


def place_of_result(output: Path, row: JobRow) -> Place:
    """Where the result lies; below the outbox no link is followed."""
    return Place.below(output, len(row.relative.parts))


def _lay_aside(row: JobRow, settings: Settings) -> None:
    """What failed gets its note, then goes: cut off anywhere, this can be done again."""
    original = place_of_original(row)
    place = original
    if settings.failures.move_to is not None:
        target = Place(settings.failures.move_to.absolute(), row.relative)
        with _opened_original(row) as source:
            _require_no_writer(source, row)
            place = copy_to(source, original.path, target)
    if settings.failures.note:
        _write_note(row, place)
    if place != original:
        _remove_original(row)


def still_the_same(row: JobRow) -> bool:
    """Whether the file that was accepted still has its name."""
    try:
        with place_of_original(row).opened(os.O_PATH) as found:
            return _is_original(found, row)
    except OSError:
        return False


def _is_original(found: int, row: JobRow) -> bool:
    return stat.S_ISREG(os.fstat(found).st_mode) and identity_of(found).matches(row.identity)


@contextmanager
def _opened_original(row: JobRow) -> Iterator[int]:
    """The original, open as a name that cannot be exchanged: it need not be readable.

    Raises OutputError if it is not the same any more.
    """
    with place_of_original(row).opened(os.O_PATH) as source:
        if not _is_original(source, row):
            raise OutputError(f"{row.source}: {REPLACED} meanwhile: that is left alone")
        yield source


def _dispose(row: JobRow, settings: Settings) -> None:
    after = settings.originals.after
    if after == "keep":
        return
    if not still_the_same(row):
        log.info("%s has changed or gone since: left alone", row.source)
        return
    if after == "archive" and settings.originals.archive is not None:
        with _opened_original(row) as source:
            _require_no_writer(source, row)
            copy_to(source, row.source, Place(settings.originals.archive.absolute(), row.relative))
    _remove_original(row)


def copy_to(source: int, path: Path, target: Place) -> Place:
    """Have an open file under another name too, numbered if that is taken; a link where one is possible.

    Nothing is ever replaced, and what an earlier call has made is found again: its mark is `path`, where the
    file lies. The new place. Raises OutputError, DiskFullError.
    """
    key = hashlib.sha256(os.fsencode(path)).hexdigest()
    with explaining(target.path.parent), target.open_folder(make=True) as folder:
        try:
            name = _linked(source, folder, target.relative)
        except OSError as error:
            if error.errno not in NO_LINK_POSSIBLE:
                raise
        else:
            clear(target, key)
            folder.sync()
            return target.named(name)
    copied = publish(target, key, PublishPolicy("suffix"), lambda file: _copy(source, file))
    return target.named(Path(copied.output).name)


def _linked(source: int, folder: Folder, wanted: Path) -> str:
    """The name, one that was free or its own already, under which an open file lies in a folder, too."""
    for name in names_for(wanted, "suffix"):
        try:
            folder.link(source, name)
        except FileExistsError:
            if not _is_copy(source, folder, name):
                continue
        return name
    raise AssertionError("unreachable: the names never end")


def _is_copy(source: int, folder: Folder, name: str) -> bool:
    """Whether it is the same file, or one with the same content that was copied with its times."""
    with folder.opened(name, os.O_PATH) as other:
        here, there = os.fstat(source), os.fstat(other)
        if os.path.samestat(here, there):
            return True
        alike = _marks(here) == _marks(there) and stat.S_ISREG(there.st_mode)
        return alike and filecmp.cmp(path_of(source), path_of(other), shallow=False)


def _marks(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_mode & PERMISSIONS, found.st_size, found.st_mtime_ns


def _remove_original(row: JobRow) -> None:
    """Remove it, but not what took its place while it was copied, which may take long.

    Nobody can begin to write to it meanwhile, where that can be prevented. Raises InUseError.
    """
    place = place_of_original(row)
    with place.open_folder() as folder:
        try:
            with folder.opened(place.name, os.O_PATH) as found, _no_writer(found, row):
                removed = _is_original(found, row) and os.path.samestat(
                    folder.stat(place.name), os.fstat(found)
                )
                if removed:
                    folder.remove(place.name)
        except FileNotFoundError:
            removed = False
        if not removed:
            log.warning("%s: %s meanwhile: that is left alone", row.source, REPLACED)
            return
        folder.sync()


@contextmanager
def _no_writer(source: int, row: JobRow) -> Iterator[None]:
    """As long as this lasts, nobody can begin to write to an open file. Raises InUseError if someone has."""
    with ExitStack() as stack:
        if stat.S_ISREG(os.fstat(source).st_mode):
            with suppress(OSError):  # this user may not read it: then nothing is known of writers either
                readable = os.open(path_of(source), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                stack.callback(os.close, readable)
                if stack.enter_context(writers_kept_out(readable)) is False:
                    raise InUseError(f"{row.source} stays as long as someone has it open for writing")
        yield


def _require_no_writer(source: int, row: JobRow) -> None:
    """Raises InUseError."""
    with _no_writer(source, row):
        pass


def _copy(source: int, file: BinaryIO) -> None:
    """Content, attributes, permissions, times; but no right to run as the owner, who is another one now."""
    target = file.fileno()
    with open(path_of(source), "rb") as original:
        shutil.copyfileobj(original, file, BLOCK)
    file.flush()
    _copy_attributes(path_of(source), target)
    found = os.fstat(source)
    os.fchmod(target, found.st_mode & PERMISSIONS)
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))


def _copy_attributes(source: str, target: int) -> None:
    """Those of users, and the access list: where the other file system has them."""
    with suppress(OSError):
        for name in os.listxattr(source):
            if name.startswith("user.") or name == ACCESS_LIST:
                os.setxattr(target, name, os.getxattr(source, name))


def _note_of(original: Place) -> Place:
    return original.named(original.name + NOTE_SUFFIX)


def _write_note(row: JobRow, place: Place) -> None:
    when = datetime.fromtimestamp(row.ended or 0, UTC).astimezone().isoformat(timespec="seconds")
    again = f"`invsr-daemon retry {row.id}` tries again"
    if place.path != row.source:
        again = f"once it is back at {printable(str(row.source))}, {again}"
    lines = [
        _heading(place.name),
        "",
        printable(row.reason or ""),
        "",
        f"Job {row.id}, {when}, after {row.attempts} attempt(s). `invsr-daemon jobs show {row.id}` tells",
        f"more; {again}. A changed file is taken up by itself.",
        "",
    ]
    _put(_note_of(place), "\n".join(lines).encode(), PublishPolicy(), _is_note)


def _heading(name: str) -> str:
    return f"{printable(name)} could not be restored."


def _is_note(name: str, content: bytes) -> bool:
    """Whether a file is one that this program wrote about the one beside it."""
    return content.startswith(_heading(name.removesuffix(NOTE_SUFFIX)).encode())


def _remove_note(original: Place) -> None:
    """What an earlier attempt left beside it, now that one has succeeded."""
    note = _note_of(original)
    with suppress(OSError), note.open_folder() as folder:
        if _is_note(note.name, _content(folder, note.name)):
            folder.remove(note.name)


def _write_sidecar(row: JobRow, settings: Settings, result: Place) -> None:
    digest = _digest(row)
    if digest is None:
        log.info("%s has changed or gone since: its result gets no sidecar", row.source)
        return
    model_dir = hub.resolve(settings.model, settings.models_dir)
    described = {
        "source": {"path": str(row.relative), "size": row.identity.size, "sha256": digest},
        "result": {"path": result.name, "frames": row.frames},
        "model": {"name": settings.model, "fingerprint": hub.fingerprint(model_dir)},
        "settings": json.loads(row.settings),
        "seed": settings.seed,
        "seconds": None if row.started is None or row.ended is None else round(row.ended - row.started, 3),
        "notes": row.reason.splitlines() if row.reason else [],
        "job": row.id,
        "version": __version__,
    }
    content = json.dumps(described, indent=2).encode() + b"\n"
    _put(result.named(result.name + SIDECAR_SUFFIX), content, publish_policy(settings), _is_sidecar)


def _digest(row: JobRow) -> str | None:
    """Of the original's content; None if it is not the same any more."""
    if not still_the_same(row):
        return None
    with _opened_original(row) as source, open(path_of(source), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_sidecar(name: str, content: bytes) -> bool:
    """Whether a file is one that this program wrote about the result beside it."""
    try:
        told = json.loads(content)
        return bool(told["result"]["path"] == name.removesuffix(SIDECAR_SUFFIX) and told["job"])
    except (ValueError, LookupError, TypeError, RecursionError):
        return False


def _content(folder: Folder, name: str) -> bytes:
    """What a file holds that may be a note or a sidecar; nothing for any other."""
    with suppress(OSError), folder.opened(name) as descriptor:
        found = os.fstat(descriptor)
        if stat.S_ISREG(found.st_mode) and found.st_size <= LARGEST_OF_OURS:
            with open(descriptor, "rb", closefd=False) as file:
                return file.read(LARGEST_OF_OURS)
    return b""


def _put(place: Place, content: bytes, how: PublishPolicy, is_ours: Callable[[str, bytes], bool]) -> None:
    """Write a file beside another one. An earlier one of ours is replaced, anything else left alone."""
    key = hashlib.sha256(os.fsencode(place.path)).hexdigest()
    with explaining(place.path.parent), place.open_folder(make=True) as folder:
        ours = is_ours(place.name, _content(folder, place.name))
    collision: Collision = "overwrite" if ours else "fail"
    try:
        publish(place, key, replace(how, collision=collision), lambda file: _fill(file, content))
    except OutputExistsError:
        log.warning("%s is not written: another file has that name", place.path)


def _fill(file: BinaryIO, content: bytes) -> None:
    file.write(content)


def tidy_up(row: JobRow, now: Settings) -> str | None:
    """`tidy`; the reason if it could not be done. Raises InUseError."""
    try:
        tidy(row, now)
    except InUseError:
        raise
    except InvsrError as error:
        return str(error)
    except OSError as error:
        return f"{row.source} cannot be moved or removed: {error.strerror}"
    return None
