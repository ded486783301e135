"""What an input rules out: colour where it has none, structure where it is flat.

A network's result is taken apart into the bicubic enlargement and what it adds. Of the addition only so much
stays as the input's neighbourhood allows: chroma where there is chroma nearby, anything at all where
something goes on nearby. Both are functions of the input alone, so they hold by construction, whatever the
network says, and gradients pass through them in training.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

WINDOW = 5  # as far as bicubic enlargement reaches
LUMA = (0.299, 0.587, 0.114)
LEVEL = 1 / 255


@dataclass(frozen=True)
class Guard:
    """From `none` levels (of 255) of chroma or of range on the addition counts, from `full` on in full."""

    chroma_none: float = 2.0
    chroma_full: float = 8.0
    range_none: float = 1.0
    range_full: float = 4.0


def guarded(restored: Tensor, enlarged: Tensor, poor: Tensor, guard: Guard) -> Tensor:
    """[B,3,sH,sW] of which only that stays which `poor` [B,3,H,W] allows; all in [0,1], not clamped.

    `enlarged` [B,3,sH,sW] is what `poor` is without any network.
    """
    weights = torch.tensor(LUMA, device=poor.device, dtype=poor.dtype)[None, :, None, None]
    added = restored - enlarged
    luma = (added * weights).sum(1, keepdim=True)
    colour, activity = allowance(poor, weights, guard)
    size = enlarged.shape[-2:]
    colour, activity = (
        functional.interpolate(each, size, mode="bilinear", align_corners=False)
        for each in (colour, activity)
    )
    return enlarged + activity * (luma + colour * (added - luma))


def allowance(poor: Tensor, weights: Tensor, guard: Guard) -> tuple[Tensor, Tensor]:
    """Shares in [0,1] of the chroma and of everything that may be added, [B,1,H,W] each."""
    grey = (poor * weights).sum(1, keepdim=True)
    chroma = _highest((poor - grey).abs().amax(1, keepdim=True))
    spread = (_highest(poor) + _highest(-poor)).amax(1, keepdim=True)
    return (
        _ramp(chroma, guard.chroma_none, guard.chroma_full),
        _ramp(spread, guard.range_none, guard.range_full),
    )


def _highest(values: Tensor) -> Tensor:
    """Of a neighbourhood that ends at the border."""
    return functional.max_pool2d(values, WINDOW, stride=1, padding=WINDOW // 2)


def _ramp(values: Tensor, none: float, full: float) -> Tensor:
    return ((values / LEVEL - none) / (full - none)).clamp(0, 1)
