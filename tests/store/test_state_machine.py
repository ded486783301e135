"""Every change of state: allowed or refused, and against a model of the store."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from invsr_daemon.errors import InternalError
from invsr_daemon.records import Identity
from invsr_daemon.store.rows import MOVES, STATES, JobKind, State
from invsr_daemon.store.sqlite import StoreError
from invsr_daemon.store.store import Store
from tests.store.support import (
    OUTPUT,
    assert_consistent,
    in_state,
    new_job,
)

# What may be done with a job in which state, and the state that follows. Everything else raises.
ALLOWED: dict[tuple[State, str], State] = {
    ("queued", "claim"): "running",
    ("queued", "request_cancel"): "cancelled",
    ("running", "finish"): "done",
    ("running", "fail"): "failed",
    ("running", "cancel"): "cancelled",
    ("running", "postpone"): "queued",
    ("running", "request_cancel"): "running",
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
    "cancel": lambda store, job: store.cancel(job, 9.0),
    "postpone": lambda store, job: store.postpone(job, "later", None, 9.0, counts=False),
    "request_cancel": lambda store, job: store.request_cancel(job, 9.0),
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


def test_what_failed_and_was_moved_away_stays_failed(store: Store, path: Path) -> None:
    moved = replace(new_job(1), settings='{"failures": {"move_to": "/failed"}}')
    (failed,) = store.accept([moved], 1.0)
    claim(store, failed)
    store.fail(failed, "it is damaged", 2.0)
    (later,) = store.accept([replace(moved, identity=Identity(1, 9, 9))], 3.0)
    claim(store, later)
    assert store.finish(later, OUTPUT, 1, None, 4.0) == []
    assert store.job(failed).state == "failed"


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

    kind: JobKind
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
    def accept(self, kind: JobKind, priority: int, count: int) -> None:
        known = len(self.jobs)
        first = max(known - 1, 0)  # one known already, as in a rescan
        numbers = range(first, known + count)
        ids = self.daemon.accept([new_job(number, kind, priority) for number in numbers], self.now)
        assert ids == list(range(known + 1, known + count + 1))
        self.jobs |= {job: Model(kind, priority) for job in ids}

    @rule(kind=KINDS)
    def claim(self, kind: JobKind) -> None:
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
    @rule(number=NUMBERS, deed=st.sampled_from(["finish", "fail", "cancel"]))
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
    def request_cancel(self, number: int) -> None:
        job, model = self.chosen(number)
        if model.state == "queued":
            self.command.request_cancel(job, self.now)
            model.move("cancelled")
        elif model.state == "running":
            self.command.request_cancel(job, self.now)
            model.cancel_wanted = True
        else:
            with pytest.raises(StoreError, match=f"is {model.state} already"):
                self.command.request_cancel(job, self.now)
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
