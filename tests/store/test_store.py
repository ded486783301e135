"""Jobs in a real SQLite file: every change of state, several processes at once, kills, full disks."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from invsr_daemon.errors import InternalError, ResourceError
from invsr_daemon.records import Identity
from invsr_daemon.store import sqlite as sqlite_module
from invsr_daemon.store.rows import MOVES, STATES, JobRow, Kind, NewJob, State
from invsr_daemon.store.schema import MIGRATIONS
from invsr_daemon.store.sqlite import StoreError, prepare
from invsr_daemon.store.store import Store, retry_delay

OUTPUT = Path("/outbox/film.mkv")
PATIENCE_SECONDS = 60.0

# The first version, as it was released.
VERSION_1 = """
CREATE TABLE settings (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE) STRICT;
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
) STRICT;
CREATE INDEX jobs_by_state ON jobs (state);
CREATE INDEX jobs_untidy ON jobs (id) WHERE untidy;
CREATE INDEX jobs_to_claim ON jobs (kind, priority DESC, id, not_before) WHERE state = 'queued';
CREATE INDEX jobs_not_due ON jobs (not_before) WHERE not_before IS NOT NULL;
CREATE TABLE transitions (
    id INTEGER PRIMARY KEY,
    job INTEGER NOT NULL REFERENCES jobs (id),
    time REAL NOT NULL,
    before TEXT,
    after TEXT NOT NULL,
    reason TEXT
) STRICT;
CREATE INDEX transitions_by_job ON transitions (job);
CREATE TABLE attempts (
    job INTEGER NOT NULL REFERENCES jobs (id),
    number INTEGER NOT NULL,
    started REAL NOT NULL,
    ended REAL,
    outcome TEXT,
    counted INTEGER NOT NULL DEFAULT 1,
    PRIMARY KEY (job, number)
) STRICT, WITHOUT ROWID;
CREATE TABLE chunks (
    job INTEGER NOT NULL REFERENCES jobs (id),
    number INTEGER NOT NULL,
    frames INTEGER NOT NULL,
    seconds REAL,
    device TEXT,
    finished REAL,
    PRIMARY KEY (job, number)
) STRICT, WITHOUT ROWID;
CREATE TABLE pause (id INTEGER PRIMARY KEY CHECK (id = 1), since REAL NOT NULL) STRICT;
PRAGMA user_version = 1;
"""


def new_job(number: int, kind: Kind = "film", priority: int = 0) -> NewJob:
    relative = Path(f"folder/{number}.mkv")
    return NewJob(Path("/inbox") / relative, relative, Identity(number, 5, 7), kind, None, priority, "{}")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with Store.open(path) as opened:
        yield opened


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
        store.cancelled(job, 2.0)
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


# Jobs


def test_an_accepted_job_keeps_everything(store: Store) -> None:
    given = NewJob(
        Path("/inbox/a/b.png"), Path("a/b.png"), Identity(1, 2, 3), "image", "sharp", -4, '{"steps": 1}'
    )
    (job,) = store.accept([given], 10.0)
    assert store.job(job) == JobRow(
        **vars(given),
        id=job,
        state="queued",
        attempts=0,
        not_before=None,
        cancel_wanted=False,
        reason=None,
        output=None,
        frames=None,
        frames_done=0,
        created=10.0,
        started=None,
        ended=None,
    )


def test_the_way_of_a_job(store: Store) -> None:
    job = claimed(store, 1.0)
    store.planned(job, OUTPUT, [48, 48, 4], {0, 1, 2}, 2.0)
    store.chunk_finished(job, 1, 9.5, "cuda:0", 3.0)
    row = store.job(job)
    assert (row.state, row.started, row.ended) == ("running", 1.0, None)
    assert (row.output, row.frames, row.frames_done) == (OUTPUT, 100, 48)
    store.finish(job, OUTPUT, 100, "the subtitles were left out", 5.0)
    row = store.job(job)
    assert (row.state, row.started, row.ended, row.reason) == (
        "done",
        1.0,
        5.0,
        "the subtitles were left out",
    )
    assert (row.frames, row.frames_done) == (100, 100)
    assert [(t.time, t.before, t.after) for t in store.transitions(job)] == [
        (1.0, None, "queued"),
        (1.0, "queued", "running"),
        (5.0, "running", "done"),
    ]
    assert [(a.started, a.ended, a.outcome, a.counted) for a in store.attempts(job)] == [
        (1.0, 5.0, "done", True)
    ]


@pytest.mark.parametrize("state", STATES)
def test_a_file_is_accepted_once_whatever_became_of_it(store: Store, state: State) -> None:
    row = store.job(in_state(store, state))
    assert store.known(row.source, row.identity)
    assert store.accept([row], 9.0) == []
    changed = replace(new_job(0), identity=Identity(0, 5, 8))
    assert not store.known(changed.source, changed.identity)
    moved = replace(new_job(0), source=Path("/inbox/elsewhere"))
    assert not store.known(moved.source, moved.identity)
    assert store.accept([changed, moved, changed], 9.0) == [2, 3]


def test_ten_thousand_files_at_once(store: Store) -> None:
    began = time.monotonic()
    assert len(store.accept([new_job(number) for number in range(10_000)], 1.0)) == 10_000
    assert time.monotonic() - began < 5
    assert store.counts() == {"queued": 10_000, "running": 0, "done": 0, "failed": 0, "cancelled": 0}


@pytest.mark.parametrize("number", [0, 2**63, 2**64 - 1])
def test_identities_beyond_63_bits(store: Store, number: int) -> None:
    identity = Identity(number, number, -number)
    (job,) = store.accept([NewJob(Path("/a"), Path("a"), identity, "film", None, 0, "{}")], 1.0)
    assert store.known(Path("/a"), identity)
    assert store.job(job).identity == identity


def test_an_identity_is_what_the_file_system_says(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"four")
    found = file.stat()
    assert Identity.of(found) == Identity(found.st_ino, 4, found.st_mtime_ns)


@pytest.mark.parametrize("name", [b"\xff\xfe.mkv", b"a\nb", "字🎬".encode(), b"-rf"])
def test_names_of_any_bytes(store: Store, name: bytes) -> None:
    source = Path("/inbox") / os.fsdecode(name)
    (job,) = store.accept([NewJob(source, Path(source.name), Identity(1, 2, 3), "film", None, 0, "{}")], 1.0)
    assert store.known(source, Identity(1, 2, 3))
    assert store.claim("film", 1.0) is not None
    store.planned(job, source, [1], {0}, 1.0)
    store.fail(job, f"{source} is no film", 2.0)
    row = store.job(job)
    assert os.fsencode(row.source) == os.fsencode(row.output or "") == b"/inbox/" + name
    assert os.fsencode(row.relative) == name
    assert row.reason is not None
    assert row.reason.endswith(" is no film")
    row.reason.encode()  # can be printed and sent anywhere


def test_the_latest_jobs_of_some_states_come_first(store: Store) -> None:
    store.accept([new_job(number) for number in range(100, 104)], 1.0)
    store.want_cancel(2, 2.0)
    store.want_cancel(4, 2.0)
    assert [row.id for row in store.jobs()] == [4, 3, 2, 1]
    assert [row.id for row in store.jobs({"cancelled"})] == [4, 2]
    assert [row.id for row in store.jobs({"cancelled", "queued"}, limit=3)] == [4, 3, 2]
    assert store.jobs({"done"}) == store.jobs(()) == []


def test_what_ended_long_ago_can_be_forgotten(store: Store) -> None:
    store.accept([new_job(number) for number in range(5)], 1.0)
    for ended in (10.0, 20.0, 30.0):
        job = store.claim("film", 2.0)
        assert job is not None
        store.planned(job.id, OUTPUT, [1], {0}, 2.0)
        store.finish(job.id, OUTPUT, 1, None, ended)
        if ended != 20.0:
            store.tidied(job.id)
    assert [row.id for row in store.ended_before(25.0, 0, 9)] == [1], "2 is not tidied up, 3 is too young"
    assert store.ended_before(25.0, 1, 9) == []
    store.forget([1, 4])
    assert [row.id for row in store.jobs()] == [5, 4, 3, 2], "4 has not ended"
    assert not store.known(new_job(0).source, new_job(0).identity)
    assert [*store.transitions(1), *store.attempts(1), *store.chunks(1)] == []
    for job_id in (4, 5):
        store.want_cancel(job_id, 3.0)
    assert [row.id for row in store.ended_before(99.0, 0, 9)] == [3, 4], (
        "the latest id is not to be used again"
    )


# Claiming


def test_priority_then_age_decides_within_a_lane(store: Store) -> None:
    kinds: tuple[Kind, ...] = ("film", "image", "film", "image", "film")
    for number, (kind, priority) in enumerate(zip(kinds, (0, 0, 5, 9, 0), strict=True)):
        store.accept([new_job(number, kind, priority)], 1.0)
    films = [row and row.id for row in (store.claim("film", 2.0) for _ in range(4))]
    images = [row and row.id for row in (store.claim("image", 2.0) for _ in range(3))]
    assert (films, images) == ([3, 1, 5, None], [4, 2, None])
    store.accept([new_job(number, "film", priority=number) for number in (6, 7, 8)], 3.0)
    assert store.claim("film", 4.0, above=8) is None
    assert [row and row.id for row in (store.claim("film", 4.0, above=6) for _ in range(3))] == [8, 7, None]


def test_a_postponed_job_waits_until_it_is_due(store: Store) -> None:
    job = claimed(store)
    assert store.postpone(job, "the disk is full", 50.0, 2.0, counts=True) == "queued"
    row = store.job(job)
    assert (row.not_before, row.reason, row.attempts) == (50.0, "the disk is full", 1)
    assert store.claim("film", 49.0) is None
    again = store.claim("film", 50.0)
    assert again is not None
    assert (again.id, again.attempts, again.not_before, again.reason) == (job, 2, None, None)


def test_an_attempt_can_be_given_back(store: Store) -> None:
    job = claimed(store)
    store.postpone(job, "the daemon was stopped", None, 2.0, counts=False)
    assert store.job(job).attempts == 0
    again = store.claim("film", 2.0)
    assert again is not None
    assert again.attempts == 1
    assert [(each.number, each.counted) for each in store.attempts(job)] == [(1, False), (2, True)]


def test_nothing_is_claimed_while_paused(store: Store) -> None:
    store.accept([new_job(1)], 1.0)
    store.pause(2.0)
    store.pause(3.0)
    assert store.paused_since() == 2.0
    assert store.claim("film", 4.0) is None
    store.resume()
    assert store.paused_since() is None
    assert store.claim("film", 4.0) is not None


def test_what_a_crash_cut_off_is_taken_up_until_it_was_tried_often_enough(store: Store) -> None:
    job = claimed(store)
    for attempt in (1, 2):
        assert store.job(job).attempts == attempt
        assert store.recover(lambda row: 3, 2.0)["queued"] == 1
        assert store.claim("film", 3.0) is not None
    came_to = store.recover(lambda row: 3, 4.0)
    assert (came_to["queued"], came_to["failed"]) == (0, 1)
    row = store.job(job)
    assert row.state == "failed"
    assert "attempt 3 of 3" in (row.reason or "")
    assert sum(store.recover(lambda row: 3, 5.0).values()) == 0


def test_what_was_to_be_cancelled_is_not_taken_up(store: Store) -> None:
    job = claimed(store)
    assert store.want_cancel(job, 2.0) == "running"
    assert store.job(job).cancel_wanted
    assert store.recover(lambda row: 3, 3.0)["cancelled"] == 1
    assert not store.job(job).cancel_wanted


def test_what_was_to_be_cancelled_is_not_postponed(store: Store) -> None:
    job = claimed(store)
    store.want_cancel(job, 2.0)
    assert store.postpone(job, "the disk is full", 50.0, 3.0, counts=False) == "cancelled"
    assert store.job(job).state == "cancelled"


def test_a_retry_begins_anew(store: Store) -> None:
    jobs = [claimed(store) for _ in range(3)]
    for job in jobs:
        store.fail(job, "no film", 2.0)
    store.retry(jobs[0], 3.0)
    assert store.retry_failed(3.0) == 2
    for job in jobs:
        row = store.job(job)
        assert (row.state, row.attempts, row.ended, row.reason) == ("queued", 0, None, "on request")


@given(st.integers(1, 5000))
def test_delays_grow_to_a_limit(attempt: int) -> None:
    assert 5 <= retry_delay(attempt) <= retry_delay(attempt + 1) <= 600


def test_the_first_delays() -> None:
    assert [retry_delay(attempt) for attempt in (1, 2, 3, 4)] == [5.0, 10.0, 20.0, 40.0]


# Chunks


def test_a_new_plan_keeps_what_is_there(store: Store) -> None:
    job = claimed(store)
    store.planned(job, OUTPUT, [8, 8, 8, 3], {0, 1, 2, 3}, 2.0)
    store.chunk_finished(job, 0, 1.5, "cpu", 3.0)
    store.chunk_finished(job, 1, 2.5, "cpu", 4.0)
    # Chunk 2 got its name, and then the daemon was killed. Chunk 1 was lost.
    store.planned(job, OUTPUT, [8, 8, 8, 3], {1, 3}, 9.0)
    found = [(chunk.index, chunk.seconds, chunk.finished) for chunk in store.chunks(job)]
    assert found == [(0, 1.5, 3.0), (1, None, None), (2, None, 9.0), (3, None, None)]
    assert store.job(job).frames_done == 16
    store.planned(job, OUTPUT, [27], {0}, 10.0)
    assert [(chunk.frames, chunk.finished) for chunk in store.chunks(job)] == [(27, None)]


def test_only_planned_chunks_of_running_jobs(store: Store) -> None:
    with pytest.raises(InternalError, match="not running"):
        store.planned(in_state(store, "queued"), OUTPUT, [1], {0}, 2.0)
    with pytest.raises(InternalError, match="no chunk 7"):
        store.chunk_finished(1, 7, 1.0, "cpu", 2.0)


# The state machine

# What may be done with a job in which state, and the state that follows. Everything else raises.
ALLOWED: dict[tuple[State, str], State] = {
    ("queued", "claim"): "running",
    ("queued", "want_cancel"): "cancelled",
    ("running", "finish"): "done",
    ("running", "fail"): "failed",
    ("running", "cancelled"): "cancelled",
    ("running", "postpone"): "queued",
    ("running", "want_cancel"): "running",
    ("failed", "retry"): "queued",
    ("cancelled", "retry"): "queued",
}


def claim(store: Store, job: int) -> None:
    row = store.claim("film", 9.0)
    if row is None:
        raise StoreError("nothing to claim")
    assert row.id == job


DOING: dict[str, Callable[[Store, int], object]] = {
    "claim": claim,
    "finish": lambda store, job: store.finish(job, OUTPUT, 1, None, 9.0),
    "fail": lambda store, job: store.fail(job, "no film", 9.0),
    "cancelled": lambda store, job: store.cancelled(job, 9.0),
    "postpone": lambda store, job: store.postpone(job, "later", None, 9.0, counts=False),
    "want_cancel": lambda store, job: store.want_cancel(job, 9.0),
    "retry": lambda store, job: store.retry(job, 9.0),
}


def test_the_table_of_moves_is_what_can_be_done() -> None:
    done = {(before, after) for (before, _), after in ALLOWED.items() if before != after}
    assert done | {("failed", "cancelled")} == MOVES  # that one follows from what happens to another job


def test_what_failed_is_over_when_a_later_file_of_its_name_is_done(store: Store, path: Path) -> None:
    """As when a file was looked at while it was still being copied."""
    copied = [replace(new_job(1), identity=Identity(1, size, 7)) for size in (5, 9, 12)]
    other = in_state(store, "failed")
    ids = store.accept(copied, 1.0)
    for job in ids[:2]:
        claim(store, job)
        store.fail(job, "it is cut off", 2.0)
    claim(store, ids[2])
    assert store.finish(ids[2], OUTPUT, 1, None, 3.0) == ids[:2]
    assert [store.job(job).state for job in ids] == ["cancelled", "cancelled", "done"]
    assert store.job(ids[0]).reason == "another file took its place"
    assert store.untidy()[-1].id == ids[2]
    assert store.job(other).state == "failed"
    assert store.retry_failed(4.0) == 1
    assert_consistent(store, path)


@pytest.mark.parametrize(("state", "deed"), list(itertools.product(STATES, DOING)))
def test_every_deed_in_every_state(store: Store, path: Path, state: State, deed: str) -> None:
    job = in_state(store, state)
    row, chain, attempts = store.job(job), store.transitions(job), store.attempts(job)
    if after := ALLOWED.get((state, deed)):
        DOING[deed](store, job)
        assert store.job(job).state == after
    else:
        with pytest.raises((InternalError, StoreError)):
            DOING[deed](store, job)
        assert (store.job(job), store.transitions(job), store.attempts(job)) == (row, chain, attempts)
    assert_consistent(store, path)


@pytest.mark.parametrize("deed", sorted(DOING.keys() - {"claim"}))
def test_jobs_that_do_not_exist(store: Store, deed: str) -> None:
    with pytest.raises((InternalError, StoreError), match="job 77"):
        DOING[deed](store, 77)


@dataclass
class Model:
    """What the machine below believes of a job."""

    kind: Kind
    priority: int
    state: State = "queued"
    attempts: int = 0
    not_before: float | None = None
    cancel_wanted: bool = False
    chain: list[State] = field(default_factory=lambda: ["queued"])

    def move(self, state: State, not_before: float | None = None) -> None:
        self.state, self.not_before, self.cancel_wanted = state, not_before, False
        self.chain.append(state)


NUMBERS = st.integers(0, 1000)
KINDS = st.sampled_from(["film", "image"])


class Machine(RuleBasedStateMachine):
    """The daemon and a command on one file, against a model in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.path = Path(tempfile.mkdtemp()) / "store.sqlite"
        self.daemon, self.command = Store.open(self.path), Store.open(self.path)
        self.jobs: dict[int, Model] = {}
        self.paused = False
        self.now = 1.0

    def teardown(self) -> None:
        assert_consistent(self.daemon, self.path)
        self.daemon.close()
        self.command.close()
        shutil.rmtree(self.path.parent)

    def chosen(self, number: int) -> tuple[int, Model]:
        job = 1 + number % len(self.jobs)
        return job, self.jobs[job]

    @rule(seconds=st.floats(0, 20))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(kind=KINDS, priority=st.integers(-2, 2), count=st.integers(1, 3))
    def accept(self, kind: Kind, priority: int, count: int) -> None:
        known = len(self.jobs)
        first = max(known - 1, 0)  # one known already, as in a rescan
        numbers = range(first, known + count)
        ids = self.daemon.accept([new_job(number, kind, priority) for number in numbers], self.now)
        assert ids == list(range(known + 1, known + count + 1))
        self.jobs |= {job: Model(kind, priority) for job in ids}

    @rule(kind=KINDS)
    def claim(self, kind: Kind) -> None:
        due = [
            (-model.priority, job)
            for job, model in self.jobs.items()
            if (model.state, model.kind) == ("queued", kind) and (model.not_before or 0) <= self.now
        ]
        row = self.daemon.claim(kind, self.now)
        if not due or self.paused:
            assert row is None
            return
        assert row is not None
        assert row.id == min(due)[1]
        model = self.jobs[row.id]
        model.move("running")
        model.attempts += 1
        assert row.attempts == model.attempts

    @precondition(lambda self: self.jobs)
    @rule(number=NUMBERS, deed=st.sampled_from(["finish", "fail", "cancelled"]))
    def end(self, number: int, deed: str) -> None:
        job, model = self.chosen(number)
        if model.state == "running":
            DOING[deed](self.daemon, job)
            model.move(ALLOWED["running", deed])
        else:
            with pytest.raises(InternalError):
                DOING[deed](self.daemon, job)

    @precondition(lambda self: self.jobs)
    @rule(number=NUMBERS, delay=st.none() | st.floats(0, 30), counts=st.booleans())
    def postpone(self, number: int, delay: float | None, counts: bool) -> None:
        job, model = self.chosen(number)
        due = None if delay is None else self.now + delay
        postpone = partial(self.daemon.postpone, job, "later", due, self.now, counts=counts)
        if model.state != "running":
            with pytest.raises(InternalError):
                postpone()
            return
        after = postpone()
        assert after == ("cancelled" if model.cancel_wanted else "queued")
        model.attempts -= not counts
        model.move(after, due if after == "queued" else None)

    @precondition(lambda self: self.jobs)
    @rule(number=NUMBERS)
    def want_cancel(self, number: int) -> None:
        job, model = self.chosen(number)
        if model.state == "queued":
            self.command.want_cancel(job, self.now)
            model.move("cancelled")
        elif model.state == "running":
            self.command.want_cancel(job, self.now)
            model.cancel_wanted = True
        else:
            with pytest.raises(StoreError, match=f"is {model.state} already"):
                self.command.want_cancel(job, self.now)
            return
        assert self.daemon.changed()
        assert not self.daemon.changed()

    @precondition(lambda self: self.jobs)
    @rule(number=NUMBERS)
    def retry(self, number: int) -> None:
        job, model = self.chosen(number)
        if model.state in ("failed", "cancelled"):
            self.command.retry(job, self.now)
            model.attempts = 0
            model.move("queued")
        else:
            with pytest.raises(StoreError, match=f"is {model.state}"):
                self.command.retry(job, self.now)

    @rule()
    def retry_failed(self) -> None:
        failed = [model for model in self.jobs.values() if model.state == "failed"]
        assert self.command.retry_failed(self.now) == len(failed)
        for model in failed:
            model.attempts = 0
            model.move("queued")

    @rule()
    def pause_or_resume(self) -> None:
        self.paused = not self.paused
        if self.paused:
            self.command.pause(self.now)
        else:
            self.command.resume()
        assert (self.daemon.paused_since() is not None) == self.paused

    @rule()
    def daemon_starts_again(self) -> None:
        self.daemon.close()
        self.daemon = Store.open(self.path)
        self.daemon.recover(lambda row: 3, self.now)
        for model in self.jobs.values():
            if model.state == "running":
                tried: State = "failed" if model.attempts >= 3 else "queued"
                model.move("cancelled" if model.cancel_wanted else tried)

    @invariant()
    def the_same_as_the_model(self) -> None:
        rows = {row.id: row for row in self.command.jobs()}
        assert rows.keys() == self.jobs.keys()
        for job, model in self.jobs.items():
            row = rows[job]
            found = (row.state, row.attempts, row.not_before, row.cancel_wanted)
            assert found == (model.state, model.attempts, model.not_before, model.cancel_wanted)
            assert [each.after for each in self.command.transitions(job)] == model.chain


