"""Files that become jobs, each once, whatever its name and number."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from invsr_daemon.records import Identity
from invsr_daemon.store.rows import STATES, JobRow, NewJob, State
from invsr_daemon.store.store import Store
from tests.store.support import (
    OUTPUT,
    claimed,
    in_state,
    new_job,
)


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
    store.note_plan(job, OUTPUT, [48, 48, 4], {0, 1, 2}, 2.0)
    store.note_chunk(job, 1, 9.5, "cuda:0", 3.0)
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


def test_a_record_of_an_earlier_version_knows_no_birth(store: Store) -> None:
    """Its file is known all the same; one of another birth is another file."""
    older, newer = new_job(0), replace(new_job(1), identity=Identity(1, 5, 7, 100))
    assert len(store.accept([older, newer], 1.0)) == 2
    for known, identity in ((older, Identity(0, 5, 7, 100)), (newer, newer.identity)):
        assert store.known(known.source, identity)
        assert store.accept([replace(known, identity=identity)], 2.0) == []
    another = replace(newer, identity=Identity(1, 5, 7, 200))
    assert not store.known(another.source, another.identity)
    assert len(store.accept([another], 2.0)) == 1


@pytest.mark.parametrize("name", [b"\xff\xfe.mkv", b"a\nb", "字🎬".encode(), b"-rf"])
def test_names_of_any_bytes(store: Store, name: bytes) -> None:
    source = Path("/inbox") / os.fsdecode(name)
    (job,) = store.accept([NewJob(source, Path(source.name), Identity(1, 2, 3), "film", None, 0, "{}")], 1.0)
    assert store.known(source, Identity(1, 2, 3))
    assert store.claim("film", 1.0) is not None
    store.note_plan(job, source, [1], {0}, 1.0)
    store.fail(job, f"{source} is no film", 2.0)
    row = store.job(job)
    assert os.fsencode(row.source) == os.fsencode(row.output or "") == b"/inbox/" + name
    assert os.fsencode(row.relative) == name
    assert row.reason is not None
    assert row.reason.endswith(" is no film")
    row.reason.encode()  # can be printed and sent anywhere


def test_what_ended_long_ago_can_be_forgotten(store: Store) -> None:
    store.accept([new_job(number) for number in range(5)], 1.0)
    for ended in (10.0, 20.0, 30.0):
        job = store.claim("film", 2.0)
        assert job is not None
        store.note_plan(job.id, OUTPUT, [1], {0}, 2.0)
        store.finish(job.id, OUTPUT, 1, None, ended)
        if ended != 20.0:
            store.mark_tidy(job.id)
    assert [row.id for row in store.ended_before(25.0, 0, 9)] == [1], "2 is not tidied up, 3 is too young"
    assert store.ended_before(25.0, 1, 9) == []
    store.forget([1, 4])
    assert [row.id for row in store.jobs()] == [5, 4, 3, 2], "4 has not ended"
    assert not store.known(new_job(0).source, new_job(0).identity)
    assert [*store.transitions(1), *store.attempts(1), *store.chunks(1)] == []
    for job_id in (4, 5):
        store.request_cancel(job_id, 3.0)
    assert [row.id for row in store.ended_before(99.0, 0, 9)] == [3, 4], (
        "the latest id is not to be used again"
    )
