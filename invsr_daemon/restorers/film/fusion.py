"""Fusion: each restored frame is averaged with its neighbours along the motion.

A restorer sees one frame at a time. What it makes of a thing depends on how the thing falls on the pixel
grid, so the same thing flickers. The frames before and after are warped onto a frame and averaged with it,
each with a third of its weight. What was invented anew in each frame goes; what all three show stays.
Three frames are a finite memory: no result depends on where a film's chunks begin.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ..tiling import ROWS
from .traces import enlarged, sampled

# Up to the first mean difference (LR, full range 1) a frame and its warped neighbour show the same; from the
# second on they do not.
ALIKE, UNLIKE = 3 / 255, 12 / 255
# The weight of a neighbour that shows the same; the frame itself has 1. More is steadier, and softer.
SHARE = 0.35


@dataclass(frozen=True)
class Neighbour:
    """A neighbouring frame.

    `restored`: [3,sH,sW], s being the scale. `flow`: float [2,H,W], from here to the neighbour, in LR pixels.
    `weight`: float [H,W] in [0,1], how far it shows the same.
    """

    restored: Tensor
    flow: Tensor
    weight: Tensor


@dataclass(frozen=True)
class Box:
    """A part of the picture, in LR pixels."""

    top: int
    left: int
    bottom: int
    right: int


def agreement(own: Tensor, other: Tensor, flow: Tensor, trusted: Tensor) -> Tensor:
    """How far two LR frames [3,H,W] show the same along a flow [2,H,W]: float [H,W] within [0,1]."""
    difference = (sampled(other[None], flow, "bicubic")[0] - own).abs().mean(0, keepdim=True)
    around = functional.avg_pool2d(difference[None], 3, stride=1, padding=1, count_include_pad=False)[0, 0]
    return trusted * ((UNLIKE - around) / (UNLIKE - ALIKE)).clamp(0, 1)


def fuse(own: Tensor, neighbours: Sequence[Neighbour], box: Box, scale: int) -> Tensor:
    """`own` [3,sH,sW] averaged with its neighbours inside a box: a new picture."""
    fused = own.clone()
    columns = slice(box.left * scale, box.right * scale)
    for top in range(box.top, box.bottom, ROWS // scale):
        rows = slice(top, min(top + ROWS // scale, box.bottom))
        place = (..., slice(rows.start * scale, rows.stop * scale), columns)
        total, weights = own[place].clone(), torch.ones((), device=own.device)
        for neighbour in neighbours:
            flow = enlarged(neighbour.flow, rows, scale)[..., columns] * scale
            weight = SHARE * enlarged(neighbour.weight[None], rows, scale)[..., columns]
            warped = sampled(neighbour.restored[None], flow, "bicubic", rows.start * scale, columns.start)[0]
            total += weight * warped
            weights = weights + weight
        fused[place] = total / weights
    return fused
