"""Detail that a small model's networks cannot know: fine edges lifted, grain drawn.

A network trained to be faithful averages over all the textures that there might be, and is too soft
wherever it cannot tell. Full-size diffusion models draw one of them; the embedded one's networks are too
small for that. In its place luma's finest frequencies are raised, and noise is added in proportion to how
much goes on around a pixel: none in a clear sky, some in gravel. The larger the start timestep, the more,
as with InvSR itself, where a low start is faithful and a high one inventive (paper, table 1).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

# Channels of noise at an eighth of the result's size that make one channel at its own.
CHANNELS = 64
WINDOW = 9


@dataclass(frozen=True)
class Detail:
    """How much is added from the start timestep `full` up, and none up to `none`.

    `sharpen` times the finest frequencies of luma, and noise of `grain` times luma's local deviation.
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
    deviation = (_mean(luma.square(), WINDOW) - _mean(luma, WINDOW).square()).clamp_min(0).sqrt()
    noise = functional.pixel_shuffle(normal, 8)
    return pictures + detail.sharpen * (luma - _mean(luma, 3)) + detail.grain * deviation * noise


def _mean(x: Tensor, side: int) -> Tensor:
    margin = side // 2
    return functional.avg_pool2d(functional.pad(x, (margin,) * 4, mode="replicate"), side, stride=1)
