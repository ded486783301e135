"""The daemon's memory: jobs, their chunks, attempts and every change of state, in one SQLite file.

The daemon and the commands (`jobs`, `retry`, `cancel` ...) open the same file, each in a process of its
own; the daemon learns of wishes by `Store.changed`. Each method is one transaction, on disk when it
returns. Time is passed in, as seconds since the epoch.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args

from .records import DiskFullError, Identity, InternalError, InvsrError, ResourceError

State = Literal["queued", "running", "done", "failed", "cancelled"]
Kind = Literal["image", "film"]

STATES: tuple[State, ...] = get_args(State)
ENDED: frozenset[State] = frozenset({"done", "failed", "cancelled"})
TRIED_IN_VAIN: frozenset[State] = frozenset({"failed", "cancelled"})

# A job begins as queued. Nothing else than this ever happens to it.
MOVES: frozenset[tuple[State, State]] = frozenset(
    {
        ("queued", "running"),  # claimed
        ("queued", "cancelled"),  # on request, before it began
        ("running", "done"),
        ("running", "failed"),
        ("running", "cancelled"),
        ("running", "queued"),  # postponed, or found running after a crash
        ("failed", "queued"),  # on request
        ("failed", "cancelled"),  # a later file of that name was restored
        ("cancelled", "queued"),  # on request
    }
)

STORE_FILE = "jobs.sqlite"  # in the state folder
BUSY_SECONDS = 30.0
BUSY_PAUSE_SECONDS = 0.01
FIRST_DELAY_SECONDS = 5
LONGEST_DELAY_SECONDS = 600

ON_REQUEST = "on request"
REPLACED = "another file took its place"
DAEMON_ENDED = "the daemon ended while it was working on it"

# One tuple of statements leads from each version (PRAGMA user_version) to the next.
# Files of released versions exist: append, never edit.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        # Thousands of jobs share the same settings.
        "CREATE TABLE settings (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE) STRICT",
        # Paths are bytes: they need not be UTF-8. An identity is text: inodes and times can exceed 63 bits.
        """
        CREATE TABLE jobs (
            id INTEGER PRIMARY KEY,
            source BLOB NOT NULL,
            relative BLOB NOT NULL,
            identity TEXT NOT NULL,
            kind TEXT NOT NULL CHECK (kind IN ('image', 'film')),
            preset TEXT,
            priority INTEGER NOT NULL,
            settings INTEGER NOT NULL REFERENCES settings (id),
            state TEXT NOT NULL CHECK (state IN ('queued', 'running', 'done', 'failed', 'cancelled')),
            not_before REAL CHECK (not_before IS NULL OR state = 'queued'),
            cancel_wanted INTEGER NOT NULL DEFAULT 0 CHECK (NOT cancel_wanted OR state = 'running'),
            reason TEXT,
            output BLOB,
            frames INTEGER,
            created REAL NOT NULL,
            started REAL,
            ended REAL,
            untidy INTEGER NOT NULL DEFAULT 0 CHECK (NOT untidy OR state IN ('done', 'failed')),
            UNIQUE (source, identity)
        ) STRICT
        """,
        "CREATE INDEX jobs_by_state ON jobs (state)",
        "CREATE INDEX jobs_to_claim ON jobs (kind, priority DESC, id, not_before) WHERE state = 'queued'",
        "CREATE INDEX jobs_untidy ON jobs (id) WHERE untidy",
        "CREATE INDEX jobs_not_due ON jobs (not_before) WHERE not_before IS NOT NULL",
        """
        CREATE TABLE transitions (
            id INTEGER PRIMARY KEY,
            job INTEGER NOT NULL REFERENCES jobs (id),
            time REAL NOT NULL,
            before TEXT,
            after TEXT NOT NULL,
            reason TEXT
        ) STRICT
        """,
        "CREATE INDEX transitions_by_job ON transitions (job)",
        """
        CREATE TABLE attempts (
            job INTEGER NOT NULL REFERENCES jobs (id),
            number INTEGER NOT NULL,
            started REAL NOT NULL,
            ended REAL,
            outcome TEXT,
            counted INTEGER NOT NULL DEFAULT 1,
            PRIMARY KEY (job, number)
        ) STRICT, WITHOUT ROWID
        """,
        """
        CREATE TABLE chunks (
            job INTEGER NOT NULL REFERENCES jobs (id),
            number INTEGER NOT NULL,
            frames INTEGER NOT NULL,
            seconds REAL,
            device TEXT,
            finished REAL,
            PRIMARY KEY (job, number)
        ) STRICT, WITHOUT ROWID
        """,
        "CREATE TABLE pause (id INTEGER PRIMARY KEY CHECK (id = 1), since REAL NOT NULL) STRICT",
    ),
)

_JOBS = """
    SELECT jobs.id, source, relative, identity, kind, preset, priority, settings.text AS settings, state,
        (SELECT count(*) FROM attempts WHERE job = jobs.id AND counted) AS attempts,
        not_before, cancel_wanted, reason, output, frames,
        CASE state WHEN 'done' THEN frames ELSE
            (SELECT ifnull(sum(frames), 0) FROM chunks WHERE job = jobs.id AND finished IS NOT NULL)
        END AS frames_done,
        created, started, ended
    FROM jobs JOIN settings ON settings.id = jobs.settings
