"""What is asked of the store, and what that costs."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest

from invsr_daemon.records import Identity
from invsr_daemon.store.store import Store
from tests.store.support import (
    OUTPUT,
    claimed,
    new_job,
)


def test_the_latest_jobs_of_some_states_come_first(store: Store) -> None:
    store.accept([new_job(number) for number in range(100, 104)], 1.0)
    store.request_cancel(2, 2.0)
    store.request_cancel(4, 2.0)
    assert [row.id for row in store.jobs()] == [4, 3, 2, 1]
    assert [row.id for row in store.jobs({"cancelled"})] == [4, 2]
    assert [row.id for row in store.jobs({"cancelled", "queued"}, limit=3)] == [4, 3, 2]
    assert store.jobs({"done"}) == store.jobs(()) == []


def test_only_what_others_write_is_news(store: Store, path: Path) -> None:
    store.accept([new_job(1)], 1.0)
    assert not store.changed()
    with Store.open(path) as command:
        command.counts()
        assert not store.changed()
        command.pause(2.0)
        assert store.changed()
        assert not store.changed()


def test_running_jobs_of_files_that_came_anew_are_outdated(store: Store) -> None:
    first, other = claimed(store), claimed(store)
    row = store.job(first)
    assert store.outdated() == []
    grown = [replace(row, identity=Identity(1, size, size)) for size in (6, 7)]
    later = store.accept(grown, 2.0)
    assert store.outdated() == [first]
    store.cancel(first, 3.0)
    assert store.outdated() == []
    assert store.claim("film", 4.0) is not None
    assert store.outdated() == [later[0]]
    assert store.job(other).state == "running"


class Planning(sqlite3.Connection):
    """Notes how SQLite goes about each statement that it is given."""

    plans: ClassVar[list[str]] = []

    def execute(self, sql: str, values: Any = (), /) -> sqlite3.Cursor:
        if sql.split(maxsplit=1)[0] in ("SELECT", "INSERT", "UPDATE", "DELETE"):
            steps = super().execute(f"EXPLAIN QUERY PLAN {sql}", values).fetchall()
            self.plans.extend(step[3] for step in steps)
        return super().execute(sql, values)


def test_nothing_reads_all_jobs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With 100,000 jobs every step must go by an index; only counting walks along one."""
    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Planning))
    Planning.plans.clear()
    with Store.open(path) as store:
        job = claimed(store)
        store.note_plan(job, OUTPUT, [1], {0}, 2.0)
        store.note_chunk(job, 0, 1.0, "cpu", 2.0)
        store.postpone(job, "later", 9.0, 2.0, counts=False)
        store.request_cancel(job, 3.0)
        store.retry(job, 3.0)
        store.claim("film", 4.0)
        store.recover(lambda row: 1, 5.0)
        store.retry_failed(6.0)
        store.outdated()
        store.known(OUTPUT, Identity(1, 2, 3))
        store.jobs({"failed", "done"}, limit=50)
        for ask in (store.transitions, store.attempts, store.chunks):
            ask(job)
    scans = {plan for plan in Planning.plans if plan.startswith("SCAN")}
    assert len(Planning.plans) > 30
    assert scans == {"SCAN pause", "SCAN jobs USING COVERING INDEX jobs_by_state"}
