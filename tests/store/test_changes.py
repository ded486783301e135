"""Claims, attempts, retries and chunks of jobs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from invsr_daemon.errors import InternalError
from invsr_daemon.store.rows import JobKind
from invsr_daemon.store.store import Store, retry_delay
from tests.store.support import (
    OUTPUT,
    claimed,
    in_state,
    new_job,
)


def test_priority_then_age_decides_within_a_lane(store: Store) -> None:
    kinds: tuple[JobKind, ...] = ("film", "image", "film", "image", "film")
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
    assert store.request_cancel(job, 2.0) == "running"
    assert store.job(job).cancel_wanted
    assert store.recover(lambda row: 3, 3.0)["cancelled"] == 1
    assert not store.job(job).cancel_wanted


def test_what_was_to_be_cancelled_is_not_postponed(store: Store) -> None:
    job = claimed(store)
    store.request_cancel(job, 2.0)
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


def test_a_new_plan_keeps_what_is_there(store: Store) -> None:
    job = claimed(store)
    store.note_plan(job, OUTPUT, [8, 8, 8, 3], {0, 1, 2, 3}, 2.0)
    store.note_chunk(job, 0, 1.5, "cpu", 3.0)
    store.note_chunk(job, 1, 2.5, "cpu", 4.0)
    # Chunk 2 got its name, and then the daemon was killed. Chunk 1 was lost.
    store.note_plan(job, OUTPUT, [8, 8, 8, 3], {1, 3}, 9.0)
    found = [(chunk.index, chunk.seconds, chunk.finished) for chunk in store.chunks(job)]
    assert found == [(0, 1.5, 3.0), (1, None, None), (2, None, 9.0), (3, None, None)]
    assert store.job(job).frames_done == 16
    store.note_plan(job, OUTPUT, [27], {0}, 10.0)
    assert [(chunk.frames, chunk.finished) for chunk in store.chunks(job)] == [(27, None)]


def test_only_planned_chunks_of_running_jobs(store: Store) -> None:
    with pytest.raises(InternalError, match="not running"):
        store.note_plan(in_state(store, "queued"), OUTPUT, [1], {0}, 2.0)
    with pytest.raises(InternalError, match="no chunk 7"):
        store.note_chunk(1, 7, 1.0, "cpu", 2.0)


@given(st.integers(1, 5000))
def test_delays_grow_to_a_limit(attempt: int) -> None:
    assert 5 <= retry_delay(attempt) <= retry_delay(attempt + 1) <= 600


def test_the_first_delays() -> None:
    assert [retry_delay(attempt) for attempt in (1, 2, 3, 4)] == [5.0, 10.0, 20.0, 40.0]