"""

_CLAIMABLE = """
    SELECT id FROM jobs
    WHERE state = 'queued' AND kind = :kind AND NOT EXISTS (SELECT 1 FROM pause)
        AND (not_before IS NULL OR not_before <= :now OR not_before > :now + :longest)
        AND (:above IS NULL OR priority > :above)
    ORDER BY priority DESC, id LIMIT 1
"""

_MOVE = """
    UPDATE jobs SET
        state = :after, reason = :reason, not_before = :not_before, cancel_wanted = 0,
        started = CASE WHEN :after = 'running' THEN :now ELSE started END,
        ended = CASE WHEN :after IN ('done', 'failed', 'cancelled') THEN :now END,
        untidy = :after IN ('done', 'failed')
    WHERE id = :job AND state = :before
"""


class StoreError(InvsrError):
    """The store cannot be used, or cannot do what a command asks of it."""


@dataclass(frozen=True)
class NewJob:
    """A file to be accepted. `kind` is a guess that decides the lane; `settings` are frozen, as JSON.

    `relative` is the path below the inbox. Greater priorities come first.
    """

    source: Path
    relative: Path
    identity: Identity
    kind: Kind
    preset: str | None
    priority: int
    settings: str


@dataclass(frozen=True)
class JobRow(NewJob):
    """An accepted job. `attempts` are those that count, the running one included.

    `reason` explains the state: the last failure, why it waits, or a note about a result.
    """

    id: int
    state: State
    attempts: int
    not_before: float | None
    cancel_wanted: bool
    reason: str | None
    output: Path | None
    frames: int | None
    frames_done: int
    created: float
    started: float | None
    ended: float | None


@dataclass(frozen=True)
class Transition:
    """One change of a job's state; the first, its acceptance, has no `before`."""

    job: int
    time: float
    before: State | None
    after: State
    reason: str | None


@dataclass(frozen=True)
class Attempt:
    """One start of a job, and the state it led to. Not `counted`: nobody's fault, or forgiven by a retry."""

    job: int
    number: int
    started: float
    ended: float | None
    outcome: State | None
    counted: bool


@dataclass(frozen=True)
class ChunkRow:
    """One chunk of a job; `seconds` and `device` are unknown if its file was found after a crash."""

    job: int
    index: int
    frames: int
    seconds: float | None
    device: str | None
    finished: float | None


def retry_delay(attempt: int) -> float:
    """Seconds to wait after the failure of the attempt with this number (from 1): doubling, to a limit."""
    return float(min(FIRST_DELAY_SECONDS * 2 ** (attempt - 1), LONGEST_DELAY_SECONDS))


