"""Several processes at one file: requests, kills, full disks."""

from __future__ import annotations

import random
import signal
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from invsr_daemon.store.store import Store
from tests.store.support import (
    PATIENCE_SECONDS,
    assert_consistent,
    child,
    new_job,
    output_of,
    small_disk,
)

pytestmark = pytest.mark.slow  # starts processes, or computes for long

REQUESTS = """
chance = random.Random(1)
with Store.open(path) as store:
    print("ready", flush=True)
    for turn in range(150):
        request = chance.choice((store.request_cancel, store.retry))
        try:
            request(chance.randint(1, 20), 5.0)
        except StoreError as error:
            assert " is " in str(error), error  # "job 7 is done already"
        time.sleep(0.002)
"""


def test_requests_of_another_process_while_jobs_run(store: Store, path: Path) -> None:
    store.accept([new_job(number) for number in range(20)], 1.0)
    seen = 0
    with child(REQUESTS, path) as process:
        assert process.stdout is not None
        process.stdout.readline()
        while process.poll() is None:
            seen += store.changed()
            row = store.claim("film", 2.0)
            if row is None:
                continue
            if store.job(row.id).cancel_wanted:
                store.cancel(row.id, 3.0)
            else:
                store.fail(row.id, "no film", 3.0)
    assert process.returncode == 0
    assert seen, "what another process has written is noticed"
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
            store.note_plan(row.id, Path("/out"), [8, 8], {0, 1}, 3.0)
            store.note_chunk(row.id, 0, 1.0, "cpu", 4.0)
            chance.choice((
                lambda: store.finish(row.id, Path("/out"), 16, None, 5.0),
                lambda: store.fail(row.id, "no film", 5.0),
                lambda: store.postpone(row.id, "full", 9.0, 5.0, counts=False),
                lambda: store.request_cancel(row.id, 5.0),
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


def test_a_full_disk_passes(path: Path) -> None:
    error, after = output_of(FULL, path, small_disk(path.parent)).splitlines()
    assert error == f"DiskFullError the disk of {path} is full"
    assert after == "went on"


def test_a_disk_that_became_read_only(path: Path) -> None:
    said = output_of(READ_ONLY, path, small_disk(path.parent))
    assert said.startswith(f"StoreError {path} cannot be opened for writing")
