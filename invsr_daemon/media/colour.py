"""Colour tags, and what to assume where there are none.

Numbers are ITU-T H.273's, which FFmpeg uses; swscale knows fewer matrices than there are tags.
"""

from __future__ import annotations

import numpy as np
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from av.video.plane import VideoPlane
from av.video.reformatter import Interpolation
from av.video.stream import VideoStream
from numpy.typing import NDArray

from ..records import Colour

RGB, BT709, UNSPECIFIED, BT470BG, SMPTE170M, BT2020_NCL, BT2020_CL = 0, 1, 2, 5, 6, 9, 10
STUDIO, FULL = 1, 2
Pixels = NDArray[np.uint8] | NDArray[np.uint16]
# Those that swscale does not know.
MATRICES = {
    8: "YCgCo",
    11: "YDzDx",
    12: "chroma-derived, non-constant luminance",
    13: "chroma-derived, constant luminance",
    14: "ICtCp",
    15: "IPT-C2",
}
LARGE = 64
# From here up untagged video is taken for HD (BT.709), as players do.
HD_HEIGHT, HD_WIDTH = 720, 1280

# Exact chroma and rounding over speed: the networks cost thousands of times more.
SWSCALE = (
    Interpolation.BICUBIC
    | Interpolation.ACCURATE_RND
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
    | Interpolation.BITEXACT
)


def colour_of(frame: VideoFrame, stream: VideoStream) -> Colour:
    """A decoded frame's colour, or else its stream's; an untagged matrix follows the picture's size."""
    context = stream.codec_context
    matrix, primaries, transfer = (
        own if own != UNSPECIFIED else stated
        for own, stated in (
            (frame.colorspace, context.colorspace),
            (frame.color_primaries, context.color_primaries),
            (frame.color_trc, context.color_trc),
        )
    )
    is_rgb = frame.format.is_rgb or matrix == RGB
    if is_rgb or matrix == UNSPECIFIED:
        hd = frame.height >= HD_HEIGHT or frame.width >= HD_WIDTH
        matrix = BT709 if hd or is_rgb else SMPTE170M
    full = FULL in (frame.color_range, context.color_range) or frame.format.name.startswith("yuvj")
    return Colour(matrix, primaries, transfer, FULL if full and not is_rgb else STUDIO)


def subsampling(format: VideoFormat) -> tuple[int, int]:
    """Pixels per sample of chroma, across and down; (2, 2) where there is no colour."""
    if format.is_rgb or format.has_palette:
        return 1, 1
    if len(format.components) < 3:
        return 2, 2
    return LARGE // format.chroma_width(LARGE), LARGE // format.chroma_height(LARGE)


def is_grey(frame: VideoFrame) -> bool:
    """Whether a frame has no colour: no chroma, or chroma that is neutral everywhere. RGB may have some."""
    format = frame.format
    if format.is_rgb or format.has_palette or format.is_bit_stream:
        return False
    if len(format.components) < 3:
        return True
    bits = format.components[1].bits
    planes = frame.planes
    return len(planes) >= len("YUV") and all(_is_flat(plane, bits, 1 << (bits - 1)) for plane in planes[1:3])


def _is_flat(plane: VideoPlane, bits: int, level: int) -> bool:
    samples = np.frombuffer(memoryview(plane), np.uint16 if bits > 8 else np.uint8)
    rows = samples.reshape(plane.height, -1)[:, : plane.width]  # what follows is padding
    return bool((rows == level).all())


def luma(pixels: Pixels) -> Pixels:
    """BT.601 luma [H,W] of pixels [H,W,3], in whole numbers, so that greys stay as they are."""
    sums = np.full(pixels.shape[:2], 500, np.uint32)
    for channel, weight in enumerate((299, 587, 114)):
        sums += pixels[..., channel].astype(np.uint32) * np.uint32(weight)
    sums //= 1000
    return sums.astype(np.uint16) if pixels.dtype == np.uint16 else sums.astype(np.uint8)


def as_grey(pixels: Pixels) -> Pixels:
    """Pixels [H,W,3] with their luma in all channels."""
    grey = luma(pixels)
    tripled = np.dstack([grey, grey, grey])
    return tripled.astype(np.uint16) if pixels.dtype == np.uint16 else tripled.astype(np.uint8)


def swscale_matrix(matrix: int) -> int:
    """swscale's number for an H.273 matrix."""
    return {BT470BG: 5, SMPTE170M: 5, BT2020_CL: BT2020_NCL}.get(matrix, matrix)
