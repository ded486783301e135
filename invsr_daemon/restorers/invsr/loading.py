"""From a model directory to its parts: diffusers layout, the noise predictor beside it.

vae/  unet/  scheduler/                 diffusers layout
noise_predictor/                        diffusers layout, or
noise_predictor.safetensors | .pth      a bare state dict, noise_predictor_config.json beside it
                                        (without one: the published configuration)
prompt_embeds.safetensors               `positive`, `negative` [1,77,C]; or text_encoder/ and
                                        tokenizer/, from which it is made once
invsr.json                              optional: tile, overlap, multiple, fill_tile
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
from diffusers.utils import is_accelerate_available
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ...errors import ModelError
from ...hub.known import PREDICTOR, PREDICTOR_CONFIG
from ..detail import Detail
from ..guard import Guard
from ..precision import cast
from ..tiling import Tiling
from .checking import check_size, read_json, read_settings
from .compact import CompactAutoencoder, CompactNoisePredictor, CompactUNet
from .noise_predictor import NoisePredictor

log = logging.getLogger(__name__)

# InvSR's one text condition; the released noise predictor was trained with it.
PROMPT = (
    "Cinematic, high-contrast, photo-realistic, 8k, ultra HD, "
    "meticulous detailing, hyper sharpness, perfect without deformations"
)

NEGATIVE_PROMPT = (
    "Low quality, blurring, jpeg artifacts, deformed, over-smooth, cartoon, noisy,"
    "painting, drawing, sketch, oil painting"
)
PROMPT_FILE = "prompt_embeds.safetensors"
PREDICTOR_STATES = (f"{PREDICTOR}.safetensors", f"{PREDICTOR}.pth")
DEFAULT_TILE = 128

# What the libraries raise at files that are missing, cut short, or of another make.
DAMAGES = (
    *(OSError, SafetensorError, LookupError, RuntimeError, ValueError, TypeError, AttributeError),
    *(ArithmeticError, AssertionError, ImportError, MemoryError),
)
LONGEST_PROMPT = 1024  # in tokens

_CLASSES: dict[str, Any] = {
    "AutoencoderKL": AutoencoderKL,
    "UNet2DConditionModel": UNet2DConditionModel,
    "CompactAutoencoder": CompactAutoencoder,
    "CompactUNet": CompactUNet,
    "CompactNoisePredictor": CompactNoisePredictor,
    "NoisePredictor": NoisePredictor,
}


@dataclass(frozen=True)
class Prompt:
    """The cached text condition, each [1,tokens,C]."""

    positive: Tensor
    negative: Tensor


@dataclass(frozen=True)
class Parts:
    """A loaded model: three networks in eval mode on one device, and what belongs to them."""

    vae: Any
    unet: Any
    noise_predictor: nn.Module
    scheduler: EulerDiscreteScheduler
    prompt: Prompt | None
    tiling: Tiling
    detail: Detail
    guard: Guard | None = None


def load_parts(folder: Path, device: torch.device, dtype: torch.dtype) -> Parts:
    """Load a model directory. Raises ModelError if it is missing, incomplete or damaged."""
    if not folder.is_dir():
        raise ModelError(f"no model at {folder}: it is not a directory")
    try:
        vae = load_network(folder / "vae", dtype)
        unet = load_network(folder / "unet", dtype)
        predictor = load_noise_predictor(folder, dtype)
        read_json(folder / "scheduler" / "scheduler_config.json")
        scheduler = EulerDiscreteScheduler.from_pretrained(folder / "scheduler", local_files_only=True)
        prompt = load_prompt(folder, unet, dtype)
        tiling = _tiling(folder, vae, unet)
        settings = _settings(folder)
        detail = Detail(**settings.get("detail", {}))
        guard = Guard(**settings["guard"]) if "guard" in settings else None
    except DAMAGES as error:
        raise ModelError(f"the model at {folder} cannot be loaded: {error}") from error
    # Only now is the device touched: what it raises says nothing of the model.
    networks: tuple[Any, ...] = (vae, unet, predictor)
    for network in networks:  # in place
        network.eval().requires_grad_(False).to(device=device, memory_format=torch.channels_last)
    placed = None if prompt is None else Prompt(prompt.positive.to(device), prompt.negative.to(device))
    return Parts(vae, unet, predictor, scheduler, placed, tiling, detail, guard)


def load_network(folder: Path, dtype: torch.dtype) -> Any:
    """The network in a folder of diffusers layout, of the class its config names. Raises DAMAGES."""
    config = read_json(folder / "config.json")
    name = config["_class_name"]
    if name not in _CLASSES:
        raise ValueError(f"{folder / 'config.json'} names an unknown class {name!r}")
    _check_shards(folder)
    weights = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    check_size(lambda: _CLASSES[name].from_config(config), weights, folder)
    return _CLASSES[name].from_pretrained(
        folder,
        torch_dtype=dtype,
        local_files_only=True,
        use_safetensors=True,
        low_cpu_mem_usage=is_accelerate_available(),  # else diffusers warns at every load
    )


def _check_shards(folder: Path) -> None:
    """Weights in several files lie in this folder, whatever their index says. Raises ValueError."""
    for index in folder.glob("*.index.json"):
        names = json.loads(index.read_text())["weight_map"].values()
        if any(Path(name).name != name for name in names):
            raise ValueError(f"{index} names files in other folders")


def load_noise_predictor(folder: Path, dtype: torch.dtype) -> nn.Module:
    """The noise predictor of a model directory, in diffusers layout or bare. Raises DAMAGES."""
    if (folder / "noise_predictor").is_dir():
        network: nn.Module = load_network(folder / "noise_predictor", dtype)
        return network
    path = next((folder / name for name in PREDICTOR_STATES if (folder / name).exists()), None)
    if path is None:
        raise ValueError(f"it has no noise predictor ({' or '.join(PREDICTOR_STATES)})")
    config = folder / PREDICTOR_CONFIG
    described = read_json(config) if config.exists() else {}
    check_size(lambda: NoisePredictor(**described), path.stat().st_size, path)
    predictor = NoisePredictor(**described)
    predictor.load_state_dict(read_state(path))
    return cast(predictor, dtype)


def read_state(path: Path) -> dict[str, Tensor]:
    """A state dict from .safetensors or .pth; the latter only as plain tensors (weights_only).

    Raises ModelError if the file is damaged, or holds anything but tensors: code is never run.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
        return dict(state.get("state_dict", state))
    except Exception as error:  # a damaged pickle raises anything
        raise ModelError(f"{path} holds no state dict of plain tensors: {error}") from error


