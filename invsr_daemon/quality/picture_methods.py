"""What is compared, and how it is written on a command line.

    bicubic, lanczos                      Pillow's enlargement
    MODEL[:OPTION=VALUE]...               a model by name or directory, with
        steps=N                           the published timesteps for N steps
        start=T                           one step from T; with steps=N as many, evenly spaced from T down
        timesteps=T,T,...                 this list
        color=none|wavelet|ycbcr          colours from the input
        tile=N                            side of a tile in input pixels

Methods are separated by commas; a comma before a whole number belongs to a list of timesteps.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .. import InvSR, hub
from ..errors import ConfigError, ModelError
from ..restorers.noise import CanvasNoise
from ..settings.settings import Settings
from ..timesteps import check_timesteps, default_timesteps

SCALE = 4
FILTERS = {"bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS}
COLOR_FIXES = ("none", "wavelet", "ycbcr")
OPTIONS = ("steps", "start", "timesteps", "color", "tile")
SEPARATOR = re.compile(r",(?!\s*\d+\s*(?:[,:]|$))")
_SPEC = re.compile(r"(?P<name>.+?)(?P<options>(?::[a-z]+=[^:]*)*)")


@dataclass(frozen=True)
class MethodSpec:
    """One method as it was asked for. Without timesteps it is a filter of Pillow's."""

    label: str
    name: str
    timesteps: tuple[int, ...] = ()
    color_fix: Literal["none", "wavelet", "ycbcr"] = "none"
    tile: int | None = None

    def settings(self) -> dict[str, object]:
        """Everything but the label and the name, for a record; empty for a filter."""
        if not self.timesteps:
            return {}
        return {"timesteps": list(self.timesteps), "color_fix": self.color_fix, "tile": self.tile}


class Method(Protocol):
    """Enlarges a picture four times."""

    @property
    def spec(self) -> MethodSpec: ...

    @property
    def fingerprint(self) -> str | None:
        """The model's, if there is one."""

    def restore(self, poor: Tensor) -> Tensor:
        """[1,3,H,W] in [0,1], 8 bits -> [1,3,4H,4W] float32 on the CPU in [0,1], not rounded."""


@dataclass(frozen=True)
class Resampling:
    """A filter of Pillow's, on 8 bits."""

    spec: MethodSpec
    fingerprint: None = None

    def restore(self, poor: Tensor) -> Tensor:
        height, width = (side * SCALE for side in poor.shape[-2:])
        pixels = poor[0].permute(1, 2, 0).mul(255).round().to(torch.uint8).numpy()
        enlarged = Image.fromarray(pixels).resize((width, height), FILTERS[self.spec.name])
        return torch.from_numpy(np.array(enlarged)).permute(2, 0, 1)[None].float() / 255


@dataclass(frozen=True)
class ModelMethod:
    """A model with its settings; the noise is a function of the seed alone."""

    spec: MethodSpec
    model: InvSR
    fingerprint: str
    seed: int
    tile_batch: int
    guidance_scale: float

    def restore(self, poor: Tensor) -> Tensor:
        return self.model.restore(
            poor,
            timesteps=self.spec.timesteps,
            noise=CanvasNoise(self.seed),
            tile=self.spec.tile,
            tile_batch=self.tile_batch,
            color_fix=self.spec.color_fix,
            guidance_scale=self.guidance_scale,
        ).cpu()


def parse_methods(text: str, settings: Settings) -> tuple[MethodSpec, ...]:
    """The methods of a list; what one leaves open is as the settings have it. Raises ConfigError."""
    specs = tuple(_parsed(part.strip(), settings) for part in SEPARATOR.split(text) if part.strip())
    if not specs:
        raise ConfigError("no method was given: name some, such as bicubic,default")
    labels = [spec.label for spec in specs]
    if twice := {label for label in labels if labels.count(label) > 1}:
        raise ConfigError(f"method {sorted(twice)[0]!r} was given twice")
    return specs


