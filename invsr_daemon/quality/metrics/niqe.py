"""NIQE: the quality of a picture without a reference; lower is better.

A. Mittal, R. Soundararajan, A. C. Bovik: "Making a 'completely blind' image quality analyzer", IEEE
Signal Processing Letters 20(3), 2013. Natural pictures, freed of local mean and contrast (MSCN
coefficients), have regular statistics. 36 numbers describe them per patch; the patches of a picture
and those of sharp photographs each give a Gaussian in 36 dimensions; NIQE is their distance.

The statistics of sharp photographs are `niqe_pristine.npz`. They are fitted from photographs of our own, so
numbers compare with each other, not with those of another fit:

    python -m invsr_daemon.quality.metrics.niqe --photographs DIR --out FILE

Details the paper leaves open follow its authors' release: full-range luma of 8 bits, C = 1, half size
by antialiased bicubic, pairs of neighbours that go round within a patch. One addition: areas without
any deviation have coefficients of exactly zero, and patches of nothing else are left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ...errors import InvsrError
from ...records import BT601_LUMA
from .psnr_ssim import blurred, gaussian

PATCH = 96
SCALES = 2
FEATURES = 36
WINDOW, SIGMA = 7, 7 / 6
# A patch describes a photograph if its mean deviation exceeds this share of the sharpest patch's.
SHARP_ENOUGH = 0.75
# Fewer patches give no covariance worth the name: 3x3 of them, 288x288 pixels.
FEWEST_PATCHES = 9
# Tried 1000 to 2400: at 1024 unseen photographs and their enlarged reductions lie furthest apart.
LONGEST_SIDE = 1024
# Below this variance (8-bit numbers) there is only rounding: one step in a window's corner makes 1e-4.
FLAT = 1e-6
NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))
PRISTINE = Path(__file__).with_name("niqe_pristine.npz")
TRAINING_LIST = Path(__file__).parents[2] / "train" / "configs" / "photographs.txt"


@dataclass(frozen=True)
class Pristine:
    """What sharp photographs look like: mean [36], covariance [36,36] (float64), and where it is from."""

    mean: Tensor
    covariance: Tensor
    patches: int
    names: tuple[str, ...]

    @classmethod
    def read(cls, path: Path) -> Pristine:
        with np.load(path, allow_pickle=False) as stored:
            return cls(
                torch.from_numpy(stored["mean"]),
                torch.from_numpy(stored["covariance"]),
                int(stored["patches"]),
                tuple(map(str, stored["names"])),
            )

    def write(self, path: Path) -> None:
        np.savez_compressed(
            path,
            mean=self.mean.numpy(),
            covariance=self.covariance.numpy(),
            patches=np.array(self.patches),
            names=np.array(self.names),
        )


@dataclass(frozen=True)
class Aggd:
    """Asymmetric generalised Gaussians: shape and the scales of both sides, each [N]."""

    alpha: Tensor
    left: Tensor
    right: Tensor

    @property
    def mean(self) -> Tensor:
        """(right - left) G(2/alpha) / G(1/alpha): the paper's equation 8."""
        return (self.right - self.left) * torch.exp(
            torch.lgamma(2 / self.alpha) - torch.lgamma(1 / self.alpha)
        )


@cache
def packaged_pristine() -> Pristine:
    """The statistics that come with this package."""
    return Pristine.read(PRISTINE)


def niqe(picture: Tensor, pristine: Pristine | None = None) -> float | None:
    """NIQE of one picture, [3,H,W] RGB in [0,1]; None if fewer than 9 patches of 96x96 say anything.

    It is unreliable below about a megapixel: compare averages. Raises ValueError for another shape.
    """
    return distance(patch_features(picture), pristine)


def distance(features: Tensor, pristine: Pristine | None = None) -> float | None:
    """NIQE of patches [N,36], of one picture or of a film's frames together; None if fewer than 9."""
    pristine = pristine or packaged_pristine()
    if len(features) < FEWEST_PATCHES:
        return None
    apart = pristine.mean - features.mean(dim=0)
    between = (pristine.covariance + features.T.cov()) / 2
    squared = apart @ torch.linalg.pinv(between, hermitian=True) @ apart
    return float(squared.clamp(min=0).sqrt())


