"""Masks of small frames and the tiles of a plan: which tiles a mask touches, and what tiles cover."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from ..blending import reflect_pad
from ..tiling import TilePlan
from .fusion import Box


def tiles_touched(mask: Tensor, plan: TilePlan, margin: int = 0) -> set[int]:
    """The tiles (by index) in which, or so many pixels around which, a mask [h,w] is anywhere true."""
    padded = reflect_pad(mask[None, None].to(torch.int32), plan)[0, 0]
    # How many are true above and to the left of a corner; four corners tell of a tile.
    before = functional.pad(padded.cumsum(0).cumsum(1), (1, 0, 1, 0))
    tops, lefts = (torch.tensor(each).to(mask.device) for each in (plan.tops, plan.lefts))
    bottoms, rights = tops + plan.tiles[0].height, lefts + plan.tiles[0].width
    rows = before[(bottoms + margin).clamp(max=plan.height)] - before[(tops - margin).clamp(min=0)]
    inside = rows[:, (rights + margin).clamp(max=plan.width)] - rows[:, (lefts - margin).clamp(min=0)]
    return set(inside.flatten().nonzero().flatten().tolist())


def pixels_covered(chosen: Collection[int], plan: TilePlan, size: Sequence[int]) -> Tensor:
    """Bool [h,w]: where a picture of that size lies in chosen tiles (by index)."""
    columns, (first, *_) = len(plan.lefts), plan.tiles
    index = torch.tensor(sorted(chosen))
    top, left = torch.tensor(plan.tops)[index // columns], torch.tensor(plan.lefts)[index % columns]
    bottom, right = top + first.height, left + first.width
    # One more inside than outside of every corner; sums from above and from the left fill the tiles.
    corners = torch.zeros(plan.height + 1, plan.width + 1, dtype=torch.int32)
    for y, x, sign in ((top, left, 1), (bottom, right, 1), (top, right, -1), (bottom, left, -1)):
        corners.index_put_((y, x), torch.full_like(index, sign, dtype=torch.int32), accumulate=True)
    inside = corners.cumsum(0).cumsum(1) > 0
    return inside[plan.top : plan.top + size[0], plan.left : plan.left + size[1]]


def box_around(mask: Tensor) -> Box:
    """The part of the picture around all that is true in [h,w]; something must be."""
    rows, columns = (mask.any(axis).nonzero().flatten().tolist() for axis in (1, 0))
    return Box(rows[0], columns[0], rows[-1] + 1, columns[-1] + 1)
