"""Detail that a small model's networks cannot know: fine edges lifted, grain drawn.

A network trained to be faithful averages over all the textures that there might be, and is too soft
wherever it cannot tell. Full-size diffusion models draw one of them; the embedded one's networks are too
small for that. In its place luma's finest frequencies are raised, and noise is added in proportion to how
much goes on around a pixel: none in a clear sky, some in gravel, little beside a hard edge. The larger the
start timestep, the more, as with InvSR itself, where a low start is faithful and a high one inventive (paper,
table 1).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor
from torch.nn import functional

from .tiling import ROWS

WINDOW = 9
# A deviation from which on more of it means an edge, not texture, and takes less grain. Of a full range of 1.
EDGE = 0.05


@dataclass(frozen=True)
class Detail:
    """How much is added from the start timestep `full` up, and none up to `none`.

    `sharpen` times the finest frequencies of luma, and noise of up to `grain` times luma's local deviation;
    where detail was averaged away, also noise of up to `returned` times its deviation.
    """

    sharpen: float = 0.0
    grain: float = 0.0
    returned: float = 1.75  # it is gone before it could be sharpened
    none: int = 100
    full: int = 200

    def at(self, start: int) -> Detail:
        """As much of it as a start timestep takes."""
        share = min(1.0, max(0.0, (start - self.none) / (self.full - self.none)))
        return replace(
            self, sharpen=self.sharpen * share, grain=self.grain * share, returned=self.returned * share
        )

    def __bool__(self) -> bool:
        return bool(self.sharpen or self.grain)


def add_detail(pictures: Tensor, grain: Tensor, detail: Detail, removed: Tensor | None = None) -> Tensor:
    """[B,3,H,W] in [0,1] with detail, in place, not clamped. `grain`: of unit variance, [B or 1,1,H,W].

    `removed` [B,1,H,W]: luma that has been averaged away; as much deviation comes back as grain. Some rows at
    a time: pictures are large.
    """
    margin = WINDOW // 2
    padded = functional.pad(pictures.mean(1, keepdim=True), (margin,) * 4, mode="replicate")
    if removed is not None:
        removed = functional.pad(removed, (margin,) * 4, mode="replicate")
    for top in range(0, pictures.shape[-2], ROWS):
        around = padded[..., top : top + ROWS + 2 * margin, :]
        mean = _mean(around, WINDOW)
        variance = (_mean(around.square(), WINDOW) - mean.square()).clamp_min(0)
        power = detail.grain**2 * variance
        if removed is not None:
            lost = _mean(removed[..., top : top + ROWS + 2 * margin, :].square(), WINDOW)
            power += detail.returned**2 * lost
        strength = power.sqrt_().div_(1 + variance / EDGE**2)
        luma = around[..., margin:-margin, margin:-margin]
        near = around[..., margin - 1 : 1 - margin, margin - 1 : 1 - margin]
        fine = luma - _mean(near, 3)
        rows = slice(top, top + ROWS)
        pictures[..., rows, :] += detail.sharpen * fine + strength * grain[..., rows, :]
    return pictures


def _mean(values: Tensor, side: int) -> Tensor:
    """Of squares of [...,H,W], where they lie within. Pooling would read each value `side` times per axis."""
    return _sums(_sums(values, side, -1), side, -2).div_(side**2)


def _sums(values: Tensor, side: int, axis: int) -> Tensor:
    """Of `side` neighbours along an axis, from sums of half as many."""
    if side == 1:
        return values
    half, length = _sums(values, side // 2, axis), values.shape[axis] - side + 1
    both = half.narrow(axis, 0, length) + half.narrow(axis, side // 2, length)
    return both.add_(values.narrow(axis, side - 1, length)) if side % 2 else both