def patch_features(picture: Tensor, sharp_enough: float | None = None) -> Tensor:
    """[3,H,W] RGB in [0,1] -> [patches,36] float64: 18 features at two scales.

    With `sharp_enough` only of patches whose mean deviation exceeds that share of the sharpest one's.
    """
    if picture.ndim != 3 or picture.shape[0] != 3:
        raise ValueError(f"a picture must be [3,H,W], not {tuple(picture.shape)}")
    height, width = (side // PATCH * PATCH for side in picture.shape[-2:])
    if not height or not width:
        return torch.empty(0, FEATURES, dtype=torch.float64)
    grey = _grey(picture)[..., :height, :width]
    scales, sharpness = [], torch.empty(0)
    for scale in range(SCALES):
        coefficients, deviation = mscn(grey)
        if scale == 0:
            sharpness = _patches(deviation, PATCH).mean(dim=(1, 2))
        scales.append(_features(_patches(coefficients, PATCH >> scale)))
        grey = functional.interpolate(grey, scale_factor=0.5, mode="bicubic", antialias=True)
    features = torch.cat(scales, dim=1)
    kept = features.isfinite().all(dim=1)
    if sharp_enough is not None:
        kept &= sharpness > sharp_enough * sharpness.max()
    return features[kept]


def mscn(grey: Tensor) -> tuple[Tensor, Tensor]:
    """Mean-subtracted contrast-normalised coefficients (equation 1) and the local deviation.

    [1,1,H,W] in 8-bit numbers -> two of the same shape. Borders are replicated.
    """
    window = gaussian(WINDOW, SIGMA)
    padded = functional.pad(grey, (WINDOW // 2,) * 4, mode="replicate")
    mean = blurred(padded, window)
    variance = (blurred(padded * padded, window) - mean * mean).clamp(min=0)
    variance = torch.where(variance < FLAT, 0.0, variance)
    deviation = variance.sqrt()
    return torch.where(variance > 0, (grey - mean) / (deviation + 1), 0.0), deviation


def fit_aggd(samples: Tensor) -> Aggd:
    """Moment matching [N,K] -> N distributions (Lasmar et al. 2009); NaN where a side has no samples."""
    left = _root_mean_square(samples, samples < 0)
    right = _root_mean_square(samples, samples > 0)
    ratio = left / right
    moments = samples.abs().mean(dim=1) ** 2 / samples.square().mean(dim=1)
    wanted = moments * (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2
    alpha = _nearest_shape(wanted)
    to_scale = torch.exp((torch.lgamma(1 / alpha) - torch.lgamma(3 / alpha)) / 2)
    return Aggd(alpha, left * to_scale, right * to_scale)


def fit(pictures: Sequence[Tensor], names: Sequence[str]) -> Pristine:
    """Statistics of the sharp patches of photographs, each [3,H,W] RGB in [0,1].

    Raises ValueError if there are no more patches than features.
    """
    features = torch.cat([patch_features(picture, SHARP_ENOUGH) for picture in pictures])
    if len(features) <= FEATURES:
        raise ValueError(f"{len(features)} sharp patches are too few: more than {FEATURES} are needed")
    return Pristine(features.mean(dim=0), features.T.cov(), len(features), tuple(names))


def _grey(picture: Tensor) -> Tensor:
    """Full-range luma of 8 bits, [1,1,H,W] float64."""
    weights = torch.tensor(BT601_LUMA, dtype=torch.float64)
    levels = picture.detach().cpu().double().mul(255).round()
    return torch.einsum("c,chw->hw", weights, levels).round()[None, None]


def _patches(field: Tensor, side: int) -> Tensor:
    """[1,1,H,W] -> [patches,side,side], row by row."""
    rows, columns = field.shape[-2] // side, field.shape[-1] // side
    cells = field.reshape(rows, side, columns, side)
    return cells.transpose(1, 2).reshape(rows * columns, side, side)


def _features(patches: Tensor) -> Tensor:
    """[N,h,w] coefficients -> [N,18]: their distribution, and that of products with four neighbours."""
    own = fit_aggd(patches.flatten(1))
    columns = [own.alpha, (own.left + own.right) / 2]
    for shift in NEIGHBOURS:
        pairs = fit_aggd((patches * patches.roll(shift, dims=(1, 2))).flatten(1))
        columns += [pairs.alpha, pairs.mean, pairs.left, pairs.right]
    return torch.stack(columns, dim=1)


def _root_mean_square(samples: Tensor, chosen: Tensor) -> Tensor:
    return (samples.square().where(chosen, 0.0).sum(dim=1) / chosen.sum(dim=1)).sqrt()


@cache
def _shapes() -> tuple[Tensor, Tensor]:
    """Shapes from 0.2 to 10 and G(2/a)^2 / (G(1/a) G(3/a)), which rises with them."""
    shapes = torch.arange(200, 10001, dtype=torch.float64) / 1000
    logarithm = 2 * torch.lgamma(2 / shapes) - torch.lgamma(1 / shapes) - torch.lgamma(3 / shapes)
    return shapes, logarithm.exp()


def _nearest_shape(wanted: Tensor) -> Tensor:
    shapes, ratios = _shapes()
    above = torch.searchsorted(ratios, wanted).clamp(1, len(ratios) - 1)
    below = above - 1
    return shapes[torch.where(wanted - ratios[below] < ratios[above] - wanted, below, above)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit the statistics of sharp photographs and store them."""
    parser = argparse.ArgumentParser(
        prog="python -m invsr_daemon.quality.metrics.niqe", description=main.__doc__
    )
    parser.add_argument("--photographs", type=Path, required=True, help="folder, searched whole")
    parser.add_argument("--names", type=Path, default=TRAINING_LIST, help="a part of a path on each line")
    parser.add_argument("--longest-side", type=int, default=LONGEST_SIDE, help="reduce to this many pixels")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(arguments)
    try:
        lines = [line.strip() for line in given.names.read_text(encoding="utf-8").splitlines()]
        names = [line for line in lines if line and not line.startswith("#")]
        pristine = fit(_photographs(given.photographs, names, given.longest_side), names)
        pristine.write(given.out)
    except (OSError, ValueError, InvsrError) as error:
        parser.error(str(error))
    print(f"{given.out}: {pristine.patches} sharp patches of {len(names)} photographs")


def _photographs(folder: Path, names: Sequence[str], longest_side: int) -> list[Tensor]:
    """Each named photograph, [3,H,W] in [0,1]. Raises ConfigError if one is missing."""
    from ...train.photographs import Photographs

    if not names:
        raise ValueError("the list names no photograph")
    found = [p for name in names for p in Photographs.load(folder, [name], [longest_side]).pictures]
    return [torch.from_numpy(each.pixels().copy()).permute(2, 0, 1).float() / 255 for each in found]


if __name__ == "__main__":
    main()
