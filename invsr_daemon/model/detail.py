"""Detail that a small model's networks cannot know: fine edges lifted, grain drawn.

A network trained to be faithful averages over all the textures that there might be, and is too soft
wherever it cannot tell. Full-size diffusion models draw one of them; the embedded one's networks are too
small for that. In its place luma's finest frequencies are raised, and noise is added in proportion to how
much goes on around a pixel: none in a clear sky, some in gravel, little beside a hard edge. The larger the
start timestep, the more, as with InvSR itself, where a low start is faithful and a high one inventive (paper,
table 1).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

# Channels of noise at an eighth of the result's size that make one channel at its own.
CHANNELS = 64
AROUND, BESIDE = (9, 9), (3, 3)
# How much of its neighbours' mean a grain takes on. Single pixels look like a fault, not like texture.
CLUMPS = 0.5
# A deviation from which on more of it means an edge, not texture, and takes less grain. Of a full range of 1.
EDGE = 0.05


@dataclass(frozen=True)
class Detail:
    """How much is added from the start timestep `full` up, and none up to `none`.

    `sharpen` times the finest frequencies of luma, and noise of up to `grain` times luma's local deviation.
    """

    sharpen: float = 0.0
    grain: float = 0.0
    none: int = 100
    full: int = 200

    def at(self, start: int) -> Detail:
        """As much of it as a start timestep takes."""
        share = min(1.0, max(0.0, (start - self.none) / (self.full - self.none)))
        return Detail(self.sharpen * share, self.grain * share, self.none, self.full)

    def __bool__(self) -> bool:
        return bool(self.sharpen or self.grain)


def add_detail(pictures: Tensor, normal: Tensor, detail: Detail) -> Tensor:
    """[B,3,H,W] in [0,1] with detail, not clamped. `normal`: standard normal draws, [B,64,H/8,W/8]."""
    luma = pictures.mean(1, keepdim=True)
    variance = (_mean(luma.square(), AROUND) - _mean(luma, AROUND).square()).clamp_min(0)
    strength = detail.grain * variance.sqrt() / (1 + variance / EDGE**2)
    noise = _clumped(functional.pixel_shuffle(normal, 8))
    return pictures + detail.sharpen * (luma - _mean(luma, BESIDE)) + strength * noise


def _clumped(noise: Tensor) -> Tensor:
    """White noise of unit deviation -> the same, with neighbours in a row or a column somewhat alike."""
    variance = (1 + CLUMPS / 3) ** 2 + 2 * (CLUMPS / 3) ** 2
    for window in ((1, 3), (3, 1)):
        noise = noise + CLUMPS * _mean(noise, window)
    return noise / variance


def _mean(x: Tensor, window: tuple[int, int]) -> Tensor:
    rows, columns = (side // 2 for side in window)
    padded = functional.pad(x, (columns, columns, rows, rows), mode="replicate")
    return functional.avg_pool2d(padded, window, stride=1)