def open_methods(
    specs: Sequence[MethodSpec], settings: Settings, device: torch.device, seed: int
) -> tuple[Method, ...]:
    """Find every model, then load each once. Raises ConfigError naming the method that cannot be had."""
    folders = {spec.label: _folder(spec, settings) for spec in specs if spec.timesteps}
    models = {folder: _loaded(folder, device) for folder in set(folders.values())}
    fingerprints = {folder: hub.fingerprint(folder) for folder in models}
    methods: list[Method] = []
    for spec in specs:
        if spec.label not in folders:
            methods.append(Resampling(spec))
            continue
        folder = folders[spec.label]
        _check_tile(spec, models[folder])
        batch, guidance = settings.tile_batch, settings.guidance_scale
        methods.append(ModelMethod(spec, models[folder], fingerprints[folder], seed, batch, guidance))
    return tuple(methods)


def _parsed(label: str, settings: Settings) -> MethodSpec:
    matched = _SPEC.fullmatch(label)
    assert matched is not None  # a name may hold colons: what is no option belongs to it
    name, options = matched["name"], _options(label, matched["options"])
    if name in FILTERS:
        if options:
            raise ConfigError(f"method {label!r}: {name} has no options")
        return MethodSpec(label, name)
    color = options.get("color", settings.color_fix)
    if color not in COLOR_FIXES:
        raise ConfigError(f"method {label!r}: color must be one of {', '.join(COLOR_FIXES)}, not {color!r}")
    tile = _number(label, options, "tile") if "tile" in options else settings.tile
    timesteps = _timesteps(label, options) or settings.schedule()
    return MethodSpec(label, name, timesteps, cast("Literal['none', 'wavelet', 'ycbcr']", color), tile)


def _options(label: str, text: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for part in text.split(":")[1:]:
        key, _, value = part.partition("=")
        if key not in OPTIONS:
            raise ConfigError(f"method {label!r}: there is no option {key!r}, only {', '.join(OPTIONS)}")
        options[key] = value
    return options


def _timesteps(label: str, options: Mapping[str, str]) -> tuple[int, ...] | None:
    """The list that steps, start or timesteps mean; None if none of them is there."""
    if "timesteps" in options and {"steps", "start"} & options.keys():
        raise ConfigError(f"method {label!r}: timesteps excludes steps and start")
    try:
        if "timesteps" in options:
            return check_timesteps(_numbers(label, options["timesteps"].split(",")))
        if "start" in options:
            start = _number(label, options, "start")
            steps = _number(label, options, "steps") if "steps" in options else 1
            return check_timesteps([round(start * (steps - done) / steps) for done in range(steps)])
        return default_timesteps(_number(label, options, "steps")) if "steps" in options else None
    except ValueError as error:
        raise ConfigError(f"method {label!r}: {error}") from error


def _number(label: str, options: Mapping[str, str], key: str) -> int:
    return _numbers(label, [options[key]])[0]


def _numbers(label: str, texts: Iterable[str]) -> list[int]:
    try:
        return [int(text) for text in texts]
    except ValueError as error:
        raise ConfigError(f"method {label!r}: whole numbers are expected behind '='") from error


def _folder(spec: MethodSpec, settings: Settings) -> Path:
    try:
        return hub.resolve(spec.name, settings.models_dir)
    except ModelError as error:
        also = f"; or {', '.join(FILTERS)}" if spec.name not in hub.KNOWN else ""
        raise ConfigError(f"method {spec.label!r}: {error}{also}") from error


def _loaded(folder: Path, device: torch.device) -> InvSR:
    try:
        return InvSR.load(folder, device)
    except (RuntimeError, AssertionError) as error:  # torch's: no such device, or no support for it
        raise ConfigError(f"--device {device}: {str(error).splitlines()[0]}") from error


def _check_tile(spec: MethodSpec, model: InvSR) -> None:
    try:
        model.tiling_for(spec.tile)
    except ValueError as error:
        raise ConfigError(f"method {spec.label!r}: {error}") from error