def test_against_a_model() -> None:
    run_state_machine_as_test(Machine, settings=settings(max_examples=20, stateful_step_count=30))


# Several processes

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


WISHES = """
chance = random.Random(1)
with Store.open(path) as store:
    print("ready", flush=True)
    for turn in range(150):
        wish = chance.choice((store.want_cancel, store.retry))
        try:
            wish(chance.randint(1, 20), 5.0)
        except StoreError as error:
            assert " is " in str(error), error  # "job 7 is done already"
        time.sleep(0.002)
"""


def test_wishes_of_another_process_while_jobs_run(store: Store, path: Path) -> None:
    store.accept([new_job(number) for number in range(20)], 1.0)
    seen = 0
    with child(WISHES, path) as process:
        assert process.stdout is not None
        process.stdout.readline()
        while process.poll() is None:
            seen += store.changed()
            row = store.claim("film", 2.0)
            if row is None:
                continue
            if store.job(row.id).cancel_wanted:
                store.cancelled(row.id, 3.0)
            else:
                store.fail(row.id, "no film", 3.0)
    assert process.returncode == 0
    assert seen > 10
    assert_consistent(store, path)
    assert sum(len(store.transitions(job)) for job in range(1, 21)) > 100


BUSY_DAEMON = """
chance = random.Random(os.getpid())
with Store.open(path) as store:
    store.recover(lambda row: 3, 1.0)
    print("ready", flush=True)
    while True:
        store.accept(jobs(sum(store.counts().values()), 20), 1.0)
        for turn in range(20):
            row = store.claim("film", 2.0)
            store.planned(row.id, Path("/out"), [8, 8], {0, 1}, 3.0)
            store.chunk_finished(row.id, 0, 1.0, "cpu", 4.0)
            chance.choice((
                lambda: store.finish(row.id, Path("/out"), 16, None, 5.0),
                lambda: store.fail(row.id, "no film", 5.0),
                lambda: store.postpone(row.id, "full", 9.0, 5.0, counts=False),
                lambda: store.want_cancel(row.id, 5.0),
            ))()
        store.retry_failed(6.0)
"""


