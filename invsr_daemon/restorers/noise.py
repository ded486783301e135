"""Noise as a value: where each tile's normal draws come from.

A source answers for a place, never from a generator's history, so the same place of the same canvas
gets the same noise in every frame, batch, tile order and process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from .tiling import Tile, TilePlan

Draw = Literal["noise_predictor", "vae"]

# Each with a generator of its own.
_STREAMS = ("noise_predictor", "vae", "grain", "thresholds")
SEEDS_APART = len(_STREAMS)  # between two seeds of users
FRAMES_APART = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio: neighbouring frames get distant seeds
SEEDS = 2**63
CELL = 8  # pixels of the result below one of a latent, along a side

# How much of its neighbours' mean a grain takes on. Single pixels look like a fault, not like texture.
# Reading between pixels makes neighbours more alike: a film's are less so to begin with.
CLUMPS, FILM_CLUMPS = 0.5, 0.35
ROWS = 256


class NoiseSource(Protocol):
    """Normal draws of unit variance, on the CPU."""

    def tile(self, draw: Draw, plan: TilePlan, tile: Tile, channels: int) -> Tensor:
        """For one tile's latents: float32 [channels, tile.height/2, tile.width/2], each by itself."""

    def grain(self, plan: TilePlan) -> Tensor:
        """For the pixels of the result: float32 [4*plan.height, 4*plan.width], neighbours a little alike."""


@dataclass(frozen=True)
class ZeroNoise:
    """Every draw is zero: both Gaussians give their means."""

    def tile(self, draw: Draw, plan: TilePlan, tile: Tile, channels: int) -> Tensor:
        return torch.zeros(channels, tile.height // 2, tile.width // 2)

    def grain(self, plan: TilePlan) -> Tensor:
        return _no_grain(plan)


@dataclass(frozen=True)
class GivenNoise:
    """Draws handed over per tile, in row-major order: each [tiles, channels, h/2, w/2]; no grain."""

    noise_predictor: Tensor
    vae: Tensor

    def tile(self, draw: Draw, plan: TilePlan, tile: Tile, channels: int) -> Tensor:
        given = {"noise_predictor": self.noise_predictor, "vae": self.vae}
        return given[draw][tile.index]

    def grain(self, plan: TilePlan) -> Tensor:
        return _no_grain(plan)


@dataclass(frozen=True)
class CanvasNoise:
    """One field per draw, fixed on the padded canvas and cut by tiles; a function of its values alone.

    Overlapping tiles share their noise, and a static scene gets identical frames. Another `frame` is
    another, independent canvas.
    """

    seed: int
    frame: int = 0

    def tile(self, draw: Draw, plan: TilePlan, tile: Tile, channels: int) -> Tensor:
        return cut_field(self.field(draw, plan, channels), tile)

    def field(self, draw: Draw, plan: TilePlan, channels: int) -> Tensor:
        """The whole canvas, float32 [channels, plan.height/2, plan.width/2]."""
        return _field(self.seed, self.frame, draw, channels, plan.height // 2, plan.width // 2)

    def grain(self, plan: TilePlan) -> Tensor:
        return self.drawn_grain(plan, CLUMPS)

    def drawn_grain(self, plan: TilePlan, clumps: float) -> Tensor:
        """`grain`, its neighbours alike by a share of their mean."""
        return _canvas_grain(self.seed, self.frame, plan.height // 2, plan.width // 2, clumps)


def cut_field(field: Tensor, tile: Tile) -> Tensor:
    """A tile's part of [...,rows,columns]."""
    top, left = tile.top // 2, tile.left // 2
    return field[..., top : top + tile.height // 2, left : left + tile.width // 2]


@lru_cache(maxsize=4)
def _field(seed: int, frame: int, draw: Draw, channels: int, height: int, width: int) -> Tensor:
    return _drawn(seed, frame, draw, channels, height, width)


@lru_cache(maxsize=1)
def _canvas_grain(seed: int, frame: int, height: int, width: int, clumps: float) -> Tensor:
    """For latents of a height and width."""
    white = _drawn(seed, frame, "grain", CELL**2, height, width)
    return _clumped(functional.pixel_shuffle(white, CELL), clumps)[0]


def _drawn(seed: int, frame: int, stream: str, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator_of(seed, frame, stream))


def generator_of(seed: int, frame: int, stream: str) -> torch.Generator:
    number = (seed * SEEDS_APART + _STREAMS.index(stream) + frame * FRAMES_APART) % SEEDS
    return torch.Generator().manual_seed(number)


def _clumped(white: Tensor, clumps: float) -> Tensor:
    """White noise [1,H,W] with neighbours in rows and columns alike, of unit variance too; in place.

    Some rows at a time: pictures are large.
    """
    height = white.shape[-2]
    padded = functional.pad(white, (1,) * 4, mode="replicate")
    variance = (1 + clumps / 3) ** 2 + 2 * (clumps / 3) ** 2
    for top in range(0, height, ROWS):
        noise = padded[:, top : top + ROWS + 2]
        noise = noise[..., 1:-1] + clumps * functional.avg_pool2d(noise, (1, 3), stride=1)
        noise = noise[:, 1:-1] + clumps * functional.avg_pool2d(noise, (3, 1), stride=1)
        torch.div(noise, variance, out=white[:, top : top + ROWS])
    return white


def _no_grain(plan: TilePlan) -> Tensor:
    return torch.zeros(plan.height // 2 * CELL, plan.width // 2 * CELL)


def stacked(
    sources: Sequence[NoiseSource], draw: Draw, plan: TilePlan, tiles: Sequence[Tile], channels: int
) -> Tensor:
    """Draws for a batch of tiles, each from its own source: float32 [len(tiles), channels, h/2, w/2]."""
    cut = [source.tile(draw, plan, tile, channels) for source, tile in zip(sources, tiles, strict=True)]
    return torch.stack(cut)
