"""Models on this machine: where they are, and whether they are what they should be."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from ..errors import ModelError, NotPulledError, UnknownModelError
from .known import KNOWN, PREDICTOR, KnownModel, known_model
from .lock import Lock, differences, disk_errors, entry_of, files_of, lock_path, read_lock, write_lock

PACKAGED_MODELS = Path(__file__).parent / "weights"
# Of a model without a lock.
REQUIRED = ("vae/config.json", "unet/config.json", "scheduler/scheduler_config.json")


@dataclass(frozen=True)
class Listed:
    """One line of `models list`."""

    name: str
    path: Path
    installed: bool
    licence: str
    size_bytes: int
    revision: str | None


def default_models_dir() -> Path:
    """$INVSR_MODELS_DIR, or the user's data directory."""
    if named := os.environ.get("INVSR_MODELS_DIR"):
        return Path(named)
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data) / "invsr-daemon" / "models"


def resolve(name_or_dir: str | Path, models_dir: Path | None = None) -> Path:
    """The directory of a model. A known name goes before a directory of that name (write ./NAME for it).

    Raises UnknownModelError if there is no such model, NotPulledError if it is known but not pulled yet.
    """
    name = str(name_or_dir)
    if name not in KNOWN:
        folder = Path(name_or_dir).expanduser()
        if folder.is_dir():
            return folder
        raise UnknownModelError(f"no model {name!r}: not a directory, and the names are {', '.join(KNOWN)}")
    folder = folder_of(name, models_dir)
    if folder.is_dir():
        return folder
    if KNOWN[name].sources is None:
        raise ModelError(f"the packaged model is missing at {folder}: install invsr-daemon again")
    raise NotPulledError(f"the model {name!r} is not at {folder}: run `invsr-daemon models pull {name}`")


def require(name_or_dir: str | Path, models_dir: Path | None = None) -> Path:
    """`resolve`, where a whole model is needed: the names of its files are looked at, not what is in them.

    Raises UnknownModelError, too, for a directory that holds something else.
    """
    folder = resolve(name_or_dir, models_dir)
    missing = _missing_parts(folder)
    if not missing:
        return folder
    if str(name_or_dir) in KNOWN:
        raise NotPulledError(f"the model {str(name_or_dir)!r} at {folder} is not whole: {missing[0]}")
    raise UnknownModelError(f"{folder} holds no model: {', '.join(missing)}")


def listing(models_dir: Path | None = None) -> tuple[Listed, ...]:
    """Every known model, installed or not. Raises ModelError if a lock file is damaged."""
    return tuple(_listed(model, models_dir) for model in KNOWN.values())


def verify(name: str, models_dir: Path | None = None) -> list[str]:
    """What is wrong with an installed model, in words; empty if every file is as its lock says.

    Raises ModelError if the name is not known, or a file cannot be read.
    """
    known = known_model(name)
    folder = folder_of(name, models_dir)
    if not folder.is_dir():
        return [f"{folder} is missing"]
    try:
        lock = read_lock(lock_path(folder))
    except ModelError as error:
        return [str(error)]
    if lock is not None:
        return differences(folder, lock)
    if known.sources is None:
        return _missing_parts(folder)
    return [f"{lock_path(folder)} is missing: nothing says what the files should be"]


def fingerprint(path: Path) -> str:
    """SHA-256 over the names and contents of a model directory's files.

    A lock beside the directory spares reading gigabytes, as long as names and sizes are the lock's.
    Raises ModelError if there is no such directory or it cannot be read.
    """
    folder = path.resolve()
    if not folder.is_dir():
        raise ModelError(f"no model at {path}: it is not a directory")
    lock = read_lock(lock_path(folder))
    with disk_errors(folder):
        files = files_of(folder)
        sizes = {name: file.stat().st_size for name, file in files.items()}
        if lock is not None and sizes == {name: entry.size for name, entry in lock.installed.items()}:
            digests = {name: entry.sha256 for name, entry in lock.installed.items()}
        else:
            digests = {name: entry_of(file).sha256 for name, file in files.items()}
    lines = b"".join(b"%s  %s\n" % (digests[name].encode(), os.fsencode(name)) for name in sorted(digests))
    return hashlib.sha256(lines).hexdigest()


def lock_as_it_is(folder: Path) -> None:
    """Write a lock beside a model of one's own, so that `verify` notices any later change."""
    files = files_of(folder.resolve())
    write_lock(
        lock_path(folder.resolve()), Lock(None, {}, {name: entry_of(file) for name, file in files.items()})
    )


def folder_of(name: str, models_dir: Path | None) -> Path:
    if KNOWN[name].sources is None:
        return PACKAGED_MODELS / name
    return (models_dir or default_models_dir()) / name


def _listed(model: KnownModel, models_dir: Path | None) -> Listed:
    folder = folder_of(model.name, models_dir)
    installed = folder.is_dir()
    lock = read_lock(lock_path(folder)) if installed else None
    base = lock.repos.get("base") if lock else None
    return Listed(
        name=model.name,
        path=folder,
        installed=installed,
        licence=" and ".join(licence.name for licence in model.licences),
        size_bytes=sum(file.stat().st_size for file in files_of(folder).values()) if installed else 0,
        revision=base.sha if base else None,
    )


def _missing_parts(folder: Path) -> list[str]:
    problems = [f"{name} is missing" for name in REQUIRED if not (folder / name).is_file()]
    if not any(folder.glob(f"{PREDICTOR}*")):
        problems.append(f"{PREDICTOR} is missing")
    return problems
