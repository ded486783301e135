"""Frames fused with their neighbours along the motion.

A restorer sees every frame for itself, and what it makes of one and the same thing depends on how that
happens to fall on the pixel grid. Each frame is therefore averaged with the one before and the one after
(a third of its own weight each), both warped to it: what was invented differently each time goes, what all
three show stays. Three frames are a finite memory: nothing depends on where a film's chunks begin.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from .traces import enlarged, sampled

ROWS = 256
# Mean difference between a frame and its warped neighbour (in LR, 0..1) up to which they show the same, and
# from which on they do not.
ALIKE, UNLIKE = 3 / 255, 12 / 255
# Of a neighbour that shows the same, for one of the frame itself: more is steadier, and softer.
SHARE = 0.35


@dataclass(frozen=True)
class Neighbour:
    """A neighbouring frame: restored [3,sH,sW]; `flow` float [2,H,W] leads from here to it, in LR pixels;

    `weight` float [H,W] within [0,1]: how far it shows the same.
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
