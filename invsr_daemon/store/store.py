"""The daemon's memory: jobs, their chunks, attempts and every change of state, in one SQLite file.

The daemon and the commands (`jobs`, `retry`, `cancel` ...) open the same file, each in a process of its
own; the daemon learns of requests by `Store.changed`. Each method is one transaction, on disk when it
returns. Time is passed in, as seconds since the epoch.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from ..errors import InternalError
from .moving import leave, move
from .requests import ON_REQUEST, Requests
from .rows import ENDED, STATES, JobKind, JobRow, NewJob, State

STORE_FILE = "jobs.sqlite"  # in the state folder
FIRST_DELAY_SECONDS = 5
LONGEST_DELAY_SECONDS = 600
REPLACED = "another file took its place"
DAEMON_ENDED = "the daemon ended while it was working on it"

_CLAIMABLE = """
    SELECT id FROM jobs
    WHERE state = 'queued' AND kind = :kind AND NOT EXISTS (SELECT 1 FROM pause)
        AND (not_before IS NULL OR not_before <= :now OR not_before > :now + :longest)
        AND (:above IS NULL OR priority > :above)
    ORDER BY priority DESC, id LIMIT 1
"""


def retry_delay(attempt: int) -> float:
    """Seconds to wait after the failure of the attempt with this number (from 1): doubling, to a limit."""
    return float(min(FIRST_DELAY_SECONDS * 2 ** (attempt - 1), LONGEST_DELAY_SECONDS))


class Store(Requests):
    """One connection to the file, for questions, requests and what the daemon does with jobs.

    Only the daemon calls the methods of this very class, and there is only one daemon: its state folder is
    locked. Each may raise ResourceError or DiskFullError.
    """

    def __init__(self, path: Path, database: sqlite3.Connection) -> None:
        super().__init__(path, database)
        self._seen = self._data_version()

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

    def claim(self, kind: JobKind, now: float, above: int | None = None) -> JobRow | None:
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
            move(self._db, job, "queued", "running", now, None)
            # From now on one that is not finished says that this attempt has planned it.
            self._db.execute("DELETE FROM chunks WHERE job = ? AND finished IS NULL", (job,))
            self._db.execute(
                "INSERT INTO attempts (job, number, started)"
                " SELECT ?1, 1 + count(*), ?2 FROM attempts WHERE job = ?1",
                (job, now),
            )
            return self.job(job)

    def note_plan(
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

    def note_chunk(self, job: int, index: int, seconds: float, device: str, now: float) -> None:
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

        Such was a file that was looked at while it was still being copied. What was moved away when it failed
        still lies there: its job stays failed.
        """
        with self._transaction():
            self._describe(job, output, frames)
            leave(self._db, job, "done", now, note)
            earlier = self._rows(
                "SELECT jobs.id FROM jobs JOIN settings ON settings.id = jobs.settings"
                " WHERE state = 'failed' AND jobs.id < ?1"
                " AND source = (SELECT source FROM jobs WHERE id = ?1)"
                " AND json_extract(settings.text, '$.failures.move_to') IS NULL",
                (job,),
            )
            for row in earlier:
                move(self._db, row["id"], "failed", "cancelled", now, REPLACED)
            return [row["id"] for row in earlier]

    def fail(self, job: int, reason: str, now: float) -> None:
        """running → failed."""
        with self._transaction():
            leave(self._db, job, "failed", now, reason)

    def cancel(self, job: int, now: float, reason: str = ON_REQUEST) -> None:
        """running → cancelled."""
        with self._transaction():
            leave(self._db, job, "cancelled", now, reason)

    def mark_tidy(self, job: int) -> None:
        """Note that nothing is left to do for an ended job, its original or its result's folder."""
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
                leave(self._db, job, "cancelled", now, ON_REQUEST)
                return "cancelled"
            leave(self._db, job, "queued", now, reason, not_before)
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
                leave(self._db, row.id, after, now, reason)
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

    def changed(self) -> bool:
        """Whether another process has written since this was last asked, or since opening."""
        before, self._seen = self._seen, self._data_version()
        return self._seen != before

    # Parts of transactions

    def _data_version(self) -> int:
        (row,) = self._rows("PRAGMA data_version")
        return int(row[0])

    def _settings(self, text: str) -> int:
        self._db.execute("INSERT INTO settings (text) VALUES (?) ON CONFLICT DO NOTHING", (text,))
        (row,) = self._rows("SELECT id FROM settings WHERE text = ?", (text,))
        return int(row["id"])

    def _insert(self, job: NewJob, settings: int, now: float) -> int | None:
        """The new job's id; None if the file has one already."""
        if self.known(job.source, job.identity):
            return None
        added = self._db.execute(
            "INSERT INTO jobs"
            " (source, relative, identity, kind, preset, priority, settings, state, created)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, 'queued', ?)",
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
        return added.lastrowid

    def _describe(self, job: int, output: Path, frames: int) -> None:
        changed = self._db.execute(
            "UPDATE jobs SET output = ?, frames = ? WHERE id = ? AND state = 'running'",
            (os.fsencode(output), frames, job),
        )
        if not changed.rowcount:
            raise InternalError(f"job {job} is not running and has no result")

    def _forgive_if_with_workers(self, job: int) -> None:
        """Give the running attempt back if it had planned chunks that are not finished: see `claim`."""
        self._db.execute(
            "UPDATE attempts SET counted = 0 WHERE job = ?1 AND ended IS NULL"
            " AND EXISTS (SELECT 1 FROM chunks WHERE job = ?1 AND finished IS NULL)",
            (job,),
        )


def _after_crash(row: JobRow, most_attempts: int) -> tuple[State, str]:
    if row.cancel_wanted:
        return "cancelled", ON_REQUEST
    if row.attempts >= most_attempts:
        return "failed", f"{DAEMON_ENDED}, in attempt {row.attempts} of {most_attempts}"
    return "queued", DAEMON_ENDED
