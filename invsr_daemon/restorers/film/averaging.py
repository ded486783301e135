"""Averages over time: where nothing moves, sensor noise goes before a model can take it for texture."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from .traces import Motion

WINDOW = 5
# Noise is what differs from one frame to the next at this share of the still pixels: it is everywhere (but in
# black bars), and no greater between frames far apart. Slow motion is neither; a change of light is
# everywhere, but evenly. Up to so many times as much, pixels show the same.
NOISE_QUANTILE, NOISE_FACTOR = 0.25, 1.6


@dataclass(frozen=True)
class FilmFrame:
    """One LR frame. `pixels` [3,h,w]: uint8, or float within [0,1].

    `motion`: from the frame before; None if there is none, or it is not known. `cut`: a new shot begins.
    """

    index: int
    pixels: Tensor
    motion: Motion | None = None
    cut: bool = False

    def unit(self) -> Tensor:
        """The pixels as float32 in [0,1]."""
        return self.pixels.float() / 255 if self.pixels.dtype == torch.uint8 else self.pixels.float()


@dataclass(frozen=True)
class Averaged:
    """A frame, and its pixels float32 [3,h,w] in [0,1] averaged over time where nothing moves."""

    frame: FilmFrame
    pixels: Tensor

    @property
    def motion(self) -> Motion | None:
        return self.frame.motion


def average(window: Sequence[FilmFrame], place: int, half: int) -> Tensor:
    """A frame [3,h,w] averaged, pixel by pixel, with those before and after it as long as nothing moves.

    With `half` of them on either side; where a shot begins or ends a third of those that lack is made up for
    on the other side: so the first anchor differs from the second by as much as that from the third.
    """
    own = window[place].unit()
    total = torch.zeros_like(own)
    count = torch.ones_like(own[:1])
    sides = [list(_around_in_shot(window, place, step)) for step in (1, -1)]
    for near, far in (sides, sides[::-1]):
        reach = half + max(0, half - len(far)) // 3
        noise = None
        for difference, still in _differences(own, near[:reach]):
            amount = _around(difference.abs().mean(0, keepdim=True))
            if noise is None and difference.any():  # frames shown again tell nothing
                noise = _noise(difference, amount, still & ((amount > 0) | ~_blank(own)))
            alike = still if noise is None else still & (amount <= NOISE_FACTOR * noise)
            total += difference * alike
            count += alike
    # Differences, so that equal frames give exactly themselves.
    return own + total / count


def _noise(difference: Tensor, amount: Tensor, where: Tensor) -> Tensor:
    """What noise makes of the difference [3,h,w] of two frames; `amount` [1,h,w] is its mean in windows.

    No more than what is not common to a window: light that goes on is.
    """
    apart = _around((difference - _around(difference)).abs().mean(0, keepdim=True))
    telling = torch.minimum(amount, apart)[where]
    if not len(telling):
        return amount.new_zeros(())
    return telling.kthvalue(int(NOISE_QUANTILE * len(telling)) + 1).values


def _blank(pixels: Tensor) -> Tensor:
    """Bool [1,h,w]: where all of [3,h,w] is of one colour in a window."""
    padded = functional.pad(pixels, (1, 0, 1, 0), mode="replicate")
    left, above = padded[:, 1:, :-1], padded[:, :-1, 1:]
    edges = ((pixels != left) | (pixels != above)).any(0, keepdim=True)
    return _around(edges.float()) == 0


def _around_in_shot(window: Sequence[FilmFrame], place: int, step: int) -> Iterator[tuple[FilmFrame, Motion]]:
    """The frames after (step 1) or before (-1) one in its shot, each with the motion that leads to it."""
    at = place
    while 0 <= at + step < len(window):
        motion = window[max(at, at + step)].motion
        if motion is None:
            return
        at += step
        yield window[at], motion


def _differences(own: Tensor, others: Iterable[tuple[FilmFrame, Motion]]) -> Iterator[tuple[Tensor, Tensor]]:
    """From a frame [3,h,w] to those around it, and where nothing has moved on the way, bool [1,h,w]."""
    still = torch.ones_like(own[:1], dtype=torch.bool)
    for frame, motion in others:
        still = still & motion.still.to(own.device)
        if not still.any():
            return
        yield frame.unit() - own, still


def pixels_changed(frames: Sequence[Averaged], tolerance: float) -> Tensor:
    """Bool [h,w]: where any frame differs from the first by more than the tolerance."""
    first = frames[0].pixels
    differs = torch.zeros(first.shape[-2:], dtype=torch.bool, device=first.device)
    for averaged in frames[1:]:
        amount = (averaged.pixels - first).abs().mean(0, keepdim=True)
        differs |= _around(amount)[0] > tolerance
    return differs


def _around(amount: Tensor) -> Tensor:
    """Means of [c,h,w] in windows."""
    return functional.avg_pool2d(
        amount[None], WINDOW, stride=1, padding=WINDOW // 2, count_include_pad=False
    )[0]
