"""Noise that follows the motion of a film."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ..noise import FILM_CLUMPS, CanvasNoise, Draw, cut_field, generator_of
from ..tiling import ROWS, Tile, TilePlan
from .traces import Trace, enlarged, sampled

# A film's grains so many squared pixels apart are alike by 1/e, between pixels.
GRAIN_REACH = 1.06

# By how much a film's grain is read wider than it is drawn.
GRAIN_SPREAD = 1 / 16


@dataclass(frozen=True)
class AnchorNoise:
    """A film's canvas as it is at an anchor, and wherever nothing has moved."""

    canvas: CanvasNoise

    def tile(self, draw: Draw, plan: TilePlan, tile: Tile) -> Tensor:
        return self.canvas.tile(draw, plan, tile)

    def grain(self, plan: TilePlan, scale: int) -> Tensor:
        grain = self.canvas.drawn_grain(plan, scale, FILM_CLUMPS)
        result = torch.empty_like(grain)
        for top in range(0, len(grain), ROWS):
            still = torch.zeros(2, min(ROWS, len(grain) - top), grain.shape[1])
            result[top : top + ROWS] = _read(grain, still, top)
        return result


class MovedNoise:
    """A canvas whose noise has followed the film's content from the anchors before and after a frame.

    At an anchor the noise is the canvas's own. In between each pixel takes the noise of the place where
    its content lay at the anchor before, and that of the anchor after, cross-faded by
    cos(share pi/2) and sin(share pi/2): the sum of two independent normals keeps unit variance. Where both
    lead to one place (nothing moved) it is that place's noise, unfaded; what only one anchor sees takes that
    one's; what neither sees, its own place's. Noise for the networks is fetched from whole cells, never
    interpolated, which would shrink its variance and colour it; each cell rounds at a threshold of its own,
    so that slow motion moves a few cells in every frame, not all of them in some. Grain is only looked at:
    see `_read`.
    """

    def __init__(self, canvas: CanvasNoise, before: Trace, after: Trace, share: float) -> None:
        """`share`: how far from the anchor before to the one after, within [0,1]."""
        self._canvas = canvas
        self._before = before
        self._after = after
        self._share = share
        self._cells: dict[tuple[int, int], tuple[Tensor, ...]] = {}

    def tile(self, draw: Draw, plan: TilePlan, tile: Tile) -> Tensor:
        field = self._canvas.field(draw, plan)
        grid = draw.grid(plan.height, plan.width)
        if grid not in self._cells:
            self._cells[grid] = self._found(plan, *grid)
        before, after, first, second = (cut_field(each, tile, draw.cell) for each in self._cells[grid])
        flat = field.flatten(1)
        return flat[:, before] * first + flat[:, after] * second

    def _found(self, plan: TilePlan, rows: int, columns: int) -> tuple[Tensor, ...]:
        """For every cell: the indices of those its noise comes from, before and after, and their shares.

        Kept, since each of several tiles asks; the noise itself would be many times as large.
        """
        thresholds = _thresholds(self._canvas.seed, rows, columns)
        before, seen_before = _sources(self._before, plan, thresholds)
        after, seen_after = _sources(self._after, plan, thresholds)
        return before, after, *self._shares(seen_before, seen_after, before == after)

    def grain(self, plan: TilePlan, scale: int) -> Tensor:
        grain = self._canvas.drawn_grain(plan, scale, FILM_CLUMPS)
        result = torch.empty_like(grain)
        before, after = self._before.padded(plan), self._after.padded(plan)
        for top in range(0, plan.height, ROWS // scale):
            rows = slice(top, min(top + ROWS // scale, plan.height))
            place = slice(rows.start * scale, rows.stop * scale)
            result[place] = self._rows_of(grain, before, after, rows, scale)
        return result

    def _rows_of(
        self,
        grain: Tensor,
        before: tuple[Tensor, Tensor],
        after: tuple[Tensor, Tensor],
        rows: slice,
        scale: int,
    ) -> Tensor:
        """Some rows (in LR pixels) of the grain; `before`, `after`: see `Trace.padded`."""
        seen_before, seen_after = (enlarged(seen[None], rows, scale)[0] > 0.5 for _, seen in (before, after))
        there = enlarged(before[0], rows, scale) * scale * seen_before
        here = enlarged(after[0], rows, scale) * scale * seen_after
        distance = (there - here).square().sum(0)
        first, second = self._shares(seen_before, seen_after, distance == 0)
        # Two places near each other share some of their grain, and the sum has more variance.
        shared = torch.exp(-distance / GRAIN_REACH)
        total = (first.square() + second.square() + 2 * first * second * shared).sqrt_()
        top = rows.start * scale
        return (_read(grain, there, top) * first + _read(grain, here, top) * second) / total

    def _shares(self, seen_before: Tensor, seen_after: Tensor, same: Tensor) -> tuple[Tensor, Tensor]:
        """Of the noise from before and from after; all of the first where both are one, or unseen."""
        angle = self._share * math.pi / 2
        first = torch.where(seen_after, math.cos(angle), 1.0) * seen_before
        second = torch.where(seen_before, math.sin(angle), 1.0) * seen_after
        alike = same | ~(seen_before | seen_after)
        return torch.where(alike, 1.0, first), torch.where(alike, 0.0, second)


def _read(grain: Tensor, displacement: Tensor, top: int) -> Tensor:
    """Grain [H,W] as it is `displacement` [2,h,W] away from the h rows from `top` on: [h,W], unit variance.

    Cubically interpolated, so that it moves as smoothly as what it lies on, and divided by the deviation
    that this leaves. Between pixels it is softer than on them; it is therefore read a little wider than it
    is drawn: every fraction of a pixel occurs all over the picture, at anchors too, and nothing pulsates.
    """
    x = torch.arange(grain.shape[1]) + displacement[0]
    y = torch.arange(top, top + displacement.shape[1])[:, None] + displacement[1]
    flow = displacement - GRAIN_SPREAD * torch.stack((x, y))
    values = sampled(grain[None, None], flow, "bicubic", top)[0, 0]
    variance = _cubic_variance(x * (1 - GRAIN_SPREAD)) * _cubic_variance(y * (1 - GRAIN_SPREAD))
    return values / variance.sqrt_()


def _cubic_variance(place: Tensor) -> Tensor:
    """Of grain interpolated along one axis by grid_sample's cubic kernel (Keys 1981, a = -0.75).

    The sum over its four weights w of w_i w_j c(|i - j|), c being how alike neighbours are: a polynomial in
    f (1 - f) of the fraction f.
    """
    one, two = _likeness()
    fraction = place - place.floor()
    product = fraction * (1 - fraction)
    square = -3.375 + 2 * (3 * one - 1.3125 * two)
    cube = -4.25 + 2 * (3.4375 * one - 1.875 * two)
    return 1 + product.square() * (square + cube * product)


def _likeness() -> tuple[float, float]:
    """The correlation of a film's grains one and two pixels apart along an axis: see `_clumped`."""
    side, middle = FILM_CLUMPS / 3, 1 + FILM_CLUMPS / 3
    variance = middle**2 + 2 * side**2
    return 2 * side * middle / variance, side**2 / variance


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
    return torch.where(seen, y * columns + x, own).int(), seen


@lru_cache(maxsize=4)
def _thresholds(seed: int, rows: int, columns: int) -> Tensor:
    """What is added to a cell's displacement before it is rounded down: within (0,1), [2,rows,columns]."""
    return torch.rand(2, rows, columns, generator=generator_of(seed, 0, "thresholds")).clamp_(1e-3, 1 - 1e-3)
