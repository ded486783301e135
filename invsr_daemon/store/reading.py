"""What is asked of the store: jobs, their chunks, attempts and changes of state."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Self

from ..records import Identity
from .rows import STATES, Attempt, ChunkRow, JobRow, State, Transition, job_row
from .schema import MIGRATIONS
from .sqlite import StoreError, connect, explaining_database

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


class Reading:
    """One connection to the file, for questions. It belongs to the thread that opened it.

    Every call from another thread raises sqlite3.ProgrammingError. Any number of processes may have the file
    open. Every question may raise ResourceError.
    """

    def __init__(self, path: Path, database: sqlite3.Connection) -> None:
        self._path = path
        self._db = database

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the file, made or brought to this version if need be. Raises StoreError, ResourceError."""
        with explaining_database(path):
            return cls(path, connect(path, MIGRATIONS))

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def known(self, source: Path, identity: Identity) -> bool:
        """Whether this very file has a job, in whatever state."""
        rows = self._rows("SELECT identity FROM jobs WHERE source = ?", (os.fsencode(source),))
        return any(identity.matches(Identity.parse(row["identity"])) for row in rows)

    def paused_since(self) -> float | None:
        rows = self._rows("SELECT since FROM pause")
        return rows[0]["since"] if rows else None

    def untidy(self) -> list[JobRow]:
        """Jobs that are done or have failed, whose tidying up was not noted yet, oldest first."""
        return [job_row(row) for row in self._rows(_JOBS + "WHERE untidy ORDER BY jobs.id")]

    def cancel_requests(self) -> list[int]:
        """Running jobs that are to be cancelled."""
        return [
            row["id"] for row in self._rows("SELECT id FROM jobs WHERE state = 'running' AND cancel_wanted")
        ]

    def outdated(self) -> list[int]:
        """Running jobs about files that a later job waits for, as they are by now."""
        sql = (
            "SELECT DISTINCT jobs.id FROM jobs JOIN jobs AS later"
            " ON later.source = jobs.source AND later.id > jobs.id AND later.state = 'queued'"
            " WHERE jobs.state = 'running'"
        )
        return [row["id"] for row in self._rows(sql)]

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

    def _rows(self, sql: str, values: Sequence[object] = ()) -> list[Any]:
        with explaining_database(self._path):
            return self._db.execute(sql, values).fetchall()
