"""The tables of the store, from version to version."""

from __future__ import annotations

# One tuple of statements leads from each version (PRAGMA user_version) to the next.
# Files of released versions exist: append, never edit.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        # Thousands of jobs share the same settings.
        "CREATE TABLE settings (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE) STRICT",
        # Paths are bytes: they need not be UTF-8. An identity is text: inodes and times can exceed 63 bits.
        """
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
        ) STRICT
        """,
        "CREATE INDEX jobs_by_state ON jobs (state)",
        "CREATE INDEX jobs_to_claim ON jobs (kind, priority DESC, id, not_before) WHERE state = 'queued'",
        "CREATE INDEX jobs_untidy ON jobs (id) WHERE untidy",
        "CREATE INDEX jobs_not_due ON jobs (not_before) WHERE not_before IS NOT NULL",
        """
        CREATE TABLE transitions (
            id INTEGER PRIMARY KEY,
            job INTEGER NOT NULL REFERENCES jobs (id),
            time REAL NOT NULL,
            before TEXT,
            after TEXT NOT NULL,
            reason TEXT
        ) STRICT
        """,
        "CREATE INDEX transitions_by_job ON transitions (job)",
        """
        CREATE TABLE attempts (
            job INTEGER NOT NULL REFERENCES jobs (id),
            number INTEGER NOT NULL,
            started REAL NOT NULL,
            ended REAL,
            outcome TEXT,
            counted INTEGER NOT NULL DEFAULT 1,
            PRIMARY KEY (job, number)
        ) STRICT, WITHOUT ROWID
        """,
        """
        CREATE TABLE chunks (
            job INTEGER NOT NULL REFERENCES jobs (id),
            number INTEGER NOT NULL,
            frames INTEGER NOT NULL,
            seconds REAL,
            device TEXT,
            finished REAL,
            PRIMARY KEY (job, number)
        ) STRICT, WITHOUT ROWID
        """,
        "CREATE TABLE pause (id INTEGER PRIMARY KEY CHECK (id = 1), since REAL NOT NULL) STRICT",
    ),
    (),  # identities may have a fourth number, the time of birth: an older program must not read them
)
