"""The files of an installed model, and the lock that says what they must be."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import ModelError, ResourceError
from ..files.durable import DISK_FULL, sync_rename
from .known import Sources

LOCK_FORMAT = 1


@dataclass(frozen=True)
class FileEntry:
    """A file as a lock records it."""

    size: int
    sha256: str


@dataclass(frozen=True)
class RepoLock:
    """One repository at one commit, and the files taken from it."""

    id: str
    requested: str
    sha: str
    files: dict[str, FileEntry]


@dataclass(frozen=True)
class Lock:
    """What was pulled and what was installed. The packaged model's has no sources."""

    sources: Sources | None
    repos: dict[str, RepoLock]
    installed: dict[str, FileEntry]


def lock_path(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock.json")


def read_lock(path: Path) -> Lock | None:
    """The lock, or None if there is none. Raises ModelError if it is damaged or of another format."""
    try:
        document = json.loads(path.read_text())
        if document["format"] != LOCK_FORMAT:
            raise ValueError(f"format {document['format']!r}, not {LOCK_FORMAT}")
        sources = document["sources"]
        return Lock(
            sources=None if sources is None else Sources(**sources),
            repos={
                part: RepoLock(repo["id"], repo["requested"], repo["sha"], _entries(repo["files"]))
                for part, repo in document["repos"].items()
            },
            installed=_entries(document["installed"]),
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"the lock file {path} cannot be read ({error}): restore it or remove it") from error


def _entries(files: Mapping[str, Mapping[str, Any]]) -> dict[str, FileEntry]:
    return {name: FileEntry(int(entry["size"]), str(entry["sha256"])) for name, entry in files.items()}


def write_lock(path: Path, lock: Lock) -> None:
    partial = path.with_name(f".{path.name}.part")
    with partial.open("w") as out:
        json.dump({"format": LOCK_FORMAT, **asdict(lock)}, out, indent=1, sort_keys=True)
        out.write("\n")
    sync_rename(partial, path)


def files_of(folder: Path) -> dict[str, Path]:
    """Every file below, hidden ones aside, by its name relative to the folder."""
    found = ((path.relative_to(folder), path) for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        name.as_posix(): path for name, path in found if not any(part.startswith(".") for part in name.parts)
    }


def entry_of(path: Path) -> FileEntry:
    with path.open("rb") as file:
        return FileEntry(os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest())


def differences(folder: Path, lock: Lock) -> list[str]:
    """How a model's files differ from what was installed."""
    files = files_of(folder)
    problems = [f"{name} is missing" for name in lock.installed if name not in files]
    problems += [f"{name} does not belong here" for name in files if name not in lock.installed]
    if problems:
        return problems
    with disk_errors(folder):
        return [
            f"{name} has changed"
            for name, path in files.items()
            if path.stat().st_size != lock.installed[name].size or entry_of(path) != lock.installed[name]
        ]


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            raise ResourceError(f"the disk of {folder} is full: {error}") from error
        raise ModelError(f"cannot use {folder}: {error}") from error
