"""Where trained parts lie: folders that hold vae/, unet/, noise_predictor/ or scheduler/."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import EulerDiscreteScheduler
from torch import Tensor

from ..errors import ConfigError, ModelError
from ..restorers.invsr.loading import (
    DAMAGES,
    PREDICTOR_STATES,
    PROMPT_FILE,
    load_network,
    load_noise_predictor,
    load_prompt,
)
from .denoiser import SD_SCHEDULER

log = logging.getLogger(__name__)

PREDICTORS = ("noise_predictor", *PREDICTOR_STATES)
PROMPTS = (PROMPT_FILE, "text_encoder")


def holder(folders: Sequence[Path], *names: str) -> Path:
    """The last folder that has one of these. Raises ConfigError if none has."""
    found = [folder for folder in folders if any((folder / name).exists() for name in names)]
    if not found:
        where = ", ".join(map(str, folders)) or "no folder: name one with --base"
        raise ConfigError(f"there is no {' or '.join(names)} in {where}")
    return found[-1]


def network(folders: Sequence[Path], name: str, dtype: torch.dtype = torch.float32) -> Any:
    """The autoencoder ("vae") or the UNet ("unet"). Raises ConfigError or ModelError."""
    folder = holder(folders, name) / name
    with _damage_told(folder):
        return load_network(folder, dtype)


def noise_predictor(folders: Sequence[Path], dtype: torch.dtype = torch.float32) -> Any:
    """The noise predictor, in diffusers layout or bare. Raises ConfigError or ModelError."""
    folder = holder(folders, *PREDICTORS)
    with _damage_told(folder):
        return load_noise_predictor(folder, dtype)


def scheduler(folders: Sequence[Path]) -> EulerDiscreteScheduler:
    """The base's own; Stable Diffusion's if it has none. Raises ModelError."""
    if not any((folder / "scheduler").is_dir() for folder in folders):
        return EulerDiscreteScheduler(**SD_SCHEDULER)
    folder = holder(folders, "scheduler") / "scheduler"
    with _damage_told(folder):
        return EulerDiscreteScheduler.from_pretrained(folder, local_files_only=True)


def prompt(folders: Sequence[Path], unet: Any, device: torch.device) -> Tensor | None:
    """The positive text condition [1,tokens,C]; None if the UNet takes none.

    Raises ConfigError or ModelError.
    """
    if "cross_attention_dim" not in unet.config:
        return None
    folder = holder(folders, *PROMPTS)
    with _damage_told(folder):
        found = load_prompt(folder, unet, torch.float32)
    return None if found is None else found.positive.to(device)


def built(kind: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """A new network. Raises ConfigError if its constructor does not take the arguments."""
    try:
        return kind(**arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"network: {error}") from error


def grown(old: Any, changes: Mapping[str, Any]) -> Any:
    """A network with other constructor arguments: deeper or shallower, not wider.

    Residual blocks that it did not have begin as the identity; what it no longer has is dropped.
    Raises ConfigError if tensors of one name have two shapes, or an encoder's layers would be renumbered.
    """
    if not changes:
        return old
    settings = {name: value for name, value in old.config.items() if not name.startswith("_")}
    if list(changes.get("encoder_blocks", ())) not in ([], list(settings.get("encoder_blocks", ()))):
        raise ConfigError("encoder_blocks: a trained encoder keeps its layers")
    young = built(type(old), {**settings, **changes})
    try:
        new, gone = young.load_state_dict(old.state_dict(), strict=False)
    except RuntimeError as error:
        raise ConfigError(f"a network can grow deeper but not wider: {error}") from error
    log.info("%s: %d new tensors, %d dropped", type(old).__name__, len(new), len(gone))
    return young


@contextmanager
def _damage_told(folder: Path) -> Iterator[None]:
    try:
        yield
    except DAMAGES as error:
        raise ModelError(f"{folder} cannot be loaded: {error}") from error
