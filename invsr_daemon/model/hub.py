"""Named models: where they come from, their licences, revisions, checksums, and their conversion.

    MODELS_DIR/NAME/             an installed model, whole and checked; loading.py describes what is inside
    MODELS_DIR/NAME.lock.json    the commits it came from, and the SHA-256 of every file
    MODELS_DIR/.NAME.partial/    a pull that is under way or was interrupted

A revision such as "main" is resolved to a commit when a model is first pulled; from then on the lock
holds every later pull, on this machine or on one the lock was copied to, to the same bytes.

Files are fetched here and not by `hf_hub_download`, because that starts an interrupted file again from
its first byte. Nothing heavy is imported before it is needed.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, urlsplit

from .. import __version__
from ..durable import DISK_FULL, sync, sync_rename
from ..records import ModelError, ModelUnreachableError, ResourceError

Report = Callable[[str], None]

PUBLIC_HUB = "https://huggingface.co"
PACKAGED_MODELS = Path(__file__).parent / "weights"
DEFAULT_MODEL = "default"

BASE_FOLDERS = ("vae", "unet", "scheduler", "text_encoder", "tokenizer")
BASE_WEIGHTS = ("vae", "unet", "text_encoder")
ONLY_FOR_THE_PROMPT = ("text_encoder", "tokenizer")
PREDICTOR = "noise_predictor"
PREDICTOR_CONFIG = "noise_predictor_config.json"
PARTS = ".parts"

LOCK_FORMAT = 1
TIMEOUT_SECONDS = 20.0  # to connect, and between two pieces of a file
RETRY_WAITS = (0.5, 1.0, 2.0, 4.0)  # seconds; counted anew whenever something was received
BUSY = (408, 425, 429, 500, 502, 503, 504)
BLOCK = 1 << 20
PROGRESS_STEP = 256 << 20
LONGEST_REASON = 600
# What the libraries raise at files of another make.
MISFITS = (OSError, RuntimeError, ValueError, TypeError, LookupError, AttributeError)

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Sources:
    """Where a model's parts are fetched from. A revision is a branch, a tag or a commit."""

    base_repo: str
    predictor_repo: str
    predictor_file: str
    base_revision: str = "main"
    predictor_revision: str = "main"


@dataclass(frozen=True)
class Licence:
    """What a person must know before using a part of a model."""

    part: str
    name: str
    note: str
    url: str


@dataclass(frozen=True)
class KnownModel:
    """A model with a name; one without sources is part of this package."""

    name: str
    licences: tuple[Licence, ...]
    sources: Sources | None = None


KNOWN: Mapping[str, KnownModel] = {
    model.name: model
    for model in (
        KnownModel(
            DEFAULT_MODEL,
            (
                Licence(
                    "model",
                    "Apache-2.0",
                    "part of this package",
                    "https://www.apache.org/licenses/LICENSE-2.0",
                ),
            ),
        ),
        KnownModel(
            "sd-turbo",
            (
                Licence(
                    "base model",
                    "Stability AI's licence for SD-Turbo",
                    "not a free licence; it has conditions for commercial use",
                    f"{PUBLIC_HUB}/stabilityai/sd-turbo",
                ),
                Licence(
                    "noise predictor",
                    "S-Lab License 1.0",
                    "non-commercial use only",
                    f"{PUBLIC_HUB}/OAOA/InvSR",
                ),
            ),
            Sources("stabilityai/sd-turbo", "OAOA/InvSR", "noise_predictor_sd_turbo_v5.pth"),
        ),
    )
}


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


@dataclass(frozen=True)
class Listed:
    """One line of `models list`."""

    name: str
    path: Path
    installed: bool
    licence: str
    size_bytes: int
    revision: str | None


# ------------------------------------------------------------------------------------------ finding


def default_models_dir() -> Path:
    """$INVSR_MODELS_DIR, or the user's data directory."""
    if named := os.environ.get("INVSR_MODELS_DIR"):
        return Path(named)
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data) / "invsr-daemon" / "models"


