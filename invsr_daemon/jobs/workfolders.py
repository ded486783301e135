"""The folders of pieces and notes that are kept of a job: locked, discarded, forgotten."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import InputError, InvsrError
from ..files.durable import remove_attempts
from ..files.publishing import clear, explained
from ..files.remembered_mounts import REMEMBERED_FILE
from ..logs import LOG_FOLDER
from ..store.status import LOCK_FILE, STATUS_FILE, unusable_state
from ..store.store import STORE_FILE
from ..wire.plans import Plan
from .clock import CLOCK_FILE, trusted_time

PRIVATE = 0o700
# What this program writes into a state folder, beside the store's files.
STATE_NAMES = frozenset(
    {"work", "done", "models", LOG_FOLDER, LOCK_FILE, STATUS_FILE, f".{STATUS_FILE}.part", REMEMBERED_FILE}
    | {CLOCK_FILE}
)


def make_state_folder(state_dir: Path) -> None:
    """Make the state folder, for this user alone, whatever the umask.

    One that is there is closed to others, too, if it is this user's and nothing else lies in it. Raises
    ConfigError if this user may not; UnwritableError if its disk takes nothing just now.
    """
    try:
        state_dir.mkdir(parents=True, exist_ok=True, mode=PRIVATE)
        found = state_dir.stat()
        is_open = found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) != PRIVATE
        if is_open and all(map(_is_state, os.listdir(state_dir))):
            state_dir.chmod(PRIVATE)
    except OSError as error:
        raise unusable_state(state_dir, error) from error


def _is_state(name: str) -> bool:
    return name in STATE_NAMES or name.startswith(STORE_FILE)


def subfolder_of(job: int) -> str:
    """The folder of work files that is this job's."""
    return f"job-{job}"


KEY = "[0-9a-f]" * 32  # how work folders and notes are named


def forget_loose(state_dir: Path, now: float, keep_seconds: float) -> None:
    """Remove what `process` keeps and has long not used: pieces of interrupted runs, notes of results.

    Nothing goes while the clock that says `now` is doubted. What is kept of the daemon's jobs lies in rooms
    of its own, and is the daemon's.
    """
    trusted = trusted_time(state_dir, now)
    if trusted is None:
        return
    before = trusted - keep_seconds
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


def discard(plan: Plan) -> None:
    """Remove a plan's finished pieces."""
    shutil.rmtree(plan.work, ignore_errors=True)
    if plan.job.subfolder:
        with suppress(OSError):  # pieces under another key may lie there
            plan.work.parent.rmdir()


def clean_up_after(plan: Plan) -> None:
    """Remove what a run left that was killed after publishing: all pieces are there then."""
    clear(plan.place, plan.key)
    if plan.job.subfolder:
        discard(plan)
    elif plan.work.is_dir():
        with suppress(InvsrError), lock_work(plan.work):  # they may serve a run for another place by now
            if not plan.waiting():
                discard(plan)


def clear_subfolder(state_dir: Path, subfolder: str) -> None:
    """Remove everything that is kept of a job: it will not be run again."""
    for folder in ("work", "done"):
        shutil.rmtree(state_dir / folder / subfolder, ignore_errors=True)


@contextmanager
def lock_work(work: Path) -> Iterator[None]:
    """The work folder for this process alone. Raises InputError if another one has it."""
    try:
        work.mkdir(parents=True, exist_ok=True)
        lock = (work / "lock").open("w")
    except OSError as error:
        raise explained(error, work) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError("another process is restoring it at this moment") from error
        remove_attempts(work)
        yield
