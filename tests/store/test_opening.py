"""The file: made, brought to a later version, damaged, held by another process."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from invsr_daemon.errors import ResourceError
from invsr_daemon.records import Identity
from invsr_daemon.store import sqlite as sqlite_module
from invsr_daemon.store.schema import MIGRATIONS
from invsr_daemon.store.sqlite import StoreError, prepare
from invsr_daemon.store.store import Store
from tests.store.support import (
    assert_consistent,
    claimed,
    new_job,
    raw,
)

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
