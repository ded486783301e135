"""Which files of a repository make a model, and where they go."""

from __future__ import annotations

from pathlib import PurePosixPath

from ..errors import ModelError
from .remote import RemoteFile, Snapshot

BASE_FOLDERS = ("vae", "unet", "scheduler", "text_encoder", "tokenizer")
BASE_WEIGHTS = ("vae", "unet", "text_encoder")


def base_target(name: str) -> str | None:
    """Where a file of the base repository goes; None for what a model does not need."""
    parts = name.split("/")
    if len(parts) == 2 and parts[0] in BASE_FOLDERS and _is_needed(PurePosixPath(parts[1])):
        return name
    return licence_target("base", name)


def _is_needed(file: PurePosixPath) -> bool:
    """Settings, vocabularies and full-precision safetensors: a variant has a dot in its stem (x.fp16)."""
    if file.suffix == ".safetensors":
        return "." not in file.stem
    return file.suffix in {".json", ".txt"} and ".fp16." not in file.name


def licence_target(part: str, name: str) -> str | None:
    """Licences travel with the weights."""
    is_licence = "/" not in name and name.upper().startswith(("LICENSE", "LICENCE"))
    return f"licences/{part}/{name}" if is_licence else None


def require_base(base: Snapshot) -> None:
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


def require_predictor(predictor: Snapshot, wanted: str) -> RemoteFile:
    if PurePosixPath(wanted).suffix not in {".pth", ".safetensors"}:
        raise ModelError(f"the noise predictor's file must be .pth or .safetensors, not {wanted!r}")
    source = next((file for file in predictor.files if file.name == wanted), None)
    if source is None:
        raise ModelError(f"{predictor.repo} at {predictor.sha} has no file {wanted!r}")
    return source
