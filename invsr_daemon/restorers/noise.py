"""Noise as a value: where each tile's normal draws come from.

A source answers for a place, never from a generator's history, so the same place of the same canvas
gets the same noise in every frame, batch, tile order and process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from .tiling import ROWS, Tile, TilePlan

# What each of these is drawn for, by its number. Others get a number from their name.
_STREAMS = ("noise_predictor", "vae", "grain", "thresholds")
SEEDS_APART = len(_STREAMS)  # between two seeds of users
FRAMES_APART = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio: neighbouring frames get distant seeds
SEEDS = 2**63
GRAIN_CELL = 2  # grain is drawn for squares of so many LR pixels a side
# How much of its neighbours' mean a grain takes on. Single pixels look like a fault, not like texture.
# Reading between pixels makes neighbours more alike: a film's are less so to begin with.
CLUMPS, FILM_CLUMPS = 0.5, 0.35


@dataclass(frozen=True)
class Draw:
    """Normal draws that a restorer needs for a tile: `channels` for every `cell` by `cell` LR pixels."""

    name: str
    channels: int
    cell: int = 2

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """(rows, columns) of the draws for so many LR pixels."""
        return height // self.cell, width // self.cell


class NoiseSource(Protocol):
    """Normal draws of unit variance, on the CPU."""

    def tile(self, draw: Draw, plan: TilePlan, tile: Tile) -> Tensor:
        """For one tile: float32 [draw.channels, *draw.grid(tile.height, tile.width)], each by itself."""

    def grain(self, plan: TilePlan, scale: int) -> Tensor:
        """For the result: float32 [scale*plan.height, scale*plan.width], neighbours a little alike."""


@dataclass(frozen=True)
class ZeroNoise:
    """Every draw is zero: both Gaussians give their means."""

    def tile(self, draw: Draw, plan: TilePlan, tile: Tile) -> Tensor:
        return torch.zeros(draw.channels, *draw.grid(tile.height, tile.width))

    def grain(self, plan: TilePlan, scale: int) -> Tensor:
        return torch.zeros(plan.height * scale, plan.width * scale)


@dataclass(frozen=True)
class GivenNoise:
    """Draws handed over per tile, in row-major order: each [tiles, channels, h/2, w/2]; no grain."""

    noise_predictor: Tensor
    vae: Tensor

    def tile(self, draw: Draw, plan: TilePlan, tile: Tile) -> Tensor:
        given = {"noise_predictor": self.noise_predictor, "vae": self.vae}
        return given[draw.name][tile.index]

    def grain(self, plan: TilePlan, scale: int) -> Tensor:
        return torch.zeros(plan.height * scale, plan.width * scale)


@dataclass(frozen=True)
class CanvasNoise:
    """One field per draw, fixed on the padded canvas and cut by tiles; a function of its values alone.

    Overlapping tiles share their noise, and a static scene gets identical frames. Another `frame` is
    another, independent canvas.
    """

    seed: int
    frame: int = 0

    def tile(self, draw: Draw, plan: TilePlan, tile: Tile) -> Tensor:
        return cut_field(self.field(draw, plan), tile, draw.cell)

    def field(self, draw: Draw, plan: TilePlan) -> Tensor:
        """The whole canvas, float32 [draw.channels, *draw.grid(plan.height, plan.width)]."""
        return _field(self.seed, self.frame, draw, *draw.grid(plan.height, plan.width))

    def grain(self, plan: TilePlan, scale: int) -> Tensor:
        return self.drawn_grain(plan, scale, CLUMPS)

    def drawn_grain(self, plan: TilePlan, scale: int, clumps: float) -> Tensor:
        """`grain`, its neighbours alike by a share of their mean."""
        return _canvas_grain(self.seed, self.frame, plan.height, plan.width, scale, clumps)


def cut_field(field: Tensor, tile: Tile, cell: int) -> Tensor:
    """A tile's part of [...,rows,columns], whose cells are `cell` LR pixels a side."""
    top, left = tile.top // cell, tile.left // cell
    return field[..., top : top + tile.height // cell, left : left + tile.width // cell]


@lru_cache(maxsize=4)
def _field(seed: int, frame: int, draw: Draw, rows: int, columns: int) -> Tensor:
    return _drawn(seed, frame, draw.name, draw.channels, rows, columns)


@lru_cache(maxsize=1)
def _canvas_grain(seed: int, frame: int, height: int, width: int, scale: int, clumps: float) -> Tensor:
    """For so many LR pixels: [scale*height, scale*width]."""
    side = GRAIN_CELL * scale
    rows, columns = -(-height // GRAIN_CELL), -(-width // GRAIN_CELL)
    white = functional.pixel_shuffle(_drawn(seed, frame, "grain", side**2, rows, columns), side)
    return _clumped(white, clumps)[0, : height * scale, : width * scale]


def _drawn(seed: int, frame: int, stream: str, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator_of(seed, frame, stream))


def generator_of(seed: int, frame: int, stream: str) -> torch.Generator:
    """The generator of a stream, as a function of these values alone."""
    number = (seed * SEEDS_APART + _number_of(stream) + frame * FRAMES_APART) % SEEDS
    return torch.Generator().manual_seed(number)


def _number_of(stream: str) -> int:
    if stream in _STREAMS:
        return _STREAMS.index(stream)
    return int.from_bytes(hashlib.sha256(stream.encode()).digest()[:7])


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


def stacked(sources: Sequence[NoiseSource], draw: Draw, plan: TilePlan, tiles: Sequence[Tile]) -> Tensor:
    """Draws for a batch of tiles, each from its own source: float32 [len(tiles), channels, rows, columns]."""
    cut = [source.tile(draw, plan, tile) for source, tile in zip(sources, tiles, strict=True)]
    return torch.stack(cut)
