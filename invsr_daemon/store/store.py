"""The daemon's memory: jobs, their chunks, attempts and every change of state, in one SQLite file.

The daemon and the commands (`jobs`, `retry`, `cancel` ...) open the same file, each in a process of its
own; the daemon learns of wishes by `Store.changed`. Each method is one transaction, on disk when it
returns. Time is passed in, as seconds since the epoch.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from ..errors import InternalError
from ..records import Identity
from .rows import (
    ENDED,
    MOVES,
    STATES,
    TRIED_IN_VAIN,
    Attempt,
    ChunkRow,
    JobRow,
    Kind,
    NewJob,
    State,
    Transition,
    job_row,
)
from .schema import MIGRATIONS
from .sqlite import StoreError, atomic, connect, explaining

STORE_FILE = "jobs.sqlite"  # in the state folder
FIRST_DELAY_SECONDS = 5
LONGEST_DELAY_SECONDS = 600
ON_REQUEST = "on request"
REPLACED = "another file took its place"
DAEMON_ENDED = "the daemon ended while it was working on it"

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
        with explaining(path):
            return cls(path, connect(path, MIGRATIONS))

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
        return [job_row(row) for row in self._rows(_JOBS + "WHERE untidy ORDER BY jobs.id")]

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
        return job_row(rows[0])

    def jobs(self, states: Collection[State] = STATES, limit: int | None = None) -> list[JobRow]:
        """The latest jobs in these states, latest first."""
        marks = ", ".join("?" * len(states))
        # The inner query keeps the look into other tables to the rows that are wanted.
        chosen = f"SELECT id FROM jobs WHERE state IN ({marks}) ORDER BY id DESC LIMIT ?"
        sql = f"{_JOBS} WHERE jobs.id IN ({chosen}) ORDER BY jobs.id DESC"
        return [job_row(row) for row in self._rows(sql, (*states, -1 if limit is None else limit))]

    def ended_before(self, then: float, after: int, limit: int) -> list[JobRow]:
        """Jobs with ids beyond `after` that ended before a time and are tidied up; oldest first.

        Never the latest job: a new one would be given its id.
        """
        chosen = (
            "SELECT id FROM jobs WHERE ended < ? AND NOT untidy AND id > ?"
            " AND id < (SELECT max(id) FROM jobs) ORDER BY id LIMIT ?"
        )
        sql = f"{_JOBS} WHERE jobs.id IN ({chosen}) ORDER BY jobs.id"
        return [job_row(row) for row in self._rows(sql, (then, after, limit))]

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
        with explaining(self._path), atomic(self._db):
            yield

    def _rows(self, sql: str, values: Sequence[object] = ()) -> list[Any]:
        with explaining(self._path):
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


def _after_crash(row: JobRow, most_attempts: int) -> tuple[State, str]:
    if row.cancel_wanted:
        return "cancelled", ON_REQUEST
    if row.attempts >= most_attempts:
        return "failed", f"{DAEMON_ENDED}, in attempt {row.attempts} of {most_attempts}"
    return "queued", DAEMON_ENDED
