"""What the tests of the store share: jobs in given states, other processes, small disks."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from invsr_daemon.records import Identity
from invsr_daemon.store.rows import MOVES, JobKind, NewJob, State
from invsr_daemon.store.store import Store

OUTPUT = Path("/outbox/film.mkv")
PATIENCE_SECONDS = 60.0


PRELUDE = """
import os, random, signal, sys, time
from pathlib import Path
from invsr_daemon.errors import InvsrError
from invsr_daemon.records import Identity
from invsr_daemon.store.rows import NewJob
from invsr_daemon.store.sqlite import StoreError
from invsr_daemon.store.store import Store

path = Path(sys.argv[1])

def jobs(first, count):
    numbers = range(first, first + count)
    return [NewJob(Path(f"/{n}"), Path(f"{n}"), Identity(n, 5, 7), "film", None, 0, "{}") for n in numbers]
"""


def new_job(number: int, kind: JobKind = "film", priority: int = 0) -> NewJob:
    relative = Path(f"folder/{number}.mkv")
    return NewJob(Path("/inbox") / relative, relative, Identity(number, 5, 7), kind, None, priority, "{}")


def claimed(store: Store, now: float = 1.0) -> int:
    """A new job that runs."""
    (job,) = store.accept([new_job(sum(store.counts().values()))], now)
    row = store.claim("film", now)
    assert row is not None
    assert row.id == job
    return job


def in_state(store: Store, state: State) -> int:
    """A new job in this state."""
    if state == "queued":
        return store.accept([new_job(0)], 1.0)[0]
    job = claimed(store)
    if state == "done":
        store.finish(job, OUTPUT, 1, None, 2.0)
    elif state == "failed":
        store.fail(job, "no film", 2.0)
    elif state == "cancelled":
        store.cancel(job, 2.0)
    return job


def assert_consistent(store: Store, path: Path) -> None:
    """Each job is in one state, to which an unbroken chain of allowed moves led."""
    rows = store.jobs()
    assert sum(store.counts().values()) == len(rows)
    for row in rows:
        chain = store.transitions(row.id)
        assert chain[0].before is None
        assert chain[0].after == "queued"
        assert [each.before for each in chain[1:]] == [each.after for each in chain[:-1]]
        assert {(each.before, each.after) for each in chain[1:]} <= MOVES
        assert (chain[-1].after, chain[-1].reason) == (row.state, row.reason)
        attempts = store.attempts(row.id)
        assert [each.number for each in attempts] == list(range(1, len(attempts) + 1))
        assert [each.started for each in attempts] == [t.time for t in chain if t.after == "running"]
        left = [(t.time, t.after) for t in chain if t.before == "running"]
        assert [(each.ended, each.outcome) for each in attempts if each.ended is not None] == left
        assert len(attempts) - len(left) == (row.state == "running")
    assert raw(path, "PRAGMA integrity_check") == [("ok",)]
    assert raw(path, "PRAGMA foreign_key_check") == []


def raw(path: Path, *statements: str) -> list[Any]:
    """What the last of some statements gives, without the store."""
    with closing(sqlite3.connect(path)) as database:
        database.executescript(";".join(statements[:-1]))
        return database.execute(statements[-1]).fetchall()


@contextmanager
def child(script: str, path: Path, wrap: Sequence[str] = ()) -> Iterator[subprocess.Popen[str]]:
    """A process of its own that works on a store; it is killed if it outlives the block."""
    with subprocess.Popen(
        [*wrap, sys.executable, "-c", PRELUDE + script, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def output_of(script: str, path: Path, wrap: Sequence[str] = ()) -> str:
    with child(script, path, wrap) as process:
        out, _ = process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode == 0
        return out


def small_disk(folder: Path) -> Sequence[str]:
    """What to put before a command so that it sees a disk of 1 MB in place of a folder."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        pytest.skip("mounting needs root")
    return ("unshare", "-m", "sh", "-c", f'mount -t tmpfs -o size=1m tmpfs {folder} && exec "$@"', "sh")
