"""PSNR and SSIM against scikit-image and against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from invsr_daemon.quality.metrics.psnr_ssim import luma, psnr, ssim


def pair(seed: int, strength: float = 0.1, height: int = 40, width: int = 31) -> tuple[Tensor, Tensor]:
    """A picture with structure, and the same with noise: float64 [1,3,H,W]."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(0, 1, width)[None, None] * rng.uniform(0.2, 1, (3, height, 1))
    noisy = (ramp + rng.normal(0, strength, ramp.shape)).clip(0, 1)
    return torch.from_numpy(noisy)[None], torch.from_numpy(ramp)[None]


def skimage_luma(picture: Tensor, border: int) -> NDArray[np.float64]:
    whole: NDArray[np.float64] = rgb2ycbcr(picture[0].permute(1, 2, 0).numpy())[..., 0]
    return whole[border : whole.shape[0] - border, border : whole.shape[1] - border]


def test_luma_of_black_white_and_the_primaries() -> None:
    colours = torch.tensor([[0.0, 0, 0], [1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]])[..., None, None]
    expected = torch.tensor([16, 235, 81.481, 144.553, 40.966])
    torch.testing.assert_close(luma(colours).flatten() * 255, expected)


def test_psnr_of_a_known_difference() -> None:
    """A grey step of 10/219 moves studio luma by 10 of 255."""
    dark = torch.full((1, 3, 8, 8), 0.25)
    assert psnr(dark + 10 / 219, dark).item() == pytest.approx(20 * math.log10(255 / 10), abs=1e-4)


def test_equal_pictures() -> None:
    picture, _ = pair(0)
    assert psnr(picture, picture).item() == math.inf
    assert ssim(picture, picture).item() == pytest.approx(1, abs=1e-12)


def test_ssim_of_two_flat_pictures() -> None:
    """Without variance only the luminance term is left."""
    dark, light = torch.zeros(1, 3, 16, 16), torch.ones(1, 3, 16, 16)
    x, y, c1 = 16 / 255, 235 / 255, 0.01**2
    assert ssim(dark, light).item() == pytest.approx((2 * x * y + c1) / (x * x + y * y + c1), abs=1e-9)


@given(seed=st.integers(0, 2**32), strength=st.floats(0.01, 0.5), border=st.integers(0, 8))
def test_agreement_with_scikit_image(seed: int, strength: float, border: int) -> None:
    restored, truth = pair(seed, strength)
    ours, theirs = skimage_luma(restored, border), skimage_luma(truth, border)
    expected = peak_signal_noise_ratio(theirs, ours, data_range=255)
    assert psnr(restored, truth, border).item() == pytest.approx(expected, abs=1e-9)
    expected = structural_similarity(
        theirs, ours, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert ssim(restored, truth, border).item() == pytest.approx(expected, abs=1e-9)


def test_a_batch_is_measured_picture_by_picture() -> None:
    pairs = [pair(seed) for seed in range(3)]
    restored, truth = (torch.cat(pictures).float() for pictures in zip(*pairs, strict=True))
    for metric in (psnr, ssim):
        alone = torch.cat([metric(one.float(), other.float()) for one, other in pairs])
        torch.testing.assert_close(metric(restored, truth), alone)


def test_what_does_not_fit_is_refused() -> None:
    picture = torch.zeros(1, 3, 16, 16)
    with pytest.raises(ValueError, match=r"\[B,3,H,W\]"):
        psnr(picture, picture[..., 1:])
    with pytest.raises(ValueError, match="border of 8"):
        psnr(picture, picture, border=8)
    with pytest.raises(ValueError, match="11x11"):
        ssim(picture, picture, border=3)
