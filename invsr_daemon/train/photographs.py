"""Photographs as a source of training crops: a folder in, batches of sharp crops out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import ConfigError, InputError
from ..media.names import PICTURE_SUFFIXES

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Photograph:
    """A file at one size (width, height); `kept` are its pixels, uint8 [H,W,3], if memory holds them."""

    path: Path
    size: tuple[int, int]
    kept: np.ndarray | None = None

    def pixels(self) -> np.ndarray:
        """uint8 [H,W,3]. Raises InputError if the file cannot be read."""
        return _read(self.path, self.size) if self.kept is None else self.kept


@dataclass(frozen=True)
class Photographs:
    """Sharp pictures, drawn from in proportion to their area's square root."""

    pictures: tuple[Photograph, ...]

    @classmethod
    def load(
        cls,
        folder: Path,
        names: Sequence[str] = (),
        longest_sides: Sequence[int] = (2048, 1024),
        *,
        smallest: int = 1,
        in_memory: bool = True,
    ) -> Photographs:
        """Every picture below `folder`, or those whose path holds one of `names`, at each size.

        Reducing a camera's picture makes it sharp per pixel; several sizes show several textures.
        One smaller than all `longest_sides` has its own size. Sizes with a side below `smallest` are
        left out. Raises ConfigError if nothing fits, InputError if a file cannot be read.
        """
        paths = sorted(
            p for p in folder.rglob("*") if p.suffix.lower() in PICTURE_SUFFIXES and not p.is_symlink()
        )
        if names:
            paths = [p for p in paths if any(name in p.as_posix() for name in names)]
        found = [Photograph(path, size) for path in paths for size in _sizes(path, longest_sides)]
        large = [photograph for photograph in found if min(photograph.size) >= smallest]
        if not large:
            few = f": {len(found)} are not {smallest} pixels high and wide" if found else ""
            raise ConfigError(f"no photographs found below {folder}{few}")
        log.info(
            "%d photographs of %d files; %d are too small", len(large), len(paths), len(found) - len(large)
        )
        if in_memory:
            large = [Photograph(each.path, each.size, each.pixels()) for each in large]
        return cls(tuple(large))

    def crops(self, batch: int, size: int, rng: np.random.Generator) -> Tensor:
        """[batch,3,size,size] float32 RGB in [0,1]: random places, quarter turns and mirrors."""
        weights = np.sqrt([float(each.size[0] * each.size[1]) for each in self.pictures])
        chosen = rng.choice(len(self.pictures), size=batch, p=weights / weights.sum())
        crops = [_crop(self.pictures[index].pixels(), size, rng) for index in chosen]
        return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float().div(255).contiguous()


def _sizes(path: Path, longest_sides: Sequence[int]) -> list[tuple[int, int]]:
    try:
        with Image.open(path) as opened:
            width, height = opened.size
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    factors = [longest / max(width, height) for longest in longest_sides]
    reduced = [(round(width * factor), round(height * factor)) for factor in factors if factor < 1]
    return reduced or [(width, height)]


def _read(path: Path, size: tuple[int, int]) -> np.ndarray:
    try:
        with Image.open(path) as opened:
            picture = opened.convert("RGB")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    return np.asarray(picture if picture.size == size else picture.resize(size, Image.Resampling.LANCZOS))


def _crop(picture: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    top = rng.integers(0, picture.shape[0] - size + 1)
    left = rng.integers(0, picture.shape[1] - size + 1)
    crop = np.rot90(picture[top : top + size, left : left + size], k=int(rng.integers(4)))
    return crop[:, ::-1] if rng.integers(2) else crop
