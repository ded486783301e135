"""A model from the hub to its directory: fetched, checked, converted, installed.

Files are fetched here and not by `hf_hub_download`, because that starts an interrupted file again from
its first byte.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from ..errors import ModelError, ModelUnreachableError, ResourceError
from ..files.durable import sync
from .installed import folder_of, resolve
from .known import PREDICTOR, PREDICTOR_CONFIG, KnownModel, Sources, known_model
from .lock import (
    FileEntry,
    Lock,
    RepoLock,
    differences,
    disk_errors,
    entry_of,
    files_of,
    lock_path,
    read_lock,
    write_lock,
)
from .remote import Hub, RemoteFile, Report, Snapshot, hub_at, human
from .wanted import base_target, licence_target, require_base, require_predictor

PARTS = ".parts"
RETRY_WAITS = (0.5, 1.0, 2.0, 4.0)  # seconds; counted anew whenever something was received
BLOCK = 1 << 20

# Brings a fetched folder, in which a file of this name is the noise predictor, into the form that is loaded.
Convert = Callable[[Path, str], None]


def pull(
    name: str,
    convert: Convert,
    *,
    models_dir: Path | None = None,
    sources: Sources | None = None,
    endpoint: str | None = None,
    report: Report = lambda _: None,
    update: bool = False,
    send_token: bool = False,
) -> Path:
    """Fetch, check, convert and install a named model; return its directory.

    An installed model that agrees with its lock is left as it is, without any use of the network.
    An interrupted pull goes on where it stopped when it is called again.

    Args:
        name: one of KNOWN.
        convert: is given the folder of fetched files and the name of the noise predictor's. What it raises
            ends the pull.
        models_dir: `default_models_dir()` if not given.
        sources: other repositories or revisions; those of the lock, else the published ones, if not given.
        endpoint: base URL of the hub; $HF_ENDPOINT, else the public hub, if not given.
        report: is told, line by line, about licences and progress.
        update: resolve the revisions afresh, whatever the lock says.
        send_token: send the user's token even to another hub than it was given for ($HF_ENDPOINT, else the
            public one), and even without https.

    Raises:
        ModelUnreachableError: the hub cannot be reached or broke off; retryable.
        ModelError: no such repository, revision or file; access is refused; a checksum is wrong; the files
            are not an InvSR model. Nothing was installed then.
        ResourceError: the disk is full.
    """
    known = known_model(name)
    if known.sources is None:
        report(f"{name} is part of this package; there is nothing to pull")
        return resolve(name)
    folder = folder_of(name, models_dir)
    with disk_errors(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with alone(folder):
            lock = read_lock(lock_path(folder))
            wanted = sources or (lock.sources if lock else None) or known.sources
            if lock and lock.sources == wanted and not update and _already_there(folder, lock, report):
                return folder
            if lock is None and folder.exists():
                raise ModelError(
                    f"{folder} was not pulled by this command, or its lock file {lock_path(folder).name}"
                    " is lost: put the lock file back or move the directory away"
                )
            elsewhere = f"copy {folder} and {lock_path(folder)} from there"
            advice = f"pull on a machine with network access and {elsewhere}"
            hub = hub_at(endpoint, advice, send_token=send_token)
            if withheld := hub.withheld():
                report(withheld)
            _Pull(known, wanted, folder, hub, convert, report).run(lock, update)
    return folder


def _already_there(folder: Path, lock: Lock, report: Report) -> bool:
    """Whether the model is installed, or needs only the last step of an interrupted pull."""
    staging = _staging(folder)
    if staging.is_dir() and not differences(staging, lock):
        _install(staging, folder)
        report(f"{folder.name} is installed at {folder}")
        return True
    if not folder.is_dir():
        return False
    problems = differences(folder, lock)
    if problems:
        report(f"{folder} is damaged and will be mended: {'; '.join(problems)}")
        return False
    report(f"{folder.name} is installed at {folder}, and every file agrees with its lock")
    return True


@dataclass(frozen=True)
class _Pull:
    """One pull of one model, from the hub to its directory."""

    known: KnownModel
    sources: Sources
    folder: Path
    hub: Hub
    convert: Convert
    report: Report

    def run(self, lock: Lock | None, update: bool) -> None:
        """Everything, held to `lock` where it speaks of the same repository and revision."""
        sources = self.sources
        held = lock.repos if lock and not update else {}
        base = self._snapshot(sources.base_repo, sources.base_revision, base_target, held.get("base"))
        held_predictor = held.get(PREDICTOR)
        if held_predictor and sources.predictor_file not in held_predictor.files:
            held_predictor = None  # the lock speaks of another of that repository's predictors
        predictor = self._snapshot(
            sources.predictor_repo, sources.predictor_revision, self._predictor_target, held_predictor
        )
        require_base(base)
        source = require_predictor(predictor, sources.predictor_file)
        self._show_licences(base, predictor)
        if lock and self._is_current(lock, base, predictor):
            self.report(f"{self.known.name} is up to date")
            return
        staging = _staging(self.folder)
        staging.mkdir(exist_ok=True)
        self._check_space(staging, (*base.files, *predictor.files))
        repos = {
            "base": self._fetched(base, sources.base_revision, staging),
            PREDICTOR: self._fetched(predictor, sources.predictor_revision, staging),
        }
        _prune(staging, {file.target for file in (*base.files, *predictor.files)})
        self.report("converting the noise predictor and encoding the prompt")
        self.convert(staging, source.target)
        installed = {name: entry_of(path) for name, path in files_of(staging).items()}
        write_lock(lock_path(self.folder), Lock(sources, repos, installed))
        _install(staging, self.folder)
        self.report(f"{self.known.name} is installed at {self.folder}")

    def _snapshot(
        self, repo: str, revision: str, place: Callable[[str], str | None], held: RepoLock | None
    ) -> Snapshot:
        if held is None or held.id != repo or revision not in (held.requested, held.sha):
            return self.hub.snapshot(repo, revision, place)
        self.report(f"{repo}: held to commit {held.sha} by {lock_path(self.folder).name}")
        return _held(self.hub.snapshot(repo, held.sha, place), held, lock_path(self.folder))

    def _is_current(self, lock: Lock, base: Snapshot, predictor: Snapshot) -> bool:
        """Whether an update has nothing to do."""
        commits = {part: repo.sha for part, repo in lock.repos.items()}
        return (
            lock.sources == self.sources
            and commits == {"base": base.sha, PREDICTOR: predictor.sha}
            and not differences(self.folder, lock)
        )

    def _predictor_target(self, name: str) -> str | None:
        if name == self.sources.predictor_file:
            return PREDICTOR + PurePosixPath(name).suffix
        if name == PREDICTOR_CONFIG:
            return name
        return licence_target(PREDICTOR, name)

    def _show_licences(self, base: Snapshot, predictor: Snapshot) -> None:
        for licence, snapshot in zip(self.known.licences, (base, predictor), strict=True):
            self.report(f"{licence.part}: {snapshot.repo} at commit {snapshot.sha}")
            self.report(f"    licence: {licence.name} ({licence.note}); read it at {licence.url}")
            if snapshot.licence:
                page = f"{self.hub.endpoint}/{snapshot.repo}"
                self.report(f"    the hub declares: {snapshot.licence}; see {page}")

    def _check_space(self, staging: Path, files: tuple[RemoteFile, ...]) -> None:
        there = sum(path.stat().st_size for path in staging.rglob("*") if path.is_file())
        needed = sum(file.size for file in files) - there
        free = shutil.disk_usage(staging).free
        if needed > free:
            raise ResourceError(
                f"{self.known.name} needs {human(needed)} more in {staging.parent},"
                f" where {human(free)} are free"
            )

    def _fetched(self, snapshot: Snapshot, requested: str, staging: Path) -> RepoLock:
        entries = {file.name: self._fetch(snapshot, file, staging) for file in snapshot.files}
        return RepoLock(snapshot.repo, requested, snapshot.sha, entries)

    def _fetch(self, snapshot: Snapshot, file: RemoteFile, staging: Path) -> FileEntry:
        """The file in its place in `staging`: from an earlier pull if it is right, else from the hub."""
        path, installed = staging / file.target, self.folder / file.target
        if not path.exists() and installed.is_file() and installed.stat().st_size == file.size:
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(installed, path)
        if path.is_file():
            entry = entry_of(path)
            if _problem(path, entry, file) is None:
                return entry
            path.unlink()
        part = staging / PARTS / file.digest
        part.parent.mkdir(exist_ok=True)
        self.report(f"{snapshot.repo}: {file.name} ({human(file.size)})")
        self._download(snapshot, file, part)
        entry = entry_of(part)
        if problem := _problem(part, entry, file):
            part.unlink()
            raise ModelError(
                f"{file.name} of {snapshot.repo} at {snapshot.sha} is not what it should be: {problem}."
                " It was removed; pull again to fetch it anew"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        part.rename(path)
        return entry

    def _download(self, snapshot: Snapshot, file: RemoteFile, part: Path) -> None:
        """All bytes of the file into `part`, which may hold the first of them already."""
        part.touch()
        failures = 0
        while (had := part.stat().st_size) < file.size:
            try:
                self.hub.stream(snapshot, file, part, self.report)
            except ModelUnreachableError as error:
                failures = 1 if part.stat().st_size > had else failures + 1
                if failures > len(RETRY_WAITS):
                    raise
                self.report(f"{file.name}: {error.__cause__ or error}; trying again")
                time.sleep(RETRY_WAITS[failures - 1])


def _held(snapshot: Snapshot, lock: RepoLock, path: Path) -> Snapshot:
    """The snapshot with the lock's checksums. Raises ModelError if the hub's answer contradicts them."""
    found = {file.name: file for file in snapshot.files}
    problems = [] if snapshot.sha == lock.sha else [f"the hub answered with commit {snapshot.sha}"]
    problems += [f"{name} is not there any more" for name in lock.files if name not in found]
    problems += [f"{name} is new" for name in found if name not in lock.files]
    for name in sorted(found.keys() & lock.files.keys()):
        file, entry = found[name], lock.files[name]
        if (file.size, file.sha256 or entry.sha256) != (entry.size, entry.sha256):
            problems.append(
                f"{name}: expected {entry.size} bytes with SHA-256 {entry.sha256},"
                f" found {file.size} bytes with {file.sha256 or f'git id {file.blob_id}'}"
            )
    if problems:
        raise ModelError(
            f"{snapshot.repo} at {lock.sha} is not what {path.name} recorded: {'; '.join(problems)}."
            " A commit never changes: do not trust this hub, or remove the lock if you do"
        )
    files = tuple(replace(file, sha256=lock.files[file.name].sha256) for file in snapshot.files)
    return replace(snapshot, files=files)


def _problem(path: Path, entry: FileEntry, file: RemoteFile) -> str | None:
    """How the file on disk differs from what was declared, with what was expected and what was found."""
    if entry.size != file.size:
        return f"expected {file.size} bytes, found {entry.size}"
    if file.sha256 and entry.sha256 != file.sha256:
        return f"expected SHA-256 {file.sha256}, found {entry.sha256}"
    if file.blob_id and (found := _blob_id(path)) != file.blob_id:
        return f"expected git blob {file.blob_id}, found {found}"
    return None


def _blob_id(path: Path) -> str:
    """What git calls the file: SHA-1 of a header with its size, and its content."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _staging(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.partial")


def _prune(staging: Path, wanted: set[str]) -> None:
    """Remove what an earlier pull of something else left."""
    for name, path in files_of(staging).items():
        if name not in wanted:
            path.unlink()
    _remove(staging / PARTS)


def _install(staging: Path, folder: Path) -> None:
    """Put the finished model in its place. Killed in between, the next pull does it."""
    old = folder.with_name(f".{folder.name}.old")
    _remove(old)
    if folder.exists():
        folder.rename(old)
    staging.rename(folder)
    sync(folder.parent)
    _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Two pulls of one model at a time would write into the same files."""
    with folder.with_name(f".{folder.name}.pull").open("w") as guard:
        try:
            fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ModelError(f"another pull of {folder.name} into {folder.parent} is under way") from error
        yield
