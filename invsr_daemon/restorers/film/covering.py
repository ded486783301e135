"""Which rectangles to restore when only some tiles change."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..tiling import Tile, TilePlan, Tiling

FINE_TILE, FINE_OVERLAP, HALO = 16, 8, 8

# LR pixels that cost as much as one more call of the networks does.
CALL = 64 * 64

# A rectangle of tiles, and the tiles in it.
Block = tuple["Tile", list["Tile"]]
Mask = NDArray[np.bool_]
Integers = NDArray[np.int_]
Cost = Callable[[Any, Any], Any]


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