def resolve(name_or_dir: str | Path, models_dir: Path | None = None) -> Path:
    """The directory of a model. A known name goes before a directory of that name (write ./NAME for it).

    Raises ModelError if there is no such model, or it is known but not pulled yet.
    """
    name = str(name_or_dir)
    if name not in KNOWN:
        folder = Path(name_or_dir).expanduser()
        if folder.is_dir():
            return folder
        raise ModelError(f"no model {name!r}: not a directory, and the names are {', '.join(KNOWN)}")
    folder = _folder(name, models_dir)
    if folder.is_dir():
        return folder
    if KNOWN[name].sources is None:
        raise ModelError(f"the packaged model is missing at {folder}: install invsr-daemon again")
    raise ModelError(f"the model {name!r} is not at {folder}: run `invsr-daemon models pull {name}`")


def listing(models_dir: Path | None = None) -> tuple[Listed, ...]:
    """Every known model, installed or not. Raises ModelError if a lock file is damaged."""
    return tuple(_listed(model, models_dir) for model in KNOWN.values())


def verify(name: str, models_dir: Path | None = None) -> list[str]:
    """What is wrong with an installed model, in words; empty if every file is as its lock says.

    Raises ModelError if the name is not known, or a file cannot be read.
    """
    known = _known(name)
    folder = _folder(name, models_dir)
    if not folder.is_dir():
        return [f"{folder} is missing"]
    try:
        lock = _read_lock(_lock_path(folder))
    except ModelError as error:
        return [str(error)]
    if lock is not None:
        return _differences(folder, lock)
    if known.sources is None:
        return _missing_parts(folder)
    return [f"{_lock_path(folder)} is missing: nothing says what the files should be"]


def fingerprint(path: Path) -> str:
    """SHA-256 over the names and contents of a model directory's files.

    A lock beside the directory spares reading gigabytes, as long as names and sizes are the lock's.
    Raises ModelError if there is no such directory or it cannot be read.
    """
    folder = path.resolve()
    if not folder.is_dir():
        raise ModelError(f"no model at {path}: it is not a directory")
    lock = _read_lock(_lock_path(folder))
    with _disk_errors(folder):
        files = _files(folder)
        sizes = {name: file.stat().st_size for name, file in files.items()}
        if lock is not None and sizes == {name: entry.size for name, entry in lock.installed.items()}:
            digests = {name: entry.sha256 for name, entry in lock.installed.items()}
        else:
            digests = {name: _entry(file).sha256 for name, file in files.items()}
    lines = "".join(f"{digests[name]}  {name}\n" for name in sorted(digests))
    return hashlib.sha256(lines.encode()).hexdigest()


def lock_as_it_is(folder: Path) -> None:
    """Write a lock beside a model of one's own, so that `verify` notices any later change."""
    files = _files(folder.resolve())
    _write_lock(
        _lock_path(folder.resolve()), Lock(None, {}, {name: _entry(file) for name, file in files.items()})
    )


def _known(name: str) -> KnownModel:
    if name not in KNOWN:
        raise ModelError(f"no model is named {name!r}; the names are {', '.join(KNOWN)}")
    return KNOWN[name]


def _folder(name: str, models_dir: Path | None) -> Path:
    if KNOWN[name].sources is None:
        return PACKAGED_MODELS / name
    return (models_dir or default_models_dir()) / name