class Store:
    """One connection. It belongs to the thread that opened it: every call from another one raises.

    Any number of processes may have the file open. Only the daemon calls what is not marked as a wish
    or a question, and there is only one daemon: its state folder is locked.
    """

    def __init__(self, path: Path, database: sqlite3.Connection) -> None:
        self._path = path
        self._db = database
        self._seen = self._data_version()

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the file, made or brought to this version if need be. Raises StoreError, ResourceError."""
        with _explaining(path):
            # No isolation level: sqlite3 begins and commits nothing by itself.
            database = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
            try:
                database.row_factory = sqlite3.Row
                prepare(database, path, MIGRATIONS)
                return cls(path, database)
            except BaseException:
                database.close()
                raise

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # What the daemon does

    def accept(self, jobs: Sequence[NewJob], now: float) -> list[int]:
        """Queue files, all or none; the ids of those that were not known before."""
        with self._transaction():
            settings = {text: self._settings(text) for text in {job.settings for job in jobs}}
            ids = [new for job in jobs if (new := self._insert(job, settings[job.settings], now)) is not None]
            self._db.executemany(
                "INSERT INTO transitions (job, time, after) VALUES (?, ?, 'queued')",
                [(new, now) for new in ids],
            )
        return ids

    def claim(self, kind: Kind, now: float, above: int | None = None) -> JobRow | None:
        """Start the next job of a lane that is due, its attempt counted; None while paused.

        `above`: only one of higher priority than that. What is due later than any delay lasts is due now:
        the clock was set back.
        """
        values = {"kind": kind, "now": now, "longest": LONGEST_DELAY_SECONDS, "above": above}
        with self._transaction():
            found = self._db.execute(_CLAIMABLE, values).fetchone()
            if found is None:
                return None
            job = int(found["id"])
            self._move(job, "queued", "running", now, None)
            # From now on one that is not finished says that this attempt has planned it.
            self._db.execute("DELETE FROM chunks WHERE job = ? AND finished IS NULL", (job,))
            self._db.execute(
                "INSERT INTO attempts (job, number, started)"
                " SELECT ?1, 1 + count(*), ?2 FROM attempts WHERE job = ?1",
                (job, now),
            )
            return self.job(job)

    def planned(
        self, job: int, output: Path, frames: Sequence[int], waiting: Collection[int], now: float
    ) -> None:
        """Note a running job's chunks by their frames, and which of them still have to be computed."""
        with self._transaction():
            self._describe(job, output, sum(frames))
            self._db.execute(
                "DELETE FROM chunks WHERE job = ? AND (finished IS NULL OR number >= ?)", (job, len(frames))
            )
            self._db.executemany(
                "DELETE FROM chunks WHERE job = ? AND number = ?", [(job, index) for index in waiting]
            )
            self._db.executemany(
                "INSERT INTO chunks (job, number, frames, finished) VALUES (?, ?, ?, ?)"
                " ON CONFLICT DO NOTHING",
                [(job, i, count, None if i in waiting else now) for i, count in enumerate(frames)],
            )

    def chunk_finished(self, job: int, index: int, seconds: float, device: str, now: float) -> None:
        """Note that a planned chunk's file is there."""
        with self._transaction():
            changed = self._db.execute(
                "UPDATE chunks SET seconds = ?, device = ?, finished = ? WHERE job = ? AND number = ?",
                (seconds, device, now, job, index),
            )
            if not changed.rowcount:
                raise InternalError(f"job {job} has no chunk {index}")

    def finish(self, job: int, output: Path, frames: int, note: str | None, now: float) -> list[int]:
        """running → done. Earlier jobs of that path that failed are cancelled; their ids.

        Such was a file that was looked at while it was still being copied.
        """
        with self._transaction():
            self._describe(job, output, frames)
            self._leave(job, "done", now, note)
            earlier = self._rows(
                "SELECT id FROM jobs WHERE state = 'failed' AND id < ?1"
                " AND source = (SELECT source FROM jobs WHERE id = ?1)",
                (job,),
            )
            for row in earlier:
                self._move(row["id"], "failed", "cancelled", now, REPLACED)
            return [row["id"] for row in earlier]

    def fail(self, job: int, reason: str, now: float) -> None:
        """running → failed."""
        with self._transaction():
            self._leave(job, "failed", now, reason)

    def cancelled(self, job: int, now: float, reason: str = ON_REQUEST) -> None:
        """running → cancelled."""
        with self._transaction():
            self._leave(job, "cancelled", now, reason)

    def tidied(self, job: int) -> None:
        """Nothing is left to do for an ended job: neither with its original nor beside its result."""
        with self._transaction():
            self._db.execute("UPDATE jobs SET untidy = 0 WHERE id = ?", (job,))

    def postpone(self, job: int, reason: str, not_before: float | None, now: float, *, counts: bool) -> State:
        """running → queued; cancelled, if that was asked for meanwhile. The state it came to.

        `counts=False` gives the attempt back: a full disk or a stopping daemon is not the file's fault.
        """
        with self._transaction():
            if not counts:
                self._db.execute("UPDATE attempts SET counted = 0 WHERE job = ? AND ended IS NULL", (job,))
            if self.job(job).cancel_wanted:
                self._leave(job, "cancelled", now, ON_REQUEST)
                return "cancelled"
            self._leave(job, "queued", now, reason, not_before)
            return "queued"

    def recover(self, most_attempts: Callable[[JobRow], int], now: float) -> dict[State, int]:
        """At the daemon's start: what still runs was cut off. How many jobs came to which state.

        The attempt stays counted, so that a file that kills the daemon fails in the end: unless it was
        with the workers, when the daemon does not touch it.
        """
        came_to = dict.fromkeys(STATES, 0)
        with self._transaction():
            for row in self.jobs({"running"}):
                self._forgive_if_with_workers(row.id)
                after, reason = _after_crash(self.job(row.id), most_attempts(row))
                self._leave(row.id, after, now, reason)
                came_to[after] += 1
        return came_to

    def forget(self, jobs: Collection[int]) -> None:
        """Remove all that is known of ended jobs."""
        with self._transaction():
            for job in jobs:
                if self.job(job).state not in ENDED:  # on request it may have begun again by now
                    continue
                for table in ("chunks", "attempts", "transitions"):
                    self._db.execute(f"DELETE FROM {table} WHERE job = ?", (job,))
                self._db.execute("DELETE FROM jobs WHERE id = ?", (job,))
            self._db.execute("DELETE FROM settings WHERE id NOT IN (SELECT settings FROM jobs)")

    # Wishes

    def want_cancel(self, job: int, now: float) -> State:
        """A queued job is cancelled at once, of a running one the daemon is told. The state it has now."""
        with self._transaction():
            state = self.job(job).state
            if state in ENDED:
                raise StoreError(f"job {job} is {state} already")
            if state == "running":
                self._db.execute("UPDATE jobs SET cancel_wanted = 1 WHERE id = ?", (job,))
                return state
            self._move(job, "queued", "cancelled", now, ON_REQUEST)
            return "cancelled"

    def retry(self, job: int, now: float) -> None:
        """failed or cancelled → queued, with all attempts ahead again."""
        with self._transaction():
            state = self.job(job).state
            if state not in TRIED_IN_VAIN:
                raise StoreError(f"job {job} is {state}: only failed and cancelled jobs can be tried again")
            self._again(job, state, now)

    def retry_failed(self, now: float) -> int:
        """`retry` every failed job; how many there were."""
        with self._transaction():
            failed = self._rows("SELECT id FROM jobs WHERE state = 'failed' ORDER BY id")
            for row in failed:
                self._again(row["id"], "failed", now)
        return len(failed)

    def pause(self, now: float) -> None:
        """Let no job be claimed any more."""
        with self._transaction():
            self._db.execute("INSERT INTO pause (id, since) VALUES (1, ?) ON CONFLICT DO NOTHING", (now,))

    def resume(self) -> bool:
        """Undo `pause`; whether there was one."""
        with self._transaction():
            return self._db.execute("DELETE FROM pause").rowcount > 0

    # Questions

    def changed(self) -> bool:
        """Whether another process has written since this was last asked, or since opening."""
        before, self._seen = self._seen, self._data_version()
        return self._seen != before

    def known(self, source: Path, identity: Identity) -> bool:
        """Whether this very file has a job, in whatever state."""
        file = (os.fsencode(source), str(identity))
        return bool(self._rows("SELECT 1 FROM jobs WHERE source = ? AND identity = ?", file))

    def paused_since(self) -> float | None:
        rows = self._rows("SELECT since FROM pause")
        return rows[0]["since"] if rows else None

    def untidy(self) -> list[JobRow]:
        """Jobs that are done or have failed, but may leave something to do (see `tidied`), oldest first."""
        return [_job_row(row) for row in self._rows(_JOBS + "WHERE untidy ORDER BY jobs.id")]

    def cancel_wishes(self) -> list[int]:
        """Running jobs that are to be cancelled."""
        return [
            row["id"] for row in self._rows("SELECT id FROM jobs WHERE state = 'running' AND cancel_wanted")
        ]

    def counts(self) -> dict[State, int]:
        """Jobs by state, every state named."""
        rows = self._rows("SELECT state, count(*) AS jobs FROM jobs GROUP BY state")
        return dict.fromkeys(STATES, 0) | {row["state"]: row["jobs"] for row in rows}

    def job(self, job: int) -> JobRow:
        """Raises StoreError if there is none with this id."""
        rows = self._rows(_JOBS + "WHERE jobs.id = ?", (job,))
        if not rows:
            raise StoreError(f"there is no job {job}")
        return _job_row(rows[0])

    def jobs(self, states: Collection[State] = STATES, limit: int | None = None) -> list[JobRow]:
        """The latest jobs in these states, latest first."""
        marks = ", ".join("?" * len(states))
        # The inner query keeps the look into other tables to the rows that are wanted.
        chosen = f"SELECT id FROM jobs WHERE state IN ({marks}) ORDER BY id DESC LIMIT ?"
        sql = f"{_JOBS} WHERE jobs.id IN ({chosen}) ORDER BY jobs.id DESC"
        return [_job_row(row) for row in self._rows(sql, (*states, -1 if limit is None else limit))]

    def ended_before(self, then: float, after: int, limit: int) -> list[JobRow]:
        """Jobs with ids beyond `after` that ended before a time and are tidied up; oldest first.

        Never the latest job: a new one would be given its id.
        """
        chosen = (
            "SELECT id FROM jobs WHERE ended < ? AND NOT untidy AND id > ?"
            " AND id < (SELECT max(id) FROM jobs) ORDER BY id LIMIT ?"
        )
        sql = f"{_JOBS} WHERE jobs.id IN ({chosen}) ORDER BY jobs.id"
        return [_job_row(row) for row in self._rows(sql, (then, after, limit))]

    def transitions(self, job: int) -> list[Transition]:
        sql = "SELECT job, time, before, after, reason FROM transitions WHERE job = ? ORDER BY id"
        return [Transition(*row) for row in self._rows(sql, (job,))]

    def attempts(self, job: int) -> list[Attempt]:
        sql = (
            "SELECT job, number, started, ended, outcome, counted FROM attempts WHERE job = ? ORDER BY number"
        )
        return [Attempt(**{**dict(row), "counted": bool(row["counted"])}) for row in self._rows(sql, (job,))]

    def chunks(self, job: int) -> list[ChunkRow]:
        sql = (
            "SELECT job, number, frames, seconds, device, finished FROM chunks WHERE job = ? ORDER BY number"
        )
        return [ChunkRow(*row) for row in self._rows(sql, (job,))]

    # Parts of transactions

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with _explaining(self._path), _atomic(self._db):
            yield

    def _rows(self, sql: str, values: Sequence[object] = ()) -> list[Any]:
        with _explaining(self._path):
            return self._db.execute(sql, values).fetchall()

    def _data_version(self) -> int:
        (row,) = self._rows("PRAGMA data_version")
        return int(row[0])

    def _settings(self, text: str) -> int:
        self._db.execute("INSERT INTO settings (text) VALUES (?) ON CONFLICT DO NOTHING", (text,))
        (row,) = self._rows("SELECT id FROM settings WHERE text = ?", (text,))
        return int(row["id"])

    def _insert(self, job: NewJob, settings: int, now: float) -> int | None:
        """The new job's id; None if the file has one already."""
        added = self._db.execute(
            "INSERT INTO jobs"
            " (source, relative, identity, kind, preset, priority, settings, state, created)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, 'queued', ?) ON CONFLICT (source, identity) DO NOTHING",
            (
                os.fsencode(job.source),
                os.fsencode(job.relative),
                str(job.identity),
                job.kind,
                job.preset,
                job.priority,
                settings,
                now,
            ),
        )
        return added.lastrowid if added.rowcount else None

    def _describe(self, job: int, output: Path, frames: int) -> None:
        changed = self._db.execute(
            "UPDATE jobs SET output = ?, frames = ? WHERE id = ? AND state = 'running'",
            (os.fsencode(output), frames, job),
        )
        if not changed.rowcount:
            raise InternalError(f"job {job} is not running and has no result")

    def _leave(
        self, job: int, after: State, now: float, reason: str | None, not_before: float | None = None
    ) -> None:
        """End the running attempt."""
        self._move(job, "running", after, now, reason, not_before)
        self._db.execute(
            "UPDATE attempts SET ended = ?, outcome = ? WHERE job = ? AND ended IS NULL", (now, after, job)
        )

    def _forgive_if_with_workers(self, job: int) -> None:
        """Give the running attempt back if it had planned chunks that are not finished: see `claim`."""
        self._db.execute(
            "UPDATE attempts SET counted = 0 WHERE job = ?1 AND ended IS NULL"
            " AND EXISTS (SELECT 1 FROM chunks WHERE job = ?1 AND finished IS NULL)",
            (job,),
        )

    def _again(self, job: int, before: State, now: float) -> None:
        self._db.execute("UPDATE attempts SET counted = 0 WHERE job = ?", (job,))
        self._move(job, before, "queued", now, ON_REQUEST)

    def _move(
        self,
        job: int,
        before: State,
        after: State,
        now: float,
        reason: str | None,
        not_before: float | None = None,
    ) -> None:
        """Change a job's state and write down that it did. Every change goes this way."""
        if (before, after) not in MOVES:
            raise InternalError(f"a {before} job cannot become {after}")
        # Names of files that are no UTF-8 stand in messages as surrogates, which SQLite does not take.
        reason = reason and reason.encode(errors="backslashreplace").decode()
        values = {
            "job": job,
            "before": before,
            "after": after,
            "now": now,
            "reason": reason,
            "not_before": not_before,
        }
        if not self._db.execute(_MOVE, values).rowcount:
            raise InternalError(f"job {job} is not {before} and cannot become {after}")
        self._db.execute(
            "INSERT INTO transitions (job, time, before, after, reason)"
            " VALUES (:job, :now, :before, :after, :reason)",
            values,
        )


