"""From sharp to poor: the degradations that training and evaluation apply.

`bicubic` is the classical reduction; `blurred` and `noisy` add one fault each. `realistic` is a
second-order chain (blur, resize, noise, JPEG; twice) in the manner of Real-ESRGAN (Wang et al. 2021,
section 3), which InvSR trains on too. All randomness comes from the generator passed in.
"""

from __future__ import annotations

import io
import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

BLUR_SIGMA = 1.25
NOISE_SIGMA = 12 / 255
# What training draws up to: wider than what is measured.
STRONGEST_BLUR = 1.6
STRONGEST_NOISE = 25 / 255


def bicubic(pictures: Tensor, scale: int = 4) -> Tensor:
    """[B,3,H,W] in [0,1] -> [B,3,H/scale,W/scale], antialiased bicubic, rounded to 8 bits."""
    return _quantised(_resized(pictures, pictures.shape[-2] // scale, pictures.shape[-1] // scale))


def realistic(pictures: Tensor, rng: np.random.Generator, scale: int = 4) -> Tensor:
    """[B,3,H,W] in [0,1] -> [B,3,H/scale,W/scale] through a random second-order chain per picture."""
    return torch.cat([_chain(picture[None], rng, scale) for picture in pictures])


def blurred(pictures: Tensor, scale: int = 4) -> Tensor:
    """`bicubic` after a Gaussian blur of 1.25 pixels of the result."""
    return bicubic(_gaussian(pictures, BLUR_SIGMA * scale), scale)


def noisy(pictures: Tensor, rng: np.random.Generator, scale: int = 4) -> Tensor:
    """`bicubic` with Gaussian noise of 12 levels of 255 on every channel."""
    reduced = bicubic(pictures, scale)
    normal = torch.from_numpy(rng.standard_normal(reduced.shape, dtype=np.float32))
    return _quantised(reduced + normal * NOISE_SIGMA)


def any_blur(pictures: Tensor, rng: np.random.Generator, scale: int = 4) -> Tensor:
    """`blurred`, as strongly as each picture's draw has it."""
    sigmas = rng.uniform(0.2, STRONGEST_BLUR, size=pictures.shape[0]) * scale
    pairs = zip(pictures, sigmas, strict=True)
    return bicubic(torch.cat([_gaussian(picture[None], sigma) for picture, sigma in pairs]), scale)


def any_noise(pictures: Tensor, rng: np.random.Generator, scale: int = 4) -> Tensor:
    """`bicubic` with a sensor's noise, as strong and of the kind that each picture's draw has; no JPEG."""
    reduced = bicubic(pictures, scale)
    return _quantised(torch.cat([_grained(picture[None], rng, STRONGEST_NOISE) for picture in reduced]))


def _gaussian(pictures: Tensor, sigma: float) -> Tensor:
    radius = math.ceil(3 * sigma)
    weights = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    weights = (weights / weights.sum()).expand(pictures.shape[1], 1, 1, -1)
    padded = functional.pad(pictures, (radius,) * 4, mode="reflect")
    rows = functional.conv2d(padded, weights, groups=pictures.shape[1])
    return functional.conv2d(rows, weights.transpose(2, 3), groups=pictures.shape[1])


def _chain(picture: Tensor, rng: np.random.Generator, scale: int) -> Tensor:
    height, width = picture.shape[-2:]
    x = _smeared(picture, rng, strongest=2.6)
    first = rng.choice([rng.uniform(0.35, 1.0), rng.uniform(1.0, 1.3)], p=[0.75, 0.25])
    x = _resized(x, max(8, round(height * first)), max(8, round(width * first)), rng)
    x = _grained(x, rng, strongest=20 / 255)
    x = _jpeg(x, int(rng.integers(40, 96)))
    if rng.random() < 0.6:
        x = _smeared(x, rng, strongest=1.3)
    x = _resized(x, height // scale, width // scale, rng)
    x = _grained(x, rng, strongest=12 / 255)
    return _jpeg(x, int(rng.integers(50, 96)))


def _resized(x: Tensor, height: int, width: int, rng: np.random.Generator | None = None) -> Tensor:
    mode = "bicubic" if rng is None else str(rng.choice(["bicubic", "bilinear", "area"]))
    if mode == "area":
        return functional.interpolate(x, (height, width), mode="area")
    return functional.interpolate(x, (height, width), mode=mode, antialias=True).clamp(0, 1)


def _smeared(x: Tensor, rng: np.random.Generator, strongest: float) -> Tensor:
    """A Gaussian of random shape and direction."""
    radius = math.ceil(3 * strongest)
    along, across = rng.uniform(0.2, strongest, size=2)
    angle = rng.uniform(0, math.pi)
    grid = torch.arange(-radius, radius + 1, dtype=torch.float32)
    dy, dx = torch.meshgrid(grid, grid, indexing="ij")
    u = dx * math.cos(angle) + dy * math.sin(angle)
    v = dy * math.cos(angle) - dx * math.sin(angle)
    kernel = torch.exp(-0.5 * ((u / along) ** 2 + (v / across) ** 2))
    kernel = (kernel / kernel.sum())[None, None].expand(x.shape[1], 1, -1, -1)
    padded = functional.pad(x, (radius,) * 4, mode="reflect")
    return functional.conv2d(padded, kernel, groups=x.shape[1])


def _grained(x: Tensor, rng: np.random.Generator, strongest: float) -> Tensor:
    """Sensor noise: Gaussian or signal-dependent (Poisson's variance), coloured or grey."""
    channels = 1 if rng.random() < 0.4 else x.shape[1]
    normal = torch.from_numpy(rng.standard_normal((1, channels, *x.shape[-2:]), dtype=np.float32))
    deviation = rng.uniform(0, strongest) * (x.clamp(0, 1).sqrt() * 1.4 if rng.random() < 0.5 else 1.0)
    return (x + normal * deviation).clamp(0, 1)


def _jpeg(x: Tensor, quality: int) -> Tensor:
    encoded = io.BytesIO()
    Image.fromarray((x[0].permute(1, 2, 0).numpy() * 255).round().clip(0, 255).astype(np.uint8)).save(
        encoded, "jpeg", quality=quality
    )
    return torch.from_numpy(np.array(Image.open(encoded))).permute(2, 0, 1)[None].float() / 255


def _quantised(x: Tensor) -> Tensor:
    return x.clamp(0, 1).mul(255).round().div(255)
