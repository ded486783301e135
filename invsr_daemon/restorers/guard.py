"""What an input rules out: colour where it has none, structure where it is flat, halos beside its edges.

A network's result is taken apart into the bicubic enlargement and what it adds. Of the addition only so much
stays as the input's neighbourhood allows: chroma where there is chroma nearby, anything at all where
something goes on nearby. Then the result is kept within what the input's levels suggest: where the brightest
pixels nearby form a plateau, nothing becomes brighter than that; where they are peaks, whose height the
reduction has cut, it may. All this is a function of the input alone, so it holds by construction, whatever
the network says, and gradients pass through it in training.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ..records import BT601_LUMA

WINDOW = 5  # as far as bicubic enlargement reaches
LEVEL = 1 / 255


@dataclass(frozen=True)
class Guard:
    """From `none` levels (of 255) of chroma or of range on the addition counts, from `full` on in full.

    Results may pass a plateau by `margin` levels, and by `peak` times the height of peaks above it. Peaks
    of less than `ringing` times the range nearby are what a reduction or a compression leaves beside an edge,
    and do not count. With `peak` 0 there are no limits.
    """

    chroma_none: float = 2.0
    chroma_full: float = 8.0
    range_none: float = 1.0
    range_full: float = 4.0
    margin: float = 2.0
    peak: float = 4.0
    ringing: float = 0.08


def guarded(restored: Tensor, enlarged: Tensor, poor: Tensor, guard: Guard) -> Tensor:
    """[B,3,sH,sW] of which only that stays which `poor` [B,3,H,W] allows; all in [0,1], not clamped.

    `enlarged` [B,3,sH,sW] is what `poor` is without any network.
    """
    weights = torch.tensor(BT601_LUMA, device=poor.device, dtype=poor.dtype)[None, :, None, None]
    added = restored - enlarged
    luma = (added * weights).sum(1, keepdim=True)
    colour, activity = (_widened(each, enlarged) for each in allowance(poor, weights, guard))
    result = enlarged + activity * (luma + colour * (added - luma))
    if not guard.peak:
        return result
    lowest, highest = (_widened(each, enlarged) for each in limits(poor, guard))
    return torch.minimum(torch.maximum(result, lowest), highest)


def allowance(poor: Tensor, weights: Tensor, guard: Guard) -> tuple[Tensor, Tensor]:
    """Shares in [0,1] of the chroma and of everything that may be added, [B,1,H,W] each."""
    grey = (poor * weights).sum(1, keepdim=True)
    chroma = _highest((poor - grey).abs().amax(1, keepdim=True))
    spread = (_highest(poor) + _highest(-poor)).amax(1, keepdim=True)
    return (
        _ramp(chroma, guard.chroma_none, guard.chroma_full),
        _ramp(spread, guard.range_none, guard.range_full),
    )


def limits(poor: Tensor, guard: Guard) -> tuple[Tensor, Tensor]:
    """The lowest and the highest level that a result may have around every pixel: [B,3,H,W] each."""
    # The edge that a halo belongs to may lie outside of the window that the halo is in.
    spread = _highest(_highest(poor)) + _highest(_highest(-poor))
    return -_limit(-poor, spread, guard), _limit(poor, spread, guard)


def _limit(levels: Tensor, spread: Tensor, guard: Guard) -> Tensor:
    plateau = _highest(_opened(levels))
    above = (_highest(levels) - plateau - guard.ringing * spread).clamp_min(0)
    return plateau + guard.margin * LEVEL + guard.peak * above


def _opened(levels: Tensor) -> Tensor:
    """Without what is brighter than its surroundings and narrower than two pixels."""
    darkest = -functional.max_pool2d(-functional.pad(levels, (0, 1, 0, 1), mode="replicate"), 2, stride=1)
    return functional.max_pool2d(functional.pad(darkest, (1, 0, 1, 0), mode="replicate"), 2, stride=1)


def _highest(values: Tensor) -> Tensor:
    """Of a neighbourhood that ends at the border."""
    return functional.max_pool2d(values, WINDOW, stride=1, padding=WINDOW // 2)


def _widened(values: Tensor, like: Tensor) -> Tensor:
    return functional.interpolate(values, like.shape[-2:], mode="bilinear", align_corners=False)


def _ramp(values: Tensor, none: float, full: float) -> Tensor:
    return ((values / LEVEL - none) / (full - none)).clamp(0, 1)
