"""Released weights into the form that `loading` reads: what `hub.pull` is given to do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from ...errors import ModelError, ResourceError
from ...files.durable import DISK_FULL
from ...hub.known import PREDICTOR, PREDICTOR_CONFIG

ONLY_FOR_THE_PROMPT = ("text_encoder", "tokenizer")
LONGEST_REASON = 600
# What the libraries raise at files of another make.
MISFITS = (OSError, RuntimeError, ValueError, TypeError, LookupError, AttributeError)


def convert(staging: Path, predictor: str) -> None:
    """Convert a fetched model in its folder; `predictor` is the file of its noise predictor.

    Raises ModelError if the files do not fit each other, ResourceError if the disk is full.
    """
    convert_predictor(staging, predictor)
    encode_prompt(staging)
    for name in ONLY_FOR_THE_PROMPT:
        shutil.rmtree(staging / name)


def convert_predictor(staging: Path, source: str) -> None:
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


def encode_prompt(staging: Path) -> None:
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
