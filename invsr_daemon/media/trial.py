"""Whether films can be encoded with settings: one frame is, the way that jobs do it."""

from __future__ import annotations

import tempfile
from fractions import Fraction
from pathlib import Path

import numpy as np

from ..errors import InvsrError
from ..records import Chunk, Colour, VideoInfo, VideoSettings
from .assemble import check_container
from .colour import BT709, STUDIO
from .decode import RgbFrame
from .encode import chunk_suffix, open_chunk

# Hardware encoders refuse smaller pictures.
SIDE = 256


def encoding_problem(settings: VideoSettings) -> str | None:
    """Why a frame cannot be encoded with these settings; None if it can."""
    try:
        check_container(settings.container, settings.codec)
        _encode(settings)
    except InvsrError as error:
        return str(error)
    return None


def video_of(width: int, height: int) -> VideoInfo:
    """A plain video of this size that no file holds: 8 bits, BT.709, 25 frames a second."""
    return VideoInfo(
        path=Path(),
        container="",
        stream=0,
        codec="",
        width=width,
        height=height,
        depth=8,
        time_base=Fraction(1, 25),
        rate=Fraction(25),
        colour=Colour(BT709, BT709, BT709, STUDIO),
        sample_aspect_ratio=None,
        display_matrix=None,
        others=(),
        notes=(),
    )


def _encode(settings: VideoSettings) -> None:
    chunk = Chunk(0, 0, (0,), None)
    frame = RgbFrame(0, np.zeros((SIDE, SIDE, 3), np.uint8))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"try{chunk_suffix(settings.codec)}"
        with open_chunk(path, video_of(SIDE, SIDE), chunk, settings, 1.0) as encoder:
            encoder.encode(frame)
