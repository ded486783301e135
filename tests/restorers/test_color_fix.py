"""Colour from the input, detail from the result."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from invsr_daemon.restorers.color_fix import _TO_YCBCR, _low_frequency, wavelet, ycbcr

# ITU-R BT.601-7, studio range, as its text gives it: Y from 16 to 235, Cb and Cr from 16 to 240.
OFFSET = torch.tensor([16.0, 128.0, 128.0], dtype=torch.float64)


def bt601(rgb: Tensor) -> Tensor:
    """[B,3,H,W] in [0,1] to Y, Cb, Cr in 8-bit numbers, from the standard's luma coefficients."""
    red, green, blue = rgb.double().unbind(1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    chroma = (112 * (blue - luma) / (1 - 0.114), 112 * (red - luma) / (1 - 0.299))
    return torch.stack([219 * luma, *chroma], dim=1) + OFFSET[:, None, None]


def picture(seed: int, low: float = 0.0, high: float = 1.0, side: int = 80) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return low + (high - low) * torch.rand(2, 3, side, side, generator=generator)


def checkerboard(side: int) -> Tensor:
    index = torch.arange(side)
    return ((index[:, None] + index[None, :]) % 2 * 2 - 1).float().expand(1, 3, side, side)


def explicit_low_frequency(x: Tensor) -> Tensor:
    """The published form: a 3x3 kernel per channel, dilated, on a replicated border."""
    kernel = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]).div(16).expand(3, 1, 3, 3)
    for level in range(5):
        radius = 2**level
        padded = functional.pad(x, (radius,) * 4, mode="replicate")
        x = functional.conv2d(padded, kernel, groups=3, dilation=radius)
    return x


@pytest.mark.parametrize(("height", "width"), [(80, 80), (64, 33), (32, 200)])
def test_the_low_frequency_is_five_dilated_binomial_blurs(height: int, width: int) -> None:
    x = torch.rand(2, 3, height, width)
    torch.testing.assert_close(_low_frequency(x), explicit_low_frequency(x), rtol=0, atol=1e-6)


def test_wavelet_of_equal_pictures_is_the_picture() -> None:
    x = picture(1)
    torch.testing.assert_close(wavelet(x, x), x, rtol=0, atol=1e-6)


def test_wavelet_removes_a_constant_shift_of_colour() -> None:
    x = picture(1)
    shifted = x + torch.tensor([0.2, -0.1, 0.05])[:, None, None]
    torch.testing.assert_close(wavelet(shifted, x), x, rtol=0, atol=1e-6)


def test_wavelet_takes_colour_from_the_reference_and_detail_from_the_result() -> None:
    detail = 0.1 * checkerboard(160)  # the blur's first level removes it, but for the border
    reference = torch.full_like(detail, 0.3)
    fixed = wavelet(detail + 0.8, reference)
    inner = (..., slice(40, -40), slice(40, -40))
    torch.testing.assert_close(fixed[inner], (detail + 0.3)[inner], rtol=0, atol=1e-6)


def test_wavelet_takes_no_detail_from_the_reference() -> None:
    smooth = torch.full((1, 3, 160, 160), 0.5)
    fixed = wavelet(smooth, smooth + 0.1 * checkerboard(160))
    assert (fixed - smooth)[..., 40:-40, 40:-40].abs().max() < 1e-6


def test_wavelet_of_a_tall_picture_has_no_seams() -> None:
    """Rows are done in parts; the published form does them at once."""
    restored, reference = torch.rand(1, 3, 600, 24), torch.rand(1, 3, 600, 24)
    wanted = restored - explicit_low_frequency(restored) + explicit_low_frequency(reference)
    torch.testing.assert_close(wavelet(restored, reference), wanted, rtol=0, atol=2e-6)


def test_wavelet_leaves_its_inputs_alone() -> None:
    restored, reference = picture(1), picture(2)
    before = restored.clone(), reference.clone()
    wavelet(restored, reference)
    assert torch.equal(restored, before[0])
    assert torch.equal(reference, before[1])


@pytest.mark.parametrize(
    ("rgb", "expected"),
    [
        ((1, 1, 1), (235, 128, 128)),
        ((0, 0, 0), (16, 128, 128)),
        ((1, 0, 0), (81.481, 90.203, 240)),
        ((0, 0, 1), (40.966, 240, 109.786)),
    ],
)
def test_the_matrix_is_bt601_studio_range(rgb: tuple[int, ...], expected: tuple[float, ...]) -> None:
    found = torch.tensor(_TO_YCBCR, dtype=torch.float64) @ torch.tensor(rgb, dtype=torch.float64) + OFFSET
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    one = torch.tensor(rgb, dtype=torch.float64)[None, :, None, None]
    torch.testing.assert_close(found, bt601(one).flatten(), rtol=0, atol=2e-3)


def test_ycbcr_of_equal_pictures_is_the_picture() -> None:
    x = picture(1)
    torch.testing.assert_close(ycbcr(x, x), x, rtol=0, atol=1e-5)


def test_ycbcr_keeps_luma_and_takes_chroma() -> None:
    restored, reference = picture(1, 0.4, 0.6), picture(2, 0.4, 0.6)
    fixed, kept, taken = bt601(ycbcr(restored, reference)), bt601(restored), bt601(reference)
    torch.testing.assert_close(fixed[:, 0], kept[:, 0], rtol=0, atol=5e-3)
    torch.testing.assert_close(fixed[:, 1:], taken[:, 1:], rtol=0, atol=5e-3)


def test_ycbcr_against_a_grey_reference_is_grey() -> None:
    grey = picture(1)[:, :1].expand(-1, 3, -1, -1)
    fixed = ycbcr(picture(2), grey)
    assert (fixed - fixed.mean(dim=1, keepdim=True)).abs().max() < 1e-5


def test_ycbcr_stays_within_zero_and_one() -> None:
    black = torch.zeros(1, 3, 8, 8)
    blue = torch.tensor([0.0, 0, 1])[None, :, None, None].expand(1, 3, 8, 8)
    fixed = ycbcr(black, blue)
    assert fixed.min() == 0
    assert fixed.max() <= 1
