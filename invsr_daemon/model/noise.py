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

from .tiling import Tile, TilePlan

Draw = Literal["noise_predictor", "vae", "detail"]
_DRAWS: tuple[Draw, ...] = ("noise_predictor", "vae", "detail")
SEEDS_APART = 4  # between two seeds of users: room for one of each draw


class NoiseSource(Protocol):
    """Standard normal draws for one tile's latents."""

    def tile(self, draw: Draw, plan: TilePlan, tile: Tile, channels: int) -> Tensor:
        """float32 [channels, tile.height/2, tile.width/2] on the CPU."""


@dataclass(frozen=True)
class ZeroNoise:
    """Every draw is zero: both Gaussians give their means."""

    def tile(self, draw: Draw, plan: TilePlan, tile: Tile, channels: int) -> Tensor:
        return torch.zeros(channels, tile.height // 2, tile.width // 2)


@dataclass(frozen=True)
class GivenNoise:
    """Draws handed over per tile, in row-major order: each [tiles, channels, h/2, w/2]."""

    noise_predictor: Tensor
    vae: Tensor

    def tile(self, draw: Draw, plan: TilePlan, tile: Tile, channels: int) -> Tensor:
        given = {"noise_predictor": self.noise_predictor, "vae": self.vae}
        return given[draw][tile.index]


@dataclass(frozen=True)
class CanvasNoise:
    """One field per draw, fixed on the padded canvas and cut by tiles; a function of `seed` alone.

    Overlapping tiles share their noise, and a static scene gets identical frames.
    """

    seed: int

    def tile(self, draw: Draw, plan: TilePlan, tile: Tile, channels: int) -> Tensor:
        field = _field(self.seed, draw, channels, plan.height // 2, plan.width // 2)
        top, left = tile.top // 2, tile.left // 2
        return field[:, top : top + tile.height // 2, left : left + tile.width // 2]


@lru_cache(maxsize=4)
def _field(seed: int, draw: Draw, channels: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed * SEEDS_APART + _DRAWS.index(draw))
    return torch.randn(channels, height, width, generator=generator)


def stacked(source: NoiseSource, draw: Draw, plan: TilePlan, tiles: Sequence[Tile], channels: int) -> Tensor:
    """Draws for a batch of tiles, float32 [len(tiles), channels, h/2, w/2]."""
    return torch.stack([source.tile(draw, plan, tile, channels) for tile in tiles])