def test_kill_at_any_moment_leaves_every_job_in_one_state(path: Path) -> None:
    chance = random.Random(7)
    before = 0
    for _ in range(6):
        with child(BUSY_DAEMON, path) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(chance.uniform(0.05, 0.3))
            process.kill()
        assert process.returncode == -signal.SIGKILL
        with Store.open(path) as store:
            assert_consistent(store, path)
            jobs = len(store.jobs())
            assert jobs % 20 == 0, "accepted all or none"
            assert jobs > before, "it did something before it was killed"
            before = jobs


CLAIM_AND_DIE = """
with Store.open(path) as store:
    store.recover(lambda row: 2, 1.0)
    if store.claim("film", 2.0):
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_an_attempt_counts_before_it_starts(store: Store, path: Path) -> None:
    """A file that kills the daemon each time must not do so for ever."""
    (job,) = store.accept([new_job(1)], 1.0)
    for attempt in (1, 2):
        with child(CLAIM_AND_DIE, path) as process:
            assert process.wait(PATIENCE_SECONDS) == -signal.SIGKILL
        assert (store.job(job).state, store.job(job).attempts) == ("running", attempt)
    output_of(CLAIM_AND_DIE, path)
    assert (store.job(job).state, len(store.attempts(job))) == ("failed", 2)


FIRST = """
print("ready", flush=True)
input()
with Store.open(path) as store:
    print(store.accept(jobs(0, 5), 1.0))
