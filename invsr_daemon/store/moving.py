"""A job's change from one state to the next: checked, written down, part of a greater transaction."""

from __future__ import annotations

import sqlite3

from ..errors import InternalError
from .rows import MOVES, State

_MOVE = """
    UPDATE jobs SET
        state = :after, reason = :reason, not_before = :not_before, cancel_wanted = 0,
        started = CASE WHEN :after = 'running' THEN :now ELSE started END,
        ended = CASE WHEN :after IN ('done', 'failed', 'cancelled') THEN :now END,
        untidy = :after IN ('done', 'failed')
    WHERE id = :job AND state = :before
"""


def move(
    database: sqlite3.Connection,
    job: int,
    before: State,
    after: State,
    now: float,
    reason: str | None,
    not_before: float | None = None,
) -> None:
    """Change a job's state and write down that it changed. Every change goes this way.

    Raises InternalError if no such change exists, or the job is not in the state `before`.
    """
    if (before, after) not in MOVES:
        raise InternalError(f"a {before} job cannot become {after}")
    # A reason may name files. Bytes that are not UTF-8 are surrogates in it, which SQLite does not take.
    reason = reason and reason.encode(errors="backslashreplace").decode()
    values = {
        "job": job,
        "before": before,
        "after": after,
        "now": now,
        "reason": reason,
        "not_before": not_before,
    }
    if not database.execute(_MOVE, values).rowcount:
        raise InternalError(f"job {job} is not {before} and cannot become {after}")
    database.execute(
        "INSERT INTO transitions (job, time, before, after, reason)"
        " VALUES (:job, :now, :before, :after, :reason)",
        values,
    )


def leave(
    database: sqlite3.Connection,
    job: int,
    after: State,
    now: float,
    reason: str | None,
    not_before: float | None = None,
) -> None:
    """End the running attempt of a job, and with it the state "running". Raises InternalError like `move`."""
    move(database, job, "running", after, now, reason, not_before)
    database.execute(
        "UPDATE attempts SET ended = ?, outcome = ? WHERE job = ? AND ended IS NULL", (now, after, job)
    )
