"""Photographs as a source of training crops: a folder in, batches of sharp crops out.

A batch is a function of (seed, step) alone, so that a training run resumed at step N sees exactly
the crops that an unbroken one would have seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp"})


@dataclass(frozen=True)
class Photographs:
    """Sharp pictures, uint8 [H,W,3], drawn from in proportion to their area's square root."""

    pictures: tuple[np.ndarray, ...]

    @classmethod
    def load(
        cls, folder: Path, names: Sequence[str] = (), longest_sides: Sequence[int] = (2048, 1024)
    ) -> Photographs:
        """Every picture below `folder`, or those whose path holds one of `names`, at each size.

        Reducing a camera's picture makes it sharp per pixel; several sizes show several textures.
        Raises FileNotFoundError if nothing fits.
        """
        paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and not p.is_symlink())
        if names:
            paths = [p for p in paths if any(name in p.as_posix() for name in names)]
        if not paths:
            raise FileNotFoundError(f"no photographs found below {folder}")
        pictures = [picture for path in paths for picture in _sizes(path, longest_sides)]
        return cls(tuple(pictures))

    def crops(self, batch: int, size: int, seed: int, step: int) -> Tensor:
        """[batch,3,size,size] float32 RGB in [0,1]: random places, quarter turns and mirrors."""
        rng = np.random.default_rng([seed, step])
        weights = np.sqrt([float(p.shape[0] * p.shape[1]) for p in self.pictures])
        chosen = rng.choice(len(self.pictures), size=batch, p=weights / weights.sum())
        crops = [_crop(self.pictures[index], size, rng) for index in chosen]
        return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float().div(255).contiguous()


def _sizes(path: Path, longest_sides: Sequence[int]) -> list[np.ndarray]:
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    reduced = []
    for longest in longest_sides:
        factor = longest / max(picture.size)
        if factor < 1:
            width, height = (round(side * factor) for side in picture.size)
            reduced.append(np.asarray(picture.resize((width, height), Image.Resampling.LANCZOS)))
    return reduced or [np.asarray(picture)]


def _crop(picture: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    top = rng.integers(0, picture.shape[0] - size + 1)
    left = rng.integers(0, picture.shape[1] - size + 1)
    crop = np.rot90(picture[top : top + size, left : left + size], k=int(rng.integers(4)))
    return crop[:, ::-1] if rng.integers(2) else crop