"""


def test_many_processes_make_the_same_file(path: Path) -> None:
    with ExitStack() as stack:
        processes = [stack.enter_context(child(FIRST, path)) for _ in range(4)]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        said = [process.communicate(timeout=PATIENCE_SECONDS)[0] for process in processes]
    assert sorted(said) == ["[1, 2, 3, 4, 5]\n", "[]\n", "[]\n", "[]\n"]
    assert [process.returncode for process in processes] == [0] * 4


# The file


def raw(path: Path, *statements: str) -> list[Any]:
    """What the last of some statements gives, without the store."""
    with closing(sqlite3.connect(path)) as database:
        database.executescript(";".join(statements[:-1]))
        return database.execute(statements[-1]).fetchall()


def schema(path: Path) -> set[str]:
    statements = raw(path, "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL")
    return {" ".join(statement.split()) for (statement,) in statements}


def test_it_is_durable(store: Store, path: Path) -> None:
    pragmas = ("journal_mode", "synchronous", "foreign_keys", "user_version")
    found = [store._rows(f"PRAGMA {pragma}")[0][0] for pragma in pragmas]
    assert found == ["wal", 2, 1, len(MIGRATIONS)]


def test_released_versions_are_not_edited(tmp_path: Path) -> None:
    raw(tmp_path / "released", VERSION_1, "SELECT 1")
    with closing(sqlite3.connect(tmp_path / "now", isolation_level=None)) as database:
        prepare(database, tmp_path / "now", MIGRATIONS[:1])
    assert schema(tmp_path / "released") == schema(tmp_path / "now")


def test_a_file_of_version_1_is_taken_over(path: Path) -> None:
    raw(
        path,
        VERSION_1,
        "INSERT INTO settings VALUES (1, '{}')",
        "INSERT INTO jobs (id, source, relative, identity, kind, priority, settings, state, created)"
        " VALUES (7, x'2f61', x'61', '1 2 3', 'film', 0, 1, 'running', 5.0)",
        "INSERT INTO transitions VALUES (1, 7, 5.0, NULL, 'queued', NULL)",
        "INSERT INTO transitions VALUES (2, 7, 6.0, 'queued', 'running', NULL)",
        "INSERT INTO attempts VALUES (7, 1, 6.0, NULL, NULL, 1)",
        "SELECT 1",
    )
    with Store.open(path) as store:
        assert store.recover(lambda row: 3, 7.0)["queued"] == 1
        row = store.claim("film", 8.0)
        assert row is not None
        assert (row.id, row.source, row.identity, row.attempts) == (7, Path("/a"), Identity(1, 2, 3), 2)
        assert_consistent(store, path)


LATER = (*MIGRATIONS, ("ALTER TABLE jobs ADD COLUMN note TEXT", "UPDATE jobs SET note = 'older'"))


def test_a_later_version_brings_the_file_along(path: Path) -> None:
    with Store.open(path) as store:
        job = claimed(store)
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        prepare(database, path, LATER)
        prepare(database, path, LATER)
    assert raw(path, "SELECT id, state, note FROM jobs") == [(job, "running", "older")]
    assert raw(path, "PRAGMA user_version") == [(len(LATER),)]


def test_a_newer_file_is_left_alone(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        prepare(database, path, LATER)
    before = path.read_bytes()
    with pytest.raises(StoreError, match="newer invsr-daemon"):
        Store.open(path)
    assert path.read_bytes() == before


def test_a_migration_that_fails_leaves_the_older_version(path: Path) -> None:
    with Store.open(path) as store:
        claimed(store)
    before = schema(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as database, pytest.raises(sqlite3.Error):
        prepare(database, path, (*LATER, ("NONSENSE",)))
    assert schema(path) == before
    assert raw(path, "PRAGMA user_version") == [(len(MIGRATIONS),)]


def overwrite(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"noise" * 20_000)


@pytest.mark.parametrize("at", [0, 100, 4096])
def test_a_damaged_file(path: Path, at: int) -> None:
    with Store.open(path) as store:
        store.accept([new_job(number) for number in range(200)], 1.0)
    overwrite(path, at)
    with pytest.raises(StoreError, match="damaged"), Store.open(path) as store:
        store.jobs()


@pytest.mark.parametrize("place", ["missing/store.sqlite", "."])
def test_a_file_that_cannot_be_opened(tmp_path: Path, place: str) -> None:
    with pytest.raises(StoreError, match="cannot be opened"):
        Store.open(tmp_path / place)


def test_a_file_that_someone_holds(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_module, "BUSY_SECONDS", 0.05)
    with Store.open(path) as store, closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(ResourceError, match="busy"):
            store.pause(1.0)
        assert store.paused_since() is None, "questions need not wait"
        holder.execute("ROLLBACK")
        store.pause(1.0)
        assert store.paused_since() == 1.0


def test_only_what_others_write_is_news(store: Store, path: Path) -> None:
    store.accept([new_job(1)], 1.0)
    assert not store.changed()
    with Store.open(path) as command:
        command.counts()
        assert not store.changed()
        command.pause(2.0)
        assert store.changed()
        assert not store.changed()


def test_one_thread_only(store: Store) -> None:
    raised: list[Exception] = []

    def ask() -> None:
        try:
            store.counts()
        except sqlite3.ProgrammingError as error:
            raised.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert len(raised) == 1


def test_an_error_halfway_undoes_everything(store: Store) -> None:
    unfit = replace(new_job(2), kind="sound")  # type: ignore[arg-type]
    with pytest.raises(sqlite3.IntegrityError):
        store.accept([new_job(1), unfit], 1.0)
    assert store.jobs() == []
    store.accept([new_job(1)], 1.0)


FULL = """
ballast = path.parent / "ballast"
ballast.write_bytes(bytes(300_000))
accepted = 0
with Store.open(path) as store:
    try:
        while True:
            accepted += len(store.accept(jobs(accepted, 100), 1.0))
    except InvsrError as error:
        print(type(error).__name__, error)
    assert accepted > 0
    assert store.counts()["queued"] == accepted, "what was accepted is still there"
    ballast.unlink()
    assert len(store.accept(jobs(accepted, 100), 1.0)) == 100
    print("went on")
