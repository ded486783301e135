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
WINDOW = 9
ROWS = 256
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


def add_detail(pictures: Tensor, grain: Tensor, detail: Detail) -> Tensor:
    """[B,3,H,W] in [0,1] with detail, in place, not clamped. `grain`: standard normal draws, [B or 1,1,H,W].

    Some rows at a time: pictures are large.
    """
    margin = WINDOW // 2
    padded = functional.pad(pictures.mean(1, keepdim=True), (margin,) * 4, mode="replicate")
    noise = functional.pad(grain, (1,) * 4, mode="replicate")
    for top in range(0, pictures.shape[-2], ROWS):
        around = padded[..., top : top + ROWS + 2 * margin, :]
        mean = functional.avg_pool2d(around, WINDOW, stride=1)
        variance = (functional.avg_pool2d(around.square(), WINDOW, stride=1) - mean.square()).clamp_min(0)
        strength = detail.grain * variance.sqrt() / (1 + variance / EDGE**2)
        luma = around[..., margin:-margin, margin:-margin]
        near = around[..., margin - 1 : 1 - margin, margin - 1 : 1 - margin]
        fine = luma - functional.avg_pool2d(near, 3, stride=1)
        clumped = _clumped(noise[..., top : top + ROWS + 2, :])
        pictures[..., top : top + ROWS, :] += detail.sharpen * fine + strength * clumped
    return pictures


def _clumped(noise: Tensor) -> Tensor:
    """White noise [...,h+2,w+2] -> [...,h,w] of unit deviation too, neighbours in rows and columns alike."""
    variance = (1 + CLUMPS / 3) ** 2 + 2 * (CLUMPS / 3) ** 2
    noise = noise[..., 1:-1] + CLUMPS * functional.avg_pool2d(noise, (1, 3), stride=1)
    noise = noise[..., 1:-1, :] + CLUMPS * functional.avg_pool2d(noise, (3, 1), stride=1)
    return noise / variance