def prepare(database: sqlite3.Connection, path: Path, migrations: Sequence[Sequence[str]]) -> None:
    """Make a connection durable and its file one of the latest version."""
    found = _version(database, path, len(migrations))  # before anything of a newer file is touched
    _write_ahead(database)
    database.execute("PRAGMA synchronous = FULL")
    database.execute("PRAGMA foreign_keys = ON")
    if found == len(migrations):
        return
    with _atomic(database):
        found = _version(database, path, len(migrations))  # another process may have been faster
        for statement in (each for migration in migrations[found:] for each in migration):
            database.execute(statement)
        database.execute(f"PRAGMA user_version = {len(migrations)}")


def _write_ahead(database: sqlite3.Connection) -> None:
    """Journal mode WAL. For this statement alone SQLite does not wait until another process is done."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            database.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(BUSY_PAUSE_SECONDS)


def _version(database: sqlite3.Connection, path: Path, newest: int) -> int:
    version = int(database.execute("PRAGMA user_version").fetchone()[0])
    if version > newest:
        raise StoreError(
            f"{path} was written by a newer invsr-daemon (version {version}, this one knows {newest}):"
            f" install that again, or move {path}* away to begin with an empty one"
        )
    return version


@contextmanager
def _atomic(database: sqlite3.Connection) -> Iterator[None]:
    """All or nothing. Taking the writer's lock first leaves no way to find it taken halfway."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:  # some errors have ended it already
            database.execute("ROLLBACK")
        raise