"""

READ_ONLY = """
Store.open(path).close()
assert os.system(f"mount -o remount,ro {path.parent}") == 0
try:
    Store.open(path)
except InvsrError as error:
    print(type(error).__name__, error)
"""


def small_disk(folder: Path) -> Sequence[str]:
    """What to put before a command so that it sees a disk of 1 MB in place of a folder."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        pytest.skip("mounting needs root")
    return ("unshare", "-m", "sh", "-c", f'mount -t tmpfs -o size=1m tmpfs {folder} && exec "$@"', "sh")


def test_a_full_disk_passes(path: Path) -> None:
    error, after = output_of(FULL, path, small_disk(path.parent)).splitlines()
    assert error == f"DiskFullError the disk of {path} is full"
    assert after == "went on"


def test_a_disk_that_became_read_only(path: Path) -> None:
    said = output_of(READ_ONLY, path, small_disk(path.parent))
    assert said.startswith(f"StoreError {path} cannot be opened for writing")


# Speed


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
        store.planned(job, OUTPUT, [1], {0}, 2.0)
        store.chunk_finished(job, 0, 1.0, "cpu", 2.0)
        store.postpone(job, "later", 9.0, 2.0, counts=False)
        store.want_cancel(job, 3.0)
        store.retry(job, 3.0)
        store.claim("film", 4.0)
        store.recover(lambda row: 1, 5.0)
        store.retry_failed(6.0)
        store.known(OUTPUT, Identity(1, 2, 3))
        store.jobs({"failed", "done"}, limit=50)
        for ask in (store.transitions, store.attempts, store.chunks):
            ask(job)
    scans = {plan for plan in Planning.plans if plan.startswith("SCAN")}
    assert len(Planning.plans) > 30
    assert scans == {"SCAN pause", "SCAN jobs USING COVERING INDEX jobs_by_state"}