def _lock_path(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock.json")


def _listed(model: KnownModel, models_dir: Path | None) -> Listed:
    folder = _folder(model.name, models_dir)
    installed = folder.is_dir()
    lock = _read_lock(_lock_path(folder)) if installed else None
    base = lock.repos.get("base") if lock else None
    return Listed(
        name=model.name,
        path=folder,
        installed=installed,
        licence=" and ".join(licence.name for licence in model.licences),
        size_bytes=sum(file.stat().st_size for file in _files(folder).values()) if installed else 0,
        revision=base.sha if base else None,
    )


def _missing_parts(folder: Path) -> list[str]:
    wanted = ("vae/config.json", "unet/config.json", "scheduler/scheduler_config.json")
    problems = [f"{name} is missing" for name in wanted if not (folder / name).is_file()]
    if not any(folder.glob(f"{PREDICTOR}*")):
        problems.append(f"{PREDICTOR} is missing")
    return problems


# ------------------------------------------------------------------------------------------ pulling


def pull(
    name: str,
    models_dir: Path | None = None,
    sources: Sources | None = None,
    endpoint: str | None = None,
    report: Report = lambda _: None,
    *,
    update: bool = False,
) -> Path:
    """Fetch, check, convert and install a named model; return its directory.

    An installed model that agrees with its lock is left as it is, without any use of the network.
    An interrupted pull goes on where it stopped when it is called again.

    Args:
        name: one of KNOWN.
        models_dir: `default_models_dir()` if not given.
        sources: other repositories or revisions; those of the lock, else the published ones, if not given.
        endpoint: base URL of the hub; $HF_ENDPOINT, else the public hub, if not given.
        report: is told, line by line, about licences and progress.
        update: resolve the revisions afresh, whatever the lock says.

    Raises:
        ModelUnreachableError: the hub cannot be reached or broke off; retryable.
        ModelError: no such repository, revision or file; access is refused; a checksum is wrong; the files
            are not an InvSR model. Nothing was installed then.
        ResourceError: the disk is full.
    """
    known = _known(name)
    if known.sources is None:
        report(f"{name} is part of this package; there is nothing to pull")
        return resolve(name)
    folder = _folder(name, models_dir)
    with _disk_errors(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _alone(folder):
            lock = _read_lock(_lock_path(folder))
            wanted = sources or (lock.sources if lock else None) or known.sources
            if lock and lock.sources == wanted and not update and _already_there(folder, lock, report):
                return folder
            if lock is None and folder.exists():
                raise ModelError(
                    f"{folder} was not pulled by this command, or its lock file {_lock_path(folder).name}"
                    " is lost: put the lock file back or move the directory away"
                )
            _Pull(known, wanted, folder, _hub(endpoint, folder), report).run(lock, update)
    return folder


def sources_for(name: str, **changes: str | None) -> Sources | None:
    """The published sources of a model with some fields of Sources changed; None if none is given.

    Raises ModelError if the name is not known, or the model is part of the package.
    """
    published = _known(name).sources
    given = {field: value for field, value in changes.items() if value is not None}
    if not given:
        return None
    if published is None:
        raise ModelError(f"{name} is part of this package: it has no repository to choose")
    return replace(published, **given)


def _already_there(folder: Path, lock: Lock, report: Report) -> bool:
    """Whether the model is installed, or needs only the last step of an interrupted pull."""
    staging = _staging(folder)
    if staging.is_dir() and not _differences(staging, lock):
        _install(staging, folder)
        report(f"{folder.name} is installed at {folder}")
        return True
    if not folder.is_dir():
        return False
    problems = _differences(folder, lock)
    if problems:
        report(f"{folder} is damaged and will be mended: {'; '.join(problems)}")
        return False
    report(f"{folder.name} is installed at {folder}, and every file agrees with its lock")
    return True


@dataclass(frozen=True)
class _File:
    """A file of a repository, where it goes, and what it must be: by SHA-256 or by git's blob id."""

    name: str
    target: str
    size: int
    sha256: str | None
    blob_id: str | None

    @property
    def digest(self) -> str:
        return self.sha256 or self.blob_id or ""


@dataclass(frozen=True)
class _Snapshot:
    """The wanted files of a repository at one commit."""

    repo: str
    sha: str
    licence: str | None
    files: tuple[_File, ...]


@dataclass(frozen=True)
class _Pull:
    """One pull of one model, from the hub to its directory."""

    known: KnownModel
    sources: Sources
    folder: Path
    hub: _Hub
    report: Report

    def run(self, lock: Lock | None, update: bool) -> None:
        """Everything, held to `lock` where it speaks of the same repository and revision."""
        sources = self.sources
        held = lock.repos if lock and not update else {}
        base = self._snapshot(sources.base_repo, sources.base_revision, _base_target, held.get("base"))
        held_predictor = held.get(PREDICTOR)
        if held_predictor and sources.predictor_file not in held_predictor.files:
            held_predictor = None  # the lock speaks of another of that repository's predictors
        predictor = self._snapshot(
            sources.predictor_repo, sources.predictor_revision, self._predictor_target, held_predictor
        )
        _require_base(base)
        source = _require_predictor(predictor, sources.predictor_file)
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
        _convert_predictor(staging, source.target)
        _encode_prompt(staging)
        for name in ONLY_FOR_THE_PROMPT:
            shutil.rmtree(staging / name)
        installed = {name: _entry(path) for name, path in _files(staging).items()}
        _write_lock(_lock_path(self.folder), Lock(sources, repos, installed))
        _install(staging, self.folder)
        self.report(f"{self.known.name} is installed at {self.folder}")

    def _snapshot(
        self, repo: str, revision: str, place: Callable[[str], str | None], held: RepoLock | None
    ) -> _Snapshot:
        if held is None or held.id != repo or revision not in (held.requested, held.sha):
            return self.hub.snapshot(repo, revision, place)
        self.report(f"{repo}: held to commit {held.sha} by {_lock_path(self.folder).name}")
        return _held(self.hub.snapshot(repo, held.sha, place), held, _lock_path(self.folder))

    def _is_current(self, lock: Lock, base: _Snapshot, predictor: _Snapshot) -> bool:
        """Whether an update has nothing to do."""
        commits = {part: repo.sha for part, repo in lock.repos.items()}
        return (
            lock.sources == self.sources
            and commits == {"base": base.sha, PREDICTOR: predictor.sha}
            and not _differences(self.folder, lock)
        )

    def _predictor_target(self, name: str) -> str | None:
        if name == self.sources.predictor_file:
            return PREDICTOR + PurePosixPath(name).suffix
        if name == PREDICTOR_CONFIG:
            return name
        return _licence_target(PREDICTOR, name)

    def _show_licences(self, base: _Snapshot, predictor: _Snapshot) -> None:
        for licence, snapshot in zip(self.known.licences, (base, predictor), strict=True):
            self.report(f"{licence.part}: {snapshot.repo} at commit {snapshot.sha}")
            self.report(f"    licence: {licence.name} ({licence.note}); read it at {licence.url}")
            if snapshot.licence:
                page = f"{self.hub.endpoint}/{snapshot.repo}"
                self.report(f"    the hub declares: {snapshot.licence}; see {page}")

    def _check_space(self, staging: Path, files: tuple[_File, ...]) -> None:
        there = sum(path.stat().st_size for path in staging.rglob("*") if path.is_file())
        needed = sum(file.size for file in files) - there
        free = shutil.disk_usage(staging).free
        if needed > free:
            raise ResourceError(
                f"{self.known.name} needs {_human(needed)} more in {staging.parent},"
                f" where {_human(free)} are free"
            )

    def _fetched(self, snapshot: _Snapshot, requested: str, staging: Path) -> RepoLock:
        entries = {file.name: self._fetch(snapshot, file, staging) for file in snapshot.files}
        return RepoLock(snapshot.repo, requested, snapshot.sha, entries)

    def _fetch(self, snapshot: _Snapshot, file: _File, staging: Path) -> FileEntry:
        """The file in its place in `staging`: from an earlier pull if it is right, else from the hub."""
        path, installed = staging / file.target, self.folder / file.target
        if not path.exists() and installed.is_file() and installed.stat().st_size == file.size:
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(installed, path)
        if path.is_file():
            entry = _entry(path)
            if _problem(path, entry, file) is None:
                return entry
            path.unlink()
        part = staging / PARTS / file.digest
        part.parent.mkdir(exist_ok=True)
        self.report(f"{snapshot.repo}: {file.name} ({_human(file.size)})")
        self._download(snapshot, file, part)
        entry = _entry(part)
        if problem := _problem(part, entry, file):
            part.unlink()
            raise ModelError(
                f"{file.name} of {snapshot.repo} at {snapshot.sha} is not what it should be: {problem}."
                " It was removed; pull again to fetch it anew"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        part.rename(path)
        return entry

    def _download(self, snapshot: _Snapshot, file: _File, part: Path) -> None:
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


def _base_target(name: str) -> str | None:
    """Where a file of the base repository goes; None for what a model does not need."""
    parts = name.split("/")
    if len(parts) == 2 and parts[0] in BASE_FOLDERS and _is_needed(PurePosixPath(parts[1])):
        return name
    return _licence_target("base", name)


def _is_needed(file: PurePosixPath) -> bool:
    """Settings, vocabularies and full-precision safetensors: a variant has a dot in its stem (x.fp16)."""
    if file.suffix == ".safetensors":
        return "." not in file.stem
    return file.suffix in {".json", ".txt"} and ".fp16." not in file.name


def _licence_target(part: str, name: str) -> str | None:
    """Licences travel with the weights."""
    is_licence = "/" not in name and name.upper().startswith(("LICENSE", "LICENCE"))
    return f"licences/{part}/{name}" if is_licence else None


def _require_base(base: _Snapshot) -> None:
    targets = [PurePosixPath(file.target) for file in base.files]
    missing = [folder for folder in BASE_FOLDERS if not any(path.parts[0] == folder for path in targets)]
    missing += [
        f"{folder}/*.safetensors in full precision"
        for folder in BASE_WEIGHTS
        if folder not in missing
        and not any(path.parts[0] == folder and path.suffix == ".safetensors" for path in targets)
    ]
    if missing:
        raise ModelError(f"{base.repo} at {base.sha} is not a base model that fits: no {', '.join(missing)}")


def _require_predictor(predictor: _Snapshot, wanted: str) -> _File:
    if PurePosixPath(wanted).suffix not in {".pth", ".safetensors"}:
        raise ModelError(f"the noise predictor's file must be .pth or .safetensors, not {wanted!r}")
    source = next((file for file in predictor.files if file.name == wanted), None)
    if source is None:
        raise ModelError(f"{predictor.repo} at {predictor.sha} has no file {wanted!r}")
    return source


def _held(snapshot: _Snapshot, lock: RepoLock, path: Path) -> _Snapshot:
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


def _problem(path: Path, entry: FileEntry, file: _File) -> str | None:
    """How the file on disk differs from what was declared, with what was expected and what was found."""
    if entry.size != file.size:
        return f"expected {file.size} bytes, found {entry.size}"
    if file.sha256 and entry.sha256 != file.sha256:
        return f"expected SHA-256 {file.sha256}, found {entry.sha256}"
    if file.blob_id and (found := _blob_id(path)) != file.blob_id:
        return f"expected git blob {file.blob_id}, found {found}"
    return None


# ------------------------------------------------------------------------------------------ the hub


def _hub(endpoint: str | None, folder: Path) -> _Hub:
    url = (endpoint or os.environ.get("HF_ENDPOINT") or PUBLIC_HUB).rstrip("/")
    if urlsplit(url).scheme not in {"http", "https"} or not urlsplit(url).hostname:
        raise ModelError(f"the hub's address must begin with https:// or http://, not {url!r}")
    advice = f"pull on a machine with network access and copy {folder} and {_lock_path(folder)} from there"
    return _Hub(url, f"try again later, or {advice}")


@dataclass(frozen=True)
class _Hub:
    """A Hugging Face hub, or something that speaks as one. All failures are ModelErrors."""

    endpoint: str
    advice: str

    def snapshot(self, repo: str, revision: str, place: Callable[[str], str | None]) -> _Snapshot:
        """The commit behind `revision`, and those of its files for which `place` has a place."""
        from huggingface_hub import get_session, hf_raise_for_status
        from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

        with self._errors(repo, revision):
            validate_repo_id(repo)
            response = get_session().get(
                f"{self.endpoint}/api/models/{repo}/revision/{quote(revision, safe='')}",
                params={"blobs": True},
                headers=_headers(),
                timeout=TIMEOUT_SECONDS,
            )
            hf_raise_for_status(response)
        try:
            return _parsed(repo, response.json(), place)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(
                f"{self.endpoint} did not answer as a Hugging Face hub about {repo} ({error!r});"
                " check the address, and whether a proxy stands between"
            ) from error

    def stream(self, snapshot: _Snapshot, file: _File, part: Path, report: Report) -> None:
        """Append what is missing to `part`. Whatever arrives before a failure is kept.

        Plain HTTP also for files in the hub's chunk store: only so can a file be continued.
        """
        from huggingface_hub import get_session, hf_hub_url, hf_raise_for_status

        had = part.stat().st_size
        headers = _headers() | {"Accept-Encoding": "identity"}
        if had:
            headers["Range"] = f"bytes={had}-"
        with self._errors(snapshot.repo, snapshot.sha):
            url = hf_hub_url(snapshot.repo, file.name, revision=snapshot.sha, endpoint=self.endpoint)
            with get_session().stream("GET", url, headers=headers, timeout=TIMEOUT_SECONDS) as response:
                if response.status_code == 416:  # it has no more bytes, although it declared more
                    part.unlink()
                    raise ModelError(
                        f"{file.name} of {snapshot.repo} is not what it should be:"
                        f" expected {file.size} bytes, found {had}"
                    )
                hf_raise_for_status(response)
                # A server that does not continue a file sends it whole.
                with part.open("ab" if response.status_code == 206 else "wb") as out:
                    _copy(response.iter_bytes(), out, file, report)
        have = part.stat().st_size
        if have < file.size:
            raise ModelUnreachableError(
                f"{self.endpoint} broke off after {have} of {file.size} bytes of {file.name}; {self.advice}"
            )

    @contextmanager
    def _errors(self, repo: str, revision: str) -> Iterator[None]:
        """The client's errors as ours, each saying what to do. The order matters: some contain others."""
        # HTTPError is that of the HTTP library beneath the client, which differs with its version.
        from huggingface_hub.errors import (  # type: ignore[attr-defined]
            EntryNotFoundError,
            GatedRepoError,
            HfHubHTTPError,
            HFValidationError,
            HTTPError,
            OfflineModeIsEnabled,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        page = f"{self.endpoint}/{repo}"
        try:
            yield
        except HFValidationError as error:
            raise ModelError(f"{repo!r} is not the name of a repository: {error}") from error
        except OfflineModeIsEnabled as error:
            raise ModelError(f"{page} is needed, but HF_HUB_OFFLINE forbids it: unset it") from error
        except GatedRepoError as error:
            raise ModelError(_refused(page)) from error
        except RevisionNotFoundError as error:
            raise ModelError(f"{page} has no revision {revision!r}, or not any more") from error
        except EntryNotFoundError as error:
            raise ModelError(f"{page} at {revision} lacks a file that it lists: {_first(error)}") from error
        except RepositoryNotFoundError as error:
            raise ModelError(_absent(page)) from error
        except HfHubHTTPError as error:
            status = error.response.status_code
            if status in {401, 404}:  # to strangers a private repository is as one that does not exist
                raise ModelError(_absent(page)) from error
            if status == 403:
                raise ModelError(_refused(page)) from error
            if status in BUSY:
                raise ModelUnreachableError(f"{page} answered {status}; {self.advice}") from error
            raise ModelError(f"{page} answered {status}: {_first(error)}") from error
        except HTTPError as error:
            reason = _first(error) or type(error).__name__
            raise ModelUnreachableError(f"cannot reach {self.endpoint}: {reason}; {self.advice}") from error


def _headers() -> dict[str, str]:
    """Our name, and the user's token if there is one.

    The client's own headers would ask the public hub for a list of programs to recognise first.
    """
    from huggingface_hub import get_token

    headers = {"User-Agent": f"invsr-daemon/{__version__}"}
    if token := get_token():
        headers["Authorization"] = f"Bearer {token}"
    return headers


def _absent(page: str) -> str:
    return (
        f"there is no repository {page}, or it is not open to everyone: check its name;"
        " if it is private or gated, ask for access there and set HF_TOKEN to a valid token"
    )


def _refused(page: str) -> str:
    return f"{page} refuses access: accept its licence there, then set HF_TOKEN to a token of your account"


def _first(error: Exception) -> str:
    """The first line of an error's text: the client adds paragraphs."""
    return next((line for line in str(error).splitlines() if line.strip()), "")


def _parsed(repo: str, document: Any, place: Callable[[str], str | None]) -> _Snapshot:
    sha = document["sha"]
    if not _COMMIT.fullmatch(sha):
        raise ValueError(f"{sha!r} is not a commit")
    files = tuple(
        _parsed_file(entry, target)
        for entry in document["siblings"]
        if (target := place(entry["rfilename"])) is not None
    )
    card = document.get("cardData") or {}
    declared = [str(card[key]) for key in ("license", "license_name", "license_link") if card.get(key)]
    return _Snapshot(repo, sha, ", ".join(declared) or None, files)


def _parsed_file(entry: dict[str, Any], target: str) -> _File:
    """A file must come with a checksum; the digest also becomes a file name, so its form is checked."""
    name = entry["rfilename"]
    if lfs := entry.get("lfs"):
        size, sha256, blob_id = lfs["size"], lfs["sha256"], None
        valid = _SHA256.fullmatch(sha256)
    else:
        size, sha256, blob_id = entry["size"], None, entry["blobId"]
        valid = _COMMIT.fullmatch(blob_id)
    if not valid or not isinstance(size, int) or size < 0:
        raise ValueError(f"{name} comes without a proper size and checksum")
    return _File(name, target, size, sha256, blob_id)


def _copy(pieces: Iterator[bytes], out: Any, file: _File, report: Report) -> None:
    """Write the pieces, never far beyond the declared size, and see them safely on the disk."""
    done = out.tell()
    for piece in pieces:
        out.write(piece)
        before, done = done, done + len(piece)
        if done // PROGRESS_STEP > before // PROGRESS_STEP:
            report(f"    {_human(done)} of {_human(file.size)}")
        if done > file.size:
            break
    out.flush()
    os.fsync(out.fileno())


# --------------------------------------------------------------------------------------- converting


def _convert_predictor(staging: Path, source: str) -> None:
    """The noise predictor as safetensors, once its names and shapes have been found right."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    from .loading import read_state
    from .noise_predictor import NoisePredictor

    path, config = staging / source, staging / PREDICTOR_CONFIG
    result = staging / f"{PREDICTOR}.safetensors"
    try:
        state = read_state(path)
        NoisePredictor(**(json.loads(config.read_text()) if config.exists() else {})).load_state_dict(state)
        if path != result:
            save_file({name: tensor.clone().contiguous() for name, tensor in state.items()}, result)
            path.unlink()
    except (ModelError, SafetensorError, *MISFITS) as error:
        _raise_if_full(error)
        raise ModelError(f"the noise predictor does not fit: {str(error)[:LONGEST_REASON]}") from error


def _encode_prompt(staging: Path) -> None:
    """The constant prompt, encoded once: afterwards no text encoder is needed."""
    from safetensors import SafetensorError

    from .loading import write_prompts

    try:
        write_prompts(staging)
    except (SafetensorError, *MISFITS) as error:
        _raise_if_full(error)
        raise ModelError(f"the prompt cannot be encoded: {str(error)[:LONGEST_REASON]}") from error


def _raise_if_full(error: Exception) -> None:
    """Safetensors tells of a full disk only in words."""
    if getattr(error, "errno", None) in DISK_FULL or "No space left" in str(error):
        raise ResourceError(f"the disk is full: {error}") from error


# ------------------------------------------------------------------------------- files and the lock


def _staging(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.partial")


def _files(folder: Path) -> dict[str, Path]:
    """Every file below, hidden ones aside, by its name relative to the folder."""
    found = ((path.relative_to(folder), path) for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        name.as_posix(): path for name, path in found if not any(part.startswith(".") for part in name.parts)
    }


def _entry(path: Path) -> FileEntry:
    with path.open("rb") as file:
        return FileEntry(os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest())


def _blob_id(path: Path) -> str:
    """What git calls the file: SHA-1 of a header with its size, and its content."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _differences(folder: Path, lock: Lock) -> list[str]:
    """How a model's files differ from what was installed."""
    files = _files(folder)
    problems = [f"{name} is missing" for name in lock.installed if name not in files]
    problems += [f"{name} does not belong here" for name in files if name not in lock.installed]
    if problems:
        return problems
    with _disk_errors(folder):
        return [
            f"{name} has changed"
            for name, path in files.items()
            if path.stat().st_size != lock.installed[name].size or _entry(path) != lock.installed[name]
        ]


def _prune(staging: Path, wanted: set[str]) -> None:
    """Remove what an earlier pull of something else left."""
    for name, path in _files(staging).items():
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


def _read_lock(path: Path) -> Lock | None:
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


def _write_lock(path: Path, lock: Lock) -> None:
    partial = path.with_name(f".{path.name}.part")
    with partial.open("w") as out:
        json.dump({"format": LOCK_FORMAT, **asdict(lock)}, out, indent=1, sort_keys=True)
        out.write("\n")
    sync_rename(partial, path)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Two pulls of one model at a time would write into the same files."""
    with folder.with_name(f".{folder.name}.pull").open("w") as guard:
        try:
            fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ModelError(f"another pull of {folder.name} into {folder.parent} is under way") from error
        yield


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            raise ResourceError(f"the disk of {folder} is full: {error}") from error
        raise ModelError(f"cannot use {folder}: {error}") from error


def _human(size: int) -> str:
    """Bytes for people: 3.5 GB, 763.0 kB."""
    value = float(size)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{size} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"
