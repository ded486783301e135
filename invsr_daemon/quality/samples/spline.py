"""Values between pixels: cubic B-spline interpolation.

P. Thévenaz, T. Blu, M. Unser: "Interpolation revisited", IEEE TMI 19(7), 2000. Of the kernels four pixels
wide it comes closest to the picture between its pixels. It both makes generated motion and measures it.
Bilinear sampling, which is usual for warping errors, blurs by an amount that depends on the fraction
of a pixel: a sharp film would look restless, a blurred one stable.

Pixels lie at whole numbers. Pictures go on beyond their edge by reflection about the last pixel.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

# The inverse of sampling a cubic B-spline at whole numbers, (1, 4, 1) / 6: a geometric series of sum 1.
POLE = math.sqrt(3) - 2
RADIUS = 12  # POLE ** 12 is 1e-7: the last bit of a float32


def coefficients(picture: Tensor) -> Tensor:
    """[C,H,W] float, H and W from 2 up -> [H,W,C]: weights of the B-splines that pass through its pixels."""
    kernel = POLE ** torch.arange(-RADIUS, RADIUS + 1).abs().to(picture)
    kernel = kernel / kernel.sum()
    rows = _reflected(torch.arange(-RADIUS, picture.shape[-2] + RADIUS), picture.shape[-2])
    columns = _reflected(torch.arange(-RADIUS, picture.shape[-1] + RADIUS), picture.shape[-1])
    padded = picture[:, None, rows][..., columns]
    filtered = functional.conv2d(
        functional.conv2d(padded, kernel[None, None, :, None]), kernel[None, None, None]
    )
    return filtered[:, 0].permute(1, 2, 0).contiguous()


def sample(weights: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The picture of `coefficients` [H,W,C] at float64 places x, y, both [N] -> [N,C]."""
    height, width, channels = weights.shape
    flat = weights.reshape(-1, channels)
    left, top = x.floor(), y.floor()
    across = _basis((x - left).to(weights.dtype))
    down = _basis((y - top).to(weights.dtype))
    columns = [_reflected(left.long() + tap, width) for tap in range(-1, 3)]
    values = torch.zeros(len(x), channels, dtype=weights.dtype)
    for tap, vertical in enumerate(down):
        row = _reflected(top.long() + tap - 1, height) * width
        for column, horizontal in zip(columns, across, strict=True):
            values += flat[row + column] * (vertical * horizontal)[:, None]
    return values


def _basis(fraction: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the cubic B-splines at -1, 0, 1, 2 weigh at a place in [0,1)."""
    rest = 1 - fraction
    return (
        rest**3 / 6,
        2 / 3 - fraction**2 * (2 - fraction) / 2,
        2 / 3 - rest**2 * (2 - rest) / 2,
        fraction**3 / 6,
    )


def _reflected(places: Tensor, side: int) -> Tensor:
    """...,1,0,1,...,side-1,side-2,...: an index for any whole number."""
    period = 2 * (side - 1)
    index = places % period
    return torch.where(index < side, index, period - index)
