"""What a film is to the metrics: frames in order, each with its truth and the motion that led to it.

Clips are walked through frame by frame, so that memory holds only a few frames.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...train import degrade
from ..picture_methods import SCALE

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Flow:
    """Where the pixels of one frame are in a neighbouring one.

    `vectors` float32 [2,H,W]: x and y of the place in the neighbour minus those of the pixel.
    `valid` bool [H,W]: the pixel is seen in both frames, and the vector can be trusted.
    """

    vectors: Tensor
    valid: Tensor


@dataclass(frozen=True)
class ClipMotion:
    """Between two frames: `forward` belongs to the earlier one's pixels, `backward` to the later one's."""

    forward: Flow
    backward: Flow


@dataclass(frozen=True)
class Step:
    """One frame: the truth [H,W,3] and the poor picture [H/4,W/4,3] that is restored.

    `motion` is None in the first frame of a shot. `static` bool [H,W]: pixels that are the same in every
    frame of the shot; None where that is not known.
    """

    index: int
    truth: Pixels
    poor: Pixels
    motion: ClipMotion | None
    static: Tensor | None


class Clip(Protocol):
    """A film with its truth."""

    @property
    def name(self) -> str: ...

    @property
    def frames(self) -> int: ...

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the truth."""

    def steps(self) -> Iterator[Step]:
        """Yield every frame from the first; each call yields the same ones."""


def reduced(truth: Pixels) -> Tensor:
    """The poor picture: [H,W,3] -> float32 [H/4,W/4,3], whole numbers in 0..255; antialiased bicubic."""
    picture = torch.from_numpy(truth).permute(2, 0, 1)[None].float() / 255
    return (degrade.bicubic(picture, SCALE)[0].permute(1, 2, 0) * 255).round()


def quantised(picture: Tensor) -> Pixels:
    """[H,W,3] in 0..255 -> uint8, rounded."""
    rounded: Pixels = picture.round().clamp(0, 255).to(torch.uint8).numpy()
    return rounded
