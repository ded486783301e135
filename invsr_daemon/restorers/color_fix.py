"""Colour from the input, detail from the result.

Both fixes take the restored picture and the reference (the input, upsampled to the same size and
cropped to the same place), RGB in [0,1], [B,3,H,W]. The wavelet fix treats every channel alone and
takes any number of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from .tiling import ROWS

WAVELET_LEVELS = 5
REACH = 2**WAVELET_LEVELS - 1  # of the blurs together

# BT.601 studio range (MATLAB's rgb2ycbcr) without its offsets 16, 128, 128, which cancel on the way back.
_TO_YCBCR = ((65.481, 128.553, 24.966), (-37.797, -74.203, 112.0), (112.0, -93.786, -18.214))


def wavelet(restored: Tensor, reference: Tensor) -> Tensor:
    """High frequencies of the result on the low frequency of the reference (a trous wavelets).

    The low frequency is linear: that of the difference is enough. Some rows at a time: pictures are large.
    """
    apart = reference - restored
    fixed, height = restored.clone(), restored.shape[-2]
    for top in range(0, height, ROWS):
        first, bottom = max(0, top - REACH), min(top + ROWS, height)
        low = _low_frequency(apart[..., first : bottom + REACH, :])
        fixed[..., top:bottom, :] += low[..., top - first : bottom - first, :]
    return fixed


def _low_frequency(x: Tensor) -> Tensor:
    """Five 3x3 binomial blurs at dilations 1, 2, 4, 8, 16, borders replicated."""
    for level in range(WAVELET_LEVELS):
        radius = 2**level
        x = _binomial(_binomial(x, radius, vertical=True), radius, vertical=False)
    return x


def _binomial(x: Tensor, radius: int, *, vertical: bool) -> Tensor:
    """0.25, 0.5, 0.25 at distance `radius` along one axis; by slices, which no convolution beats."""
    if vertical:
        padded = functional.pad(x, (0, 0, radius, radius), mode="replicate")
        outer = padded[..., : -2 * radius, :] + padded[..., 2 * radius :, :]
    else:
        padded = functional.pad(x, (radius, radius, 0, 0), mode="replicate")
        outer = padded[..., : -2 * radius] + padded[..., 2 * radius :]
    return outer.mul_(0.25).add_(x, alpha=0.5)


def ycbcr(restored: Tensor, reference: Tensor) -> Tensor:
    """Luma of the result, chroma of the reference, clamped to [0,1]."""
    matrix = torch.tensor(_TO_YCBCR, dtype=torch.float64)
    forward, backward = matrix.to(restored), torch.linalg.inv(matrix).to(restored)
    luma = _mixed(forward[:1], restored)
    chroma = _mixed(forward[1:], reference)
    return _mixed(backward, torch.cat([luma, chroma], dim=1)).clamp(0, 1)


def _mixed(matrix: Tensor, picture: Tensor) -> Tensor:
    return torch.einsum("ij,bjhw->bihw", matrix, picture)


ColorFix = Literal["none", "wavelet", "ycbcr"]

# Each with the number of channels that it needs at once.
FIXES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], int]] = {
    "wavelet": (wavelet, 1),
    "ycbcr": (ycbcr, 3),
}
