"""Photographs to make films of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from ...errors import ConfigError, InputError
from ...media.image import probe_image, read_image
from ...media.names import PICTURE_SUFFIXES
from .clips import Pixels
from .pictures import find_sources

# A film's frame is smaller: what is beyond would only fill memory.
LONGEST_SIDE = 2048
MAX_PIXELS = 200_000_000


def read_photographs(paths: Sequence[Path], most: int) -> tuple[Pixels, ...]:
    """The first `most` pictures among files and folders, [H,W,3] in 8 bits; films are left out.

    Raises ConfigError if there is none, InputError if one cannot be read.
    """
    found = tuple(islice(_read(paths), most))
    if not found:
        raise ConfigError("there is no photograph in " + ", ".join(map(str, paths)))
    return found


def _read(paths: Sequence[Path]) -> Iterator[Pixels]:
    for source in find_sources(paths):
        if source.path.suffix.lower() not in PICTURE_SUFFIXES:
            continue
        try:
            image = probe_image(source.path, MAX_PIXELS)
            if image is None:
                raise InputError("it is not a picture")
            pixels = read_image(image).pixels
        except InputError as error:
            raise InputError(f"{source.path}: {error}") from error
        eight = (pixels >> 8).astype(np.uint8) if pixels.dtype == np.uint16 else pixels.astype(np.uint8)
        picture = Image.fromarray(eight)
        picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
        yield np.asarray(picture)
