"""PSNR and SSIM on luma, as the super-resolution literature measures them.

All take pictures [B,3,H,W] RGB in [0,1] and give one number per picture. The luma is not rounded to
8 bits. `border` pixels are left out on every side: methods differ there for reasons that do not
matter, and the literature leaves out as many as the scale.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

# ITU-R BT.601 studio range in 8-bit numbers, as MATLAB's rgb2ycbcr has it: Y from 16 to 235.
LUMA = (65.481, 128.553, 24.966)
LUMA_OFFSET = 16.0
# Wang et al. 2004, section III-C: an 11x11 Gaussian window, K1 and K2.
WINDOW, SIGMA = 11, 1.5
K1, K2 = 0.01, 0.03


def luma(pictures: Tensor) -> Tensor:
    """BT.601 studio luma over 255: [B,3,H,W] RGB in [0,1] -> [B,1,H,W] in [16/255, 235/255]."""
    weights = torch.tensor(LUMA, dtype=pictures.dtype, device=pictures.device)
    weighted = torch.einsum("c,bchw->bhw", weights, pictures)
    return (weighted + LUMA_OFFSET)[:, None] / 255


def psnr(restored: Tensor, truth: Tensor, border: int = 0) -> Tensor:
    """Peak signal-to-noise ratio of the luma in dB, [B] float64; infinite for equal pictures.

    The peak is 255 of 8 bits, although studio luma ends at 235: so has the literature (MATLAB's `psnr`
    of uint8 luma). Raises ValueError if the shapes differ or the border leaves nothing.
    """
    ours, theirs = _lumas(restored, truth, border)
    mean_square = (ours - theirs).square().mean(dim=(1, 2, 3))
    return -10 * mean_square.log10()


def ssim(restored: Tensor, truth: Tensor, border: int = 0) -> Tensor:
    """Structural similarity of the luma, [B] float64 up to 1.

    Z. Wang, A. C. Bovik, H. R. Sheikh, E. P. Simoncelli: "Image quality assessment: from error
    visibility to structural similarity", IEEE TIP 13(4), 2004, equation 13: Gaussian window 11x11 of
    sigma 1.5, only where it lies wholly inside, biased variances. Raises ValueError if the shapes
    differ or less than a window is left.
    """
    x, y = _lumas(restored, truth, border)
    if min(x.shape[-2:]) < WINDOW:
        raise ValueError(f"SSIM needs {WINDOW}x{WINDOW} pixels inside the border")
    mean_x, mean_y = _windowed(x), _windowed(y)
    var_x = _windowed(x * x) - mean_x * mean_x
    var_y = _windowed(y * y) - mean_y * mean_y
    covariance = _windowed(x * y) - mean_x * mean_y
    likeness = (2 * mean_x * mean_y + K1**2) * (2 * covariance + K2**2)
    scale = (mean_x**2 + mean_y**2 + K1**2) * (var_x + var_y + K2**2)
    return (likeness / scale).mean(dim=(1, 2, 3))


def gaussian(size: int, sigma: float) -> Tensor:
    """A sampled Gaussian of sum one, [size] float64; `size` is odd."""
    distance = torch.arange(size, dtype=torch.float64) - size // 2
    weights = torch.exp(-0.5 * (distance / sigma) ** 2)
    return weights / weights.sum()


def blurred(x: Tensor, window: Tensor) -> Tensor:
    """[B,1,H,W] under a separable window [n], valid region: [B,1,H-n+1,W-n+1]."""
    window = window.to(x)
    return functional.conv2d(functional.conv2d(x, window[None, None, :, None]), window[None, None, None])


def _windowed(x: Tensor) -> Tensor:
    return blurred(x, gaussian(WINDOW, SIGMA))


def _lumas(restored: Tensor, truth: Tensor, border: int) -> tuple[Tensor, Tensor]:
    if restored.shape != truth.shape or restored.ndim != 4 or restored.shape[1] != 3:
        raise ValueError(f"both must be [B,3,H,W], not {tuple(restored.shape)} and {tuple(truth.shape)}")
    if border < 0 or min(restored.shape[-2:]) <= 2 * border:
        raise ValueError(f"a border of {border} leaves nothing of {tuple(restored.shape[-2:])}")
    inside = (..., slice(border, restored.shape[-2] - border), slice(border, restored.shape[-1] - border))
    return luma(restored.double())[inside], luma(truth.double())[inside]
