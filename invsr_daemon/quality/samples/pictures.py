"""Pictures to evaluate on: files and folders, stills and the first frames of films, and their degradation."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import ConfigError, InputError
from ...media.decode import decode_chunk
from ...media.image import probe_image, read_image
from ...media.names import FILM_SUFFIXES, PICTURE_SUFFIXES
from ...media.probe import probe_video
from ...records import SMALLEST_SIDE, Chunk, largest_level
from ...train import degrade
from ..picture_methods import SCALE

Degradation = Literal["bicubic", "blur", "noise", "realistic", "none"]
DEGRADATIONS: tuple[Degradation, ...] = get_args(Degradation)
# The networks' smallest input, and of the truth what becomes it.


@dataclass(frozen=True)
class Source:
    """A file, and its name in results and seeds: relative to the folder it was found in."""

    path: Path
    name: str


@dataclass(frozen=True)
class Sample:
    """A poor picture [1,3,h,w] and the truth [1,3,4h,4w], if there is one; [0,1], the poor one in 8 bits."""

    name: str
    poor: Tensor
    truth: Tensor | None


def find_sources(paths: Sequence[Path]) -> tuple[Source, ...]:
    """Files as given, folders searched for films and pictures. Raises ConfigError if there are none."""
    sources = tuple(source for path in paths for source in _found(path))
    if not sources:
        raise ConfigError("there is no film or picture in " + ", ".join(map(str, paths)))
    return sources


def read_samples(
    sources: Sequence[Source],
    degradation: Degradation,
    *,
    seed: int,
    crop: int | None,
    frames: int,
    max_pixels: int,
) -> Generator[Sample, None, None]:
    """Every picture, cropped about its middle and degraded.

    Args:
        sources: files; of a film the first `frames` frames are taken.
        degradation: what makes the poor picture; "none": it is one, and there is no truth.
        seed: of what is random, with the picture's name: its place in the list does not matter.
        crop: longest side of the file's picture that is used.
        frames: of each film.
        max_pixels: larger pictures are refused.

    Raises:
        InputError: a file cannot be read, or is too small. Its name is in the message.
    """
    for source in sources:
        try:
            for name, pixels in _pictures(source, frames, max_pixels):
                yield _sample(name, _cropped(_tensor(pixels), degradation, crop), degradation, seed)
        except InputError as error:
            raise InputError(f"{source.path}: {error}") from error


def degraded(name: str, truth: Tensor, degradation: Degradation, seed: int) -> Tensor:
    """[1,3,H,W] -> [1,3,H/4,W/4]; with "none" as it is. What is random is a function of seed and name."""
    rng = np.random.default_rng([seed, *hashlib.sha256(name.encode()).digest()])
    match degradation:
        case "bicubic":
            return degrade.bicubic(truth, SCALE)
        case "blur":
            return degrade.blurred(truth, SCALE)
        case "noise":
            return degrade.noisy(truth, rng, SCALE)
        case "realistic":
            return degrade.realistic(truth, rng, SCALE)
        case "none":
            return truth.mul(255).round().div(255)


def _found(path: Path) -> Iterator[Source]:
    if not path.is_dir():
        yield Source(path, path.name)
        return
    for file in sorted(path.rglob("*")):
        relative = file.relative_to(path)
        hidden = any(part.startswith(".") for part in relative.parts)
        suffixes = FILM_SUFFIXES | PICTURE_SUFFIXES
        if file.suffix.lower() in suffixes and file.is_file() and not file.is_symlink() and not hidden:
            yield Source(file, relative.as_posix())


def _pictures(source: Source, frames: int, max_pixels: int) -> Iterator[tuple[str, NDArray[np.generic]]]:
    image = probe_image(source.path, max_pixels)
    if image is not None:
        yield source.name, read_image(image).pixels
        return
    film = probe_video(source.path, max_pixels)
    chunk = Chunk(index=0, start=0, pts=film.pts[:frames], seek=None)
    for number, frame in enumerate(decode_chunk(film.info, chunk)):
        yield f"{source.name}#{number}", frame.pixels


def _tensor(pixels: NDArray[np.generic]) -> Tensor:
    """[H,W,3] uint8 or uint16 -> [1,3,H,W] float32 in [0,1]."""
    largest = largest_level(8 * pixels.itemsize)
    return torch.from_numpy(pixels.astype(np.float32) / largest).permute(2, 0, 1)[None].contiguous()


def _cropped(picture: Tensor, degradation: Degradation, crop: int | None) -> Tensor:
    multiple = 1 if degradation == "none" else SCALE
    height, width = (min(side, crop or side) // multiple * multiple for side in picture.shape[-2:])
    if min(height, width) < SMALLEST_SIDE * multiple:
        raise InputError(f"{width}x{height} pixels are too few for this degradation")
    top, left = (picture.shape[-2] - height) // 2, (picture.shape[-1] - width) // 2
    return picture[..., top : top + height, left : left + width].contiguous()


def _sample(name: str, picture: Tensor, degradation: Degradation, seed: int) -> Sample:
    truth = None if degradation == "none" else picture
    return Sample(name, degraded(name, picture, degradation, seed), truth)