def _after_crash(row: JobRow, most_attempts: int) -> tuple[State, str]:
    if row.cancel_wanted:
        return "cancelled", ON_REQUEST
    if row.attempts >= most_attempts:
        return "failed", f"{DAEMON_ENDED}, in attempt {row.attempts} of {most_attempts}"
    return "queued", DAEMON_ENDED


def _job_row(row: sqlite3.Row) -> JobRow:
    inode, size, mtime_ns = map(int, row["identity"].split())
    paths = {name: _path(row[name]) for name in ("source", "relative", "output")}
    typed = {
        "identity": Identity(inode, size, mtime_ns),
        "cancel_wanted": bool(row["cancel_wanted"]),
    }
    return JobRow(**{**dict(row), **paths, **typed})


def _path(stored: bytes | None) -> Path | None:
    return None if stored is None else Path(os.fsdecode(stored))


@contextmanager
def _explaining(path: Path) -> Iterator[None]:
    """Turn what SQLite says of the disk and the file into errors a person can act on."""
    try:
        yield
    except sqlite3.Error as error:
        # Errors of Python's own module carry no code.
        explained = _explained(getattr(error, "sqlite_errorcode", 0), path)
        if explained is None:
            raise
        raise explained from error


def _explained(code: int, path: Path) -> InvsrError | None:
    """None for what can only be a mistake of this program."""
    match code & 0xFF:  # the rest of it are details
        case sqlite3.SQLITE_FULL:
            return DiskFullError(f"the disk of {path} is full")
        case sqlite3.SQLITE_BUSY:
            return ResourceError(f"{path} was busy with another process for {BUSY_SECONDS:.0f} s: try again")
        case sqlite3.SQLITE_IOERR:
            return ResourceError(f"{path} cannot be read or written: is its disk full, failing or unmounted?")
        case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM:
            return StoreError(
                f"{path} cannot be opened for writing: its folder must exist, and both must be writable"
                " for this user (commands run as the daemon's user)"
            )
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return StoreError(
                f"{path} is damaged or no database of this program: restore it from a backup,"
                f" or move {path}* away (its -wal belongs to it) to begin with an empty one"
            )
    return None