def load_prompt(folder: Path, unet: Any, dtype: torch.dtype) -> Prompt | None:
    """A model directory's text condition, encoded and kept if need be; None if the UNet takes none.

    Raises DAMAGES.
    """
    if "cross_attention_dim" not in unet.config:
        return None
    path = folder / PROMPT_FILE
    if path.exists():
        embeds = load_file(path)
    elif (folder / "text_encoder").is_dir():
        embeds = _encode_once(folder)
    else:
        raise ValueError(f"it has neither {PROMPT_FILE} nor text_encoder/ and tokenizer/")
    both = [embeds[name] for name in ("positive", "negative")]
    for embed in both:
        if embed.ndim != 3 or len(embed) != 1 or embed.shape[1] > LONGEST_PROMPT:
            raise ValueError(f"the text condition has the shape {list(embed.shape)}, not [1,tokens,C]")
    return Prompt(*(embed.to(dtype) for embed in both))


def encode_prompts(folder: Path) -> dict[str, Tensor]:
    """`positive` and `negative` [1,77,C] from the model's own text encoder, which is not kept."""
    from transformers import CLIPTextModel, CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    encoder: Any = CLIPTextModel.from_pretrained(
        folder / "text_encoder", local_files_only=True, use_safetensors=True
    )
    encoder.eval()
    embeds = {}
    for name, text in (("positive", PROMPT), ("negative", NEGATIVE_PROMPT)):
        tokens = tokenizer(
            text,
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        with torch.inference_mode():
            embeds[name] = encoder(tokens.input_ids)[0].clone()
    return embeds


def write_prompts(folder: Path) -> dict[str, Tensor]:
    """Encode both prompts and keep them beside the model, so that loading needs no text encoder."""
    embeds = encode_prompts(folder)
    keep_prompts(embeds, folder)
    return embeds


def keep_prompts(embeds: dict[str, Tensor], folder: Path) -> None:
    """Raises OSError, SafetensorError."""
    partial = folder / f".{PROMPT_FILE}.{os.getpid()}.part"
    save_file(embeds, partial)
    partial.replace(folder / PROMPT_FILE)


def _encode_once(folder: Path) -> dict[str, Tensor]:
    embeds = encode_prompts(folder)
    try:
        keep_prompts(embeds, folder)
    except (OSError, SafetensorError):
        log.info("%s cannot be written to: its text encoder is needed at every start", folder)
    return embeds


def _tiling(folder: Path, vae: Any, unet: Any) -> Tiling:
    settings = _settings(folder)
    if settings:
        return Tiling(**{name: settings[name] for name in ("tile", "overlap", "multiple", "fill_tile")})
    vae_scale = 2 ** (len(vae.config.block_out_channels) - 1)
    unet_scale = 2 ** (len(unet.config.block_out_channels) - 1)
    multiple = vae_scale // 4 * unet_scale
    return Tiling(tile=DEFAULT_TILE, overlap=DEFAULT_TILE // 2, multiple=multiple)


def _settings(folder: Path) -> dict[str, Any]:
    """What a model of this project says of itself; nothing for models in plain diffusers layout."""
    path = folder / "invsr.json"
    return read_settings(path) if path.exists() else {}
