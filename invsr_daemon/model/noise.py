"""Noise as a value: where each tile's normal draws come from.

A source answers for a place, never from a generator's history, so the same place of the same canvas
gets the same noise in every frame, batch, tile order and process.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from .tiling import Tile, TilePlan
from .traces import Trace

Draw = Literal["noise_predictor", "vae", "detail"]
_DRAWS: tuple[Draw, ...] = ("noise_predictor", "vae", "detail")
SEEDS_APART = 4  # between two seeds of users: room for one of each draw
FRAMES_APART = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio: neighbouring frames get distant seeds
SEEDS = 2**63
DETAIL_SCALE = 8  # the detail draw's 64 channels are the pixels below one of its cells


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
    """One field per draw, fixed on the padded canvas and cut by tiles; a function of its values alone.

    Overlapping tiles share their noise, and a static scene gets identical frames. Another `frame` is
    another, independent canvas.
    """

    seed: int
    frame: int = 0

    def tile(self, draw: Draw, plan: TilePlan, tile: Tile, channels: int) -> Tensor:
        return _cut(self.field(draw, plan, channels), tile)

    def field(self, draw: Draw, plan: TilePlan, channels: int) -> Tensor:
        """The whole canvas, float32 [channels, plan.height/2, plan.width/2]."""
        return _field(self.seed, self.frame, draw, channels, plan.height // 2, plan.width // 2)


class MovedNoise:
    """A canvas whose noise has followed the film's content from the anchors before and after a frame.

    At an anchor the noise is the canvas's own. In between each pixel takes the noise of the place where
    its content lay at the anchor before, and that of the anchor after, cross-faded by
    cos(share pi/2) and sin(share pi/2): the sum of two independent normals keeps unit variance. Where both
    lead to one place (nothing moved) it is that place's noise, unfaded; what only one anchor sees takes that
    one's; what neither sees, its own place's. Noise is fetched from whole cells, never interpolated, which
    would shrink its variance and colour it; each cell rounds at a threshold of its own, so that slow motion
    moves a few cells in every frame, not all of them in some.
    """

    def __init__(self, canvas: CanvasNoise, before: Trace, after: Trace, share: float) -> None:
        """`share`: how far from the anchor before to the one after, within [0,1]."""
        self._canvas = canvas
        self._before = before
        self._after = after
        self._share = share
        self._fields: dict[Draw, Tensor] = {}

    def tile(self, draw: Draw, plan: TilePlan, tile: Tile, channels: int) -> Tensor:
        if draw == "detail":  # asked for once, and large
            return _cut(self._moved(draw, plan, channels), tile)
        if draw not in self._fields:
            self._fields[draw] = self._moved(draw, plan, channels)
        return _cut(self._fields[draw], tile)

    def _moved(self, draw: Draw, plan: TilePlan, channels: int) -> Tensor:
        field = self._canvas.field(draw, plan, channels)
        if draw != "detail":
            return self._faded(field, plan)
        # Grain is seen pixel by pixel, and so it moves.
        fine = functional.pixel_shuffle(field[None], DETAIL_SCALE)[0]
        return functional.pixel_unshuffle(self._faded(fine, plan)[None], DETAIL_SCALE)[0]

    def _faded(self, field: Tensor, plan: TilePlan) -> Tensor:
        height, width = field.shape[-2:]
        thresholds = _thresholds(self._canvas.seed, height, width)
        before, seen_before = _sources(self._before, plan, thresholds)
        after, seen_after = _sources(self._after, plan, thresholds)
        angle = self._share * math.pi / 2
        first = torch.where(seen_after, math.cos(angle), 1.0) * seen_before
        second = torch.where(seen_before, math.sin(angle), 1.0) * seen_after
        alike = (before == after) | ~(seen_before | seen_after)
        first, second = torch.where(alike, 1.0, first), torch.where(alike, 0.0, second)
        flat = field.flatten(1)
        return flat[:, before] * first + flat[:, after] * second


def _sources(trace: Trace, plan: TilePlan, thresholds: Tensor) -> tuple[Tensor, Tensor]:
    """For every cell of a field: the index of the cell its noise comes from, and whether it was seen there.

    `thresholds` [2,rows,columns]: see `_thresholds`; a cell is plan.height / rows LR pixels high.
    """
    rows, columns = thresholds.shape[-2:]
    displacement, seen = trace.on(plan, rows, columns)
    steps = (displacement + thresholds).floor().long()
    y, x = torch.arange(rows)[:, None] + steps[1], torch.arange(columns) + steps[0]
    inside = (y >= 0) & (y < rows) & (x >= 0) & (x < columns)
    seen = seen & inside
    own = torch.arange(rows * columns).view(rows, columns)
    return torch.where(seen, y * columns + x, own), seen


@lru_cache(maxsize=4)
def _thresholds(seed: int, rows: int, columns: int) -> Tensor:
    """What is added to a cell's displacement before it is rounded down: within (0,1), [2,rows,columns]."""
    generator = torch.Generator().manual_seed(seed * SEEDS_APART + len(_DRAWS))
    return torch.rand(2, rows, columns, generator=generator).clamp_(1e-3, 1 - 1e-3)


def _cut(field: Tensor, tile: Tile) -> Tensor:
    top, left = tile.top // 2, tile.left // 2
    return field[:, top : top + tile.height // 2, left : left + tile.width // 2]


@lru_cache(maxsize=6)
def _field(seed: int, frame: int, draw: Draw, channels: int, height: int, width: int) -> Tensor:
    number = (seed * SEEDS_APART + _DRAWS.index(draw) + frame * FRAMES_APART) % SEEDS
    return torch.randn(channels, height, width, generator=torch.Generator().manual_seed(number))


def stacked(
    sources: Sequence[NoiseSource], draw: Draw, plan: TilePlan, tiles: Sequence[Tile], channels: int
) -> Tensor:
    """Draws for a batch of tiles, each from its own source: float32 [len(tiles), channels, h/2, w/2]."""
    cut = [source.tile(draw, plan, tile, channels) for source, tile in zip(sources, tiles, strict=True)]
    return torch.stack(cut)
