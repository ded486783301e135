"""Colours where nothing is seen: what a picture holds there must not bleed into what is seen."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8] | NDArray[np.uint16]


def fill_unseen(pixels: Pixels, alpha: Pixels) -> Pixels:
    """Pixels [H,W,3] whose colours where `alpha` [H,W] is 0 are those of what is seen nearby."""
    seen = alpha > 0
    if seen.all() or not seen.any():
        return pixels
    filled = _filled(pixels.astype(np.float32), seen)
    deep = pixels.dtype == np.uint16
    return filled.round().astype(np.uint16) if deep else filled.round().astype(np.uint8)


def _filled(colours: NDArray[np.float32], known: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Unknown colours from the mean of the known ones in a square of 2, of 4, of 8 and so on around them."""
    if known.all():
        return colours
    height, width = known.shape
    room = ((0, height % 2), (0, width % 2))
    weights = np.pad(known, room).astype(np.float32)
    sums = _by_fours(np.pad(colours, (*room, (0, 0))) * weights[..., None])
    counts = _by_fours(weights[..., None])
    means = (sums / np.maximum(counts, 1)).astype(np.float32)
    coarse = _filled(means, counts[..., 0] > 0)
    around = coarse.repeat(2, axis=0).repeat(2, axis=1)[:height, :width]
    return np.where(known[..., None], colours, around)


def _by_fours(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sums over squares of 2."""
    return values[::2, ::2] + values[1::2, ::2] + values[::2, 1::2] + values[1::2, 1::2]
