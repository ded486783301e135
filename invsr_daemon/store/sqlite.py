"""The SQLite file: opened, brought to this version, and its errors explained."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..errors import DiskFullError, InvsrError, ResourceError

BUSY_SECONDS = 30.0
BUSY_PAUSE_SECONDS = 0.01


class StoreError(InvsrError):
    """The store cannot be used, or cannot do what a command asks of it."""


def connect(path: Path, migrations: Sequence[Sequence[str]]) -> sqlite3.Connection:
    """Open the file, made or brought to the latest version if need be. Raises StoreError, sqlite3.Error."""
    # No isolation level: sqlite3 begins and commits nothing by itself.
    database = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
    try:
        database.row_factory = sqlite3.Row
        prepare(database, path, migrations)
    except BaseException:
        database.close()
        raise
    return database


def prepare(database: sqlite3.Connection, path: Path, migrations: Sequence[Sequence[str]]) -> None:
    """Make a connection durable and its file one of the latest version."""
    found = _version(database, path, len(migrations))  # before anything of a newer file is touched
    _write_ahead(database)
    database.execute("PRAGMA synchronous = FULL")
    database.execute("PRAGMA foreign_keys = ON")
    if found == len(migrations):
        return
    with atomic(database):
        found = _version(database, path, len(migrations))  # another process may have been faster
        for statement in (each for migration in migrations[found:] for each in migration):
            database.execute(statement)
        database.execute(f"PRAGMA user_version = {len(migrations)}")


def _write_ahead(database: sqlite3.Connection) -> None:
    """Journal mode WAL. For this statement alone SQLite does not wait until another process is done."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            database.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(BUSY_PAUSE_SECONDS)


def _version(database: sqlite3.Connection, path: Path, newest: int) -> int:
    version = int(database.execute("PRAGMA user_version").fetchone()[0])
    if version > newest:
        raise StoreError(
            f"{path} was written by a newer invsr-daemon (version {version}, this one knows {newest}):"
            f" install that again, or move {path}* away to begin with an empty one"
        )
    return version


@contextmanager
def atomic(database: sqlite3.Connection) -> Iterator[None]:
    """All or nothing. Taking the writer's lock first leaves no way to find it taken halfway."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:  # some errors have ended it already
            database.execute("ROLLBACK")
        raise


@contextmanager
def explaining_database(path: Path) -> Iterator[None]:
    """Turn what SQLite says of the disk and the file into errors a person can act on."""
    try:
        yield
    except sqlite3.Error as error:
        # Errors of Python's own module carry no code.
        explained = _explained(getattr(error, "sqlite_errorcode", 0), path)
        if explained is None:
            raise
        raise explained from error


def _explained(code: int, path: Path) -> InvsrError | None:
    """None for what can only be a mistake of this program."""
    match code & 0xFF:  # the rest of it are details
        case sqlite3.SQLITE_FULL:
            return DiskFullError(f"the disk of {path} is full")
        case sqlite3.SQLITE_BUSY:
            return ResourceError(f"{path} was busy with another process for {BUSY_SECONDS:.0f} s: try again")
        case sqlite3.SQLITE_IOERR:
            return ResourceError(f"{path} cannot be read or written: is its disk full, failing or unmounted?")
        case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM:
            return StoreError(
                f"{path} cannot be opened for writing: its folder must exist, and both must be writable"
                " for this user (commands run as the daemon's user)"
            )
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return StoreError(
                f"{path} is damaged or no database of this program: restore it from a backup,"
                f" or move {path}* away (its -wal belongs to it) to begin with an empty one"
            )
    return None
