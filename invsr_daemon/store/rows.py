"""What the store holds: jobs, chunks, attempts and changes of state, as values."""

from __future__ import annotations

import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from ..records import Identity

State = Literal["queued", "running", "done", "failed", "cancelled"]
JobKind = Literal["image", "film"]
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


@dataclass(frozen=True)
class NewJob:
    """A file to be accepted. `kind` is a guess that decides the lane; `settings` are frozen, as JSON.

    `relative` is the path below the inbox. Greater priorities come first.
    """

    source: Path
    relative: Path
    identity: Identity
    kind: JobKind
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


def job_row(row: sqlite3.Row) -> JobRow:
    paths = {name: _path(row[name]) for name in ("source", "relative", "output")}
    typed = {
        "identity": Identity.parse(row["identity"]),
        "cancel_wanted": bool(row["cancel_wanted"]),
    }
    return JobRow(**{**dict(row), **paths, **typed})


def _path(stored: bytes | None) -> Path | None:
    return None if stored is None else Path(os.fsdecode(stored))
