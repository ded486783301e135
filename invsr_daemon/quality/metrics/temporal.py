"""How stable a film is in time. Frames are [H,W,3] in 8 bits, as they would be stored.

A film of grey frames is perfectly stable: always read these numbers beside a measure of detail.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional

from ..samples.clips import Flow, Pixels
from ..samples.spline import coefficients, sample
from .psnr_ssim import LUMA, LUMA_OFFSET

# Levels of 255: a smaller change counts as none, so that nothing is divided by it.
UNSEEN = 0.05
NEIGHBOURS = 5


def luma(frame: Pixels) -> Tensor:
    """BT.601 studio luma, float32 [H,W] in 16..235."""
    return torch.from_numpy(frame).float() @ (torch.tensor(LUMA) / 255) + LUMA_OFFSET


@dataclass(frozen=True)
class Deviation:
    """Mean and sum of squared deviations of the frames so far, per pixel, float64 [H,W] (Welford 1962)."""

    count: int
    mean: Tensor
    squares: Tensor

    @classmethod
    def of(cls, first: Tensor) -> Deviation:
        return cls(1, first.double(), torch.zeros_like(first, dtype=torch.float64))

    def add(self, frame: Tensor) -> Deviation:
        """Return the deviation with one more frame [H,W]."""
        apart = frame.double() - self.mean
        mean = self.mean + apart / (self.count + 1)
        return Deviation(self.count + 1, mean, self.squares + apart * (frame.double() - mean))

    def std(self) -> Tensor:
        """Over time, [H,W], with divisor N."""
        return (self.squares / self.count).sqrt()


def temporal_std(lumas: Iterable[Tensor], static: Tensor) -> float | None:
    """Mean over pixels of the standard deviation over time, in levels of 255; None if nothing is static.

    `lumas`: [H,W] each, of one shot; `static` bool [H,W]: where the truth does not change.
    """
    frames = iter(lumas)
    deviation = Deviation.of(next(frames))
    for frame in frames:
        deviation = deviation.add(frame)
    return masked_mean(deviation.std(), static)


def masked_mean(values: Tensor, mask: Tensor) -> float | None:
    """Of values [H,W] where the mask is set; None where it is nowhere."""
    return float(values[mask].mean()) if mask.any() else None


def interior(mask: Tensor, distance: int) -> Tensor:
    """bool [H,W]: pixels of the mask with only mask within `distance`. Beyond the frame counts as no mask."""
    others = functional.pad((~mask)[None, None].float(), (distance,) * 4)
    return functional.max_pool2d(others, 2 * distance + 1, stride=1)[0, 0] == 0


def residuals(earlier: Pixels, later: Pixels, flow: Flow) -> Tensor:
    """float32 [N,3]: the later frame, fetched along the earlier one's flow, minus the earlier, where valid.

    Fetched by cubic splines: see there why not bilinearly. Pixels that rest are compared as they are.
    """
    columns = flow.valid.nonzero()
    y, x = columns[:, 0], columns[:, 1]
    vectors = flow.vectors[:, y, x].double()
    before = torch.from_numpy(earlier)[y, x].float()
    after = torch.from_numpy(later)[y, x].float()
    moving = (vectors != 0).any(0)
    if moving.any():
        weights = coefficients(torch.from_numpy(later).permute(2, 0, 1).float())
        after[moving] = sample(weights, (x + vectors[0])[moving], (y + vectors[1])[moving])
    return after - before


def warping_error(earlier: Pixels, later: Pixels, flow: Flow) -> float | None:
    """E_warp of a pair: the mean square of `residuals`, in squared levels of 255; None if nothing is valid.

    W.-S. Lai et al.: "Learning blind video temporal consistency", ECCV 2018, equation 11, with the flow of
    the truth; a film's is the mean over its pairs.
    """
    return mean_square(residuals(earlier, later, flow))


def mean_square(apart: Tensor) -> float | None:
    """Of residuals [N,3]."""
    return float(apart.square().mean()) if len(apart) else None


def change(earlier: Pixels, later: Pixels) -> float:
    """Mean absolute difference of the luma, in levels of 255."""
    return float((luma(later) - luma(earlier)).abs().mean())


def compensated_change(apart: Tensor) -> float | None:
    """The same of residuals [N,3]: what changed beside the motion."""
    return float((apart @ (torch.tensor(LUMA) / 255)).abs().mean()) if len(apart) else None


def seam(
    changes: Sequence[float | None],
    at: int,
    *,
    reference: Sequence[float | None] | None = None,
    without: Collection[int] = (),
    neighbours: int = NEIGHBOURS,
) -> float | None:
    """How far the change into frame `at` is from the median of its neighbours': 0.05 is 5 %.

    Args:
        changes: per frame, from the one before; None where there is none (first frames, cuts).
        at: a frame where something begins anew, such as a chunk.
        reference: the same of the truth, or of a result where nothing begins there: changes are divided by
            its, since contents do not move evenly.
        without: other such frames: they are no neighbours.
        neighbours: on either side.

    Returns:
        None at a cut, or if there are no neighbours.
    """
    ratios = [_ratio(own, None if reference is None else reference[t]) for t, own in enumerate(changes)]
    around = [t for t in range(at - neighbours, at + neighbours + 1) if 0 <= t < len(ratios) and t != at]
    others = [ratio for t in around if t not in without and (ratio := ratios[t]) is not None]
    here = ratios[at]
    if here is None or not others:
        return None
    return abs(here / median(others) - 1)


def _ratio(own: float | None, reference: float | None) -> float | None:
    if own is None:
        return None
    return (own + UNSEEN) / (1.0 if reference is None else reference + UNSEEN)
