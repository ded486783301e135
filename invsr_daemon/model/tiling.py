"""Tiles over a picture too large for one pass: where they lie, and how their outputs blend.

Coordinates are LR pixels. A tile larger than the picture is allowed: the picture is then padded by
reflection. All geometry is a function of the picture's size and the tiling settings alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FINE_TILE, FINE_OVERLAP, HALO = 16, 8, 8
# LR pixels that cost as much as one more call of the networks does.
CALL = 64 * 64

# A rectangle of tiles, and the tiles in it.
Block = tuple["Tile", list["Tile"]]
Mask = NDArray[np.bool_]
Integers = NDArray[np.int_]
Cost = Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Tiling:
    """How a model wants pictures cut: square tiles, their overlap, and the sizes it can take.

    `multiple`: padded sides are multiples of it. `fill_tile`: every tile is exactly of that size, and
    smaller pictures are padded up to it (models with attention see the size they were trained on).
    Without it tiles are of equal sides up to `tile`, so that little is computed twice.
    """

    tile: int
    overlap: int
    multiple: int
    fill_tile: bool = True

    def __post_init__(self) -> None:
        if self.tile % self.multiple or self.tile <= 0:
            raise ValueError(f"tile must be a multiple of {self.multiple}, not {self.tile}")
        if not 0 <= self.overlap < self.tile or self.overlap % self.multiple:
            limits = f"a multiple of {self.multiple} below {self.tile}"
            raise ValueError(f"overlap must be {limits}, not {self.overlap}")


@dataclass(frozen=True)
class Tile:
    """One rectangle of the padded picture, in LR pixels."""

    index: int
    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class TilePlan:
    """A picture on its padded canvas, and the tiles in row-major order, all of one size.

    `top`, `left`: where on the canvas of `height` x `width` the picture begins.
    """

    height: int
    width: int
    top: int
    left: int
    tiles: tuple[Tile, ...]

    @cached_property
    def tops(self) -> tuple[int, ...]:
        """Where rows of tiles begin."""
        return tuple(sorted({tile.top for tile in self.tiles}))

    @cached_property
    def lefts(self) -> tuple[int, ...]:
        """Where columns of tiles begin."""
        return tuple(sorted({tile.left for tile in self.tiles}))


@lru_cache(maxsize=2)
def plan_tiles(height: int, width: int, tiling: Tiling) -> TilePlan:
    """Tiles for a picture of height x width LR pixels.

    Stride is tile - overlap; the last tile of a row or column is shifted back to the border, as in
    InvSR's reference. Kept: a film asks for every frame, and has thousands of tiles.
    """
    top, padded_height = _padded(height, tiling)
    left, padded_width = _padded(width, tiling)
    tile_height, tile_width = _tile_side(padded_height, tiling), _tile_side(padded_width, tiling)
    corners = [
        (y, x)
        for y in _starts(padded_height, tile_height, tiling.overlap)
        for x in _starts(padded_width, tile_width, tiling.overlap)
    ]
    tiles = tuple(Tile(i, y, x, tile_height, tile_width) for i, (y, x) in enumerate(corners))
    return TilePlan(padded_height, padded_width, top, left, tiles)


def fine(tiling: Tiling) -> Tiling:
    """Smaller tiles for what changes only here and there; a model that is bound to its tile keeps it."""
    side = min(tiling.tile, -(-FINE_TILE // tiling.multiple) * tiling.multiple)
    if tiling.fill_tile or side == tiling.tile:
        return tiling
    overlap = min(-(-FINE_OVERLAP // tiling.multiple) * tiling.multiple, side - tiling.multiple)
    return replace(tiling, tile=side, overlap=overlap)


def merged(plan: TilePlan, chosen: Collection[int], most: int) -> list[Block]:
    """Chosen tiles (by index) in rectangles of at most `most` on a side, each with the tiles in it.

    Restored as one, tiles are spared the overlaps between them.
    """
    columns = len(plan.lefts)
    left = set(chosen)
    found = []
    for index in sorted(chosen):
        if index not in left:
            continue
        wide = [index]
        first = plan.tiles[index]
        while (right := wide[-1] + 1) % columns and right in left:
            if _sides(first, plan.tiles[right])[1] > most:
                break
            wide.append(right)
        inside = list(wide)
        while left.issuperset(below := [each + columns for each in inside[-len(wide) :]]):
            if _sides(first, plan.tiles[below[0]])[0] > most:
                break
            inside += below
        left.difference_update(inside)
        whole = Tile(index, first.top, first.left, *_sides(first, plan.tiles[inside[-1]]))
        found.append((whole, [plan.tiles[each] for each in inside]))
    return found


def covering(
    plan: TilePlan, chosen: Collection[int], margin: int, most: int
) -> list[tuple[Tile, list[Block]]]:
    """What to restore for some tiles (by index): few rectangles, each with the blocks in it (see `merged`).

    Each is grown by `margin`, and then at most `most` on a side (if a tile is not larger). The rectangle
    around all that is chosen is cut in two, and those again, as long as that spares more than the call of the
    networks that it adds.
    """
    places = np.arange(len(plan.tiles)).reshape(len(plan.tops), len(plan.lefts))
    height, width = plan.tiles[0].height, plan.tiles[0].width
    room = max(most - 2 * margin, height, width)
    cost = partial(_cost, margin=margin, most=room)
    waiting = [(np.isin(places, list(chosen)), places)] if chosen else []
    found = []
    while waiting:
        part, places = _trimmed(*waiting.pop())
        first, last = plan.tiles[places[0, 0]], plan.tiles[places[-1, -1]]
        whole = Tile(first.index, first.top, first.left, *_sides(first, last))
        down = _Axis(np.array([plan.tiles[place].top for place in places[:, 0]]), height)
        across = _Axis(np.array([plan.tiles[place].left for place in places[0]]), width)
        above_cost, above = _best_cut(part.T, down, across, cost)
        left_cost, left = _best_cut(part, across, down, cost)
        fits = max(whole.height, whole.width) <= room
        if fits and cost(whole.height, whole.width) <= min(above_cost, left_cost):
            found.append((grown(whole, plan, margin), merged(plan, places[part].tolist(), most)))
        elif above_cost < left_cost:
            waiting += [(part[above:], places[above:]), (part[:above], places[:above])]
        else:
            waiting += [(part[:, left:], places[:, left:]), (part[:, :left], places[:, :left])]
    return found


def _trimmed(part: Mask, places: Integers) -> tuple[Mask, Integers]:
    """Without the empty rows and columns around what is chosen."""
    rows, columns = np.flatnonzero(part.any(1)), np.flatnonzero(part.any(0))
    inside = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    return part[inside], places[inside]


@dataclass(frozen=True)
class _Axis:
    """Where tiles begin along one axis, and how long they are, in LR pixels."""

    starts: Integers
    tile: int

    def span(self, first: Integers | int, last: Integers) -> Integers:
        return self.starts[last] - self.starts[first] + self.tile

    def flipped(self) -> _Axis:
        return _Axis(-self.starts[::-1], self.tile)


def _best_cut(part: Mask, along: _Axis, across: _Axis, cost: Cost) -> tuple[float, int]:
    """What both rectangles cost if `part` is cut before the best column, and that one; infinite without any.

    The middle one of several: where all is chosen halves are nearly even.
    """
    if part.shape[1] == 1:
        return math.inf, 0
    left = _growing(part, along, across, cost)[:-1]
    right = _growing(part[:, ::-1], along.flipped(), across, cost)[-2::-1]
    both = left + right
    best = (both == both.min()).nonzero()[0]
    return float(both.min()), int(best[len(best) // 2]) + 1


def _growing(part: Mask, along: _Axis, across: _Axis, cost: Cost) -> Integers:
    """What the rectangles cost around what is chosen of the first column, of the first two, and so on."""
    rows, columns = part.shape
    used = part.any(0)
    top = np.minimum.accumulate(np.where(used, part.argmax(0), rows))
    bottom = np.maximum.accumulate(np.where(used, rows - 1 - part[::-1].argmax(0), -1))
    last = np.maximum.accumulate(np.where(used, np.arange(columns), 0))
    return cost(across.span(top, bottom), along.span(0, last))


def _cost(height: Any, width: Any, margin: int, most: int) -> Any:
    """Of restoring rectangles (numbers or arrays), in LR pixels; several pieces of those beyond `most`."""
    down, across = -(-height // most), -(-width // most)
    return (height + 2 * margin * down) * (width + 2 * margin * across) + CALL * down * across


def _sides(first: Tile, last: Tile) -> tuple[int, int]:
    """Height and width from one tile's beginning to another's end."""
    return last.top + last.height - first.top, last.left + last.width - first.left


def grown(tile: Tile, plan: TilePlan, margin: int) -> Tile:
    """A tile and what is around it, as far as the canvas goes."""
    top, left = max(0, tile.top - margin), max(0, tile.left - margin)
    bottom = min(plan.height, tile.top + tile.height + margin)
    right = min(plan.width, tile.left + tile.width + margin)
    return Tile(tile.index, top, left, bottom - top, right - left)


def _padded(side: int, tiling: Tiling) -> tuple[int, int]:
    """(padding before, padded side): centred in a tile, or else only after, up to the multiple."""
    if tiling.fill_tile and side < tiling.tile:
        return (tiling.tile - side) // 2, tiling.tile
    return 0, -(-side // tiling.multiple) * tiling.multiple


def _tile_side(side: int, tiling: Tiling) -> int:
    """The tiles' side along a padded side: the configured one, or the least for that many tiles."""
    if side <= tiling.tile:
        return side
    if tiling.fill_tile:
        return tiling.tile
    count = -(-(side - tiling.overlap) // (tiling.tile - tiling.overlap))
    even = -(-(side + (count - 1) * tiling.overlap) // count)
    return -(-even // tiling.multiple) * tiling.multiple


def _starts(side: int, tile: int, overlap: int) -> list[int]:
    if tile == side:
        return [0]
    return [*range(0, side - tile, tile - overlap), side - tile]


def reflect_pad(pictures: Tensor, plan: TilePlan) -> Tensor:
    """[B,C,h,w] -> [B,C,plan.height,plan.width]: reflected on all sides as often as needed."""
    rows = _reflected(pictures.shape[-2], plan.top, plan.height).to(pictures.device)
    columns = _reflected(pictures.shape[-1], plan.left, plan.width).to(pictures.device)
    return pictures.index_select(-2, rows).index_select(-1, columns)


def cut(picture: Tensor, tile: Tile, scale: int = 1) -> Tensor:
    """A tile's part of [...,H,W], which is `scale` times the tile's canvas: a view of it."""
    top, left = tile.top * scale, tile.left * scale
    return picture[..., top : top + tile.height * scale, left : left + tile.width * scale]


def _reflected(side: int, before: int, target: int) -> Tensor:
    """Indices ...,1,0,1,...,side-1,side-2,... with `before` of them ahead of the first 0."""
    period = 2 * (side - 1)
    index = (torch.arange(target) - before) % period
    return torch.where(index < side, index, period - index)


def gaussian_window(side: int) -> Tensor:
    """Blend weights along one side, float32 [side], largest in the middle, always positive.

    sigma = 0.3 ((side - 1) / 2 - 1) + 0.8 (OpenCV's rule). An even side takes the samples of the
    window of side + 1 without its first, as InvSR's reference does.
    """
    samples = side if side % 2 else side + 1
    sigma = 0.3 * ((side - 1) / 2 - 1) + 0.8
    distance = torch.arange(samples, dtype=torch.float32) - (samples - 1) / 2
    window = torch.exp(-0.5 * (distance / sigma) ** 2)
    return window[samples - side :]


class Blend:
    """Weighted sum of tiles' outputs over a canvas; `result` divides by the weights' sum."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        plan: TilePlan,
        scale: int,
        device: torch.device,
        ground: Tensor | None = None,
    ) -> None:
        """`shape`: (batch, height, width) of the canvas in output pixels.

        `ground` [batch,3,height,width]: what stands for tiles that are not added, left as it is elsewhere.
        """
        batch, height, width = shape
        first = plan.tiles[0]
        self.device = device
        self._plan = plan
        self._ground = ground
        self._scale = scale
        self._sum = torch.zeros(batch, 3, height, width, device=device)
        # A tile that is alone counts in full.
        sides = (first.height, first.width)
        self._windows = tuple(
            (gaussian_window(side * scale) if len(plan.tiles) > 1 else torch.ones(side * scale)).to(device)
            for side in sides
        )

    def add(self, frame: int, tile: Tile, output: Tensor) -> None:
        """Add one tile's output [3, scale*tile height, scale*tile width] to a frame's canvas."""
        self.add_block(frame, tile, [tile], output)

    def add_block(self, frame: int, whole: Tile, inside: Sequence[Tile], output: Tensor) -> None:
        """Add the output of a rectangle of tiles, as if each had been added: see `merged`."""
        if self._ground is not None:
            output = output - cut(self._ground[frame], whole, self._scale)
        cut(self._sum[frame], whole, self._scale).add_(output * self._weights_of(whole, inside))

    def _weights_of(self, whole: Tile, inside: Sequence[Tile]) -> Tensor:
        """The sum of tiles' windows over the rectangle that they fill in rows and columns."""
        rows = self._summed(0, whole.height, sorted({tile.top - whole.top for tile in inside}))
        columns = self._summed(1, whole.width, sorted({tile.left - whole.left for tile in inside}))
        return rows[:, None] * columns[None, :]

    def _summed(self, axis: int, side: int, starts: Sequence[int]) -> Tensor:
        window = self._windows[axis]
        total = torch.zeros(side * self._scale, device=self.device)
        for start in starts:
            total[start * self._scale : start * self._scale + len(window)] += window
        return total

    def result(self) -> Tensor:
        """[batch,3,height,width]; call once, when every tile was added."""
        canvas = Tile(0, 0, 0, self._plan.height, self._plan.width)
        blended = self._sum.div_(self._weights_of(canvas, self._plan.tiles))
        return blended if self._ground is None else blended.add_(self._ground)
