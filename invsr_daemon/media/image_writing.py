"""Pictures written: PNG, JPEG, WebP, TIFF and BMP.

Pillow writes them, but for 16 bits per channel, which it would cut to 8: those pass through PyAV exactly.
"""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from numpy.typing import NDArray
from PIL import Image

from ..errors import ConfigError, InputError
from ..files.durable import attempt_at, finish_attempt
from ..records import ImageInfo, ImageSettings
from .colour import luma
from .encode import writing_error
from .extras import HOLDS, NAMES, fits, png_with, save_options, tiff_with
from .image import BITS_16, DEEP_FORMATS, FORMATS, LOSSLESS, Picture, Pixels

NO_ALPHA = ("JPEG", "BMP")
# Pillow's names of lossless ones, and the TIFF encoder's of FFmpeg.
TIFF_COMPRESSIONS = {
    "raw": "raw",
    "packbits": "packbits",
    "tiff_lzw": "lzw",
    "tiff_adobe_deflate": "deflate",
    "tiff_deflate": "deflate",
}
# The longest side that a format, or what writes it, can have.
LONGEST_SIDE = {"JPEG": 65500, "WEBP": 16383}


def image_format(info: ImageInfo, settings: ImageSettings) -> str:
    """The format to write: the source's own (`same`; PNG if that cannot be written) or the configured one.

    Raises ConfigError if it is unknown.
    """
    if settings.format == "same":
        return info.format if info.format in FORMATS else "PNG"
    wanted = settings.format.upper()
    wanted = {"JPG": "JPEG", "TIF": "TIFF"}.get(wanted, wanted)
    if wanted not in FORMATS:
        raise ConfigError(f"image.format: {settings.format!r} is none of same, {', '.join(FORMATS).lower()}")
    return wanted


def picture_losses(info: ImageInfo, format: str) -> tuple[str, ...]:
    """What of a picture is not in its result of that format, a line for each."""
    deep = info.depth == BITS_16
    notes = list(info.notes)
    if deep and format not in DEEP_FORMATS:
        notes.append(f"its 16 bits per channel are cut to 8: {format} holds no more")
    holds = HOLDS[format]
    if format not in NO_ALPHA:
        holds |= {"alpha"}
    for name, length in info.held:
        if name not in holds:
            notes.append(f"{NAMES[name]}: {format} has no room for that")
        elif not fits(format, name, length):
            notes.append(f"{NAMES[name]}: {length} bytes are too many for {format}")
    return tuple(notes)


def check_side(format: str, width: int, height: int) -> None:
    """Raise InputError if a format cannot hold a picture of this size."""
    longest = LONGEST_SIDE.get(format)
    if longest is not None and max(width, height) > longest:
        raise InputError(
            f"the result of {width}x{height} is too long for {format}, which ends at {longest} pixels a side:"
            " choose another format (image.format)"
        )


def write_image(picture: Picture, format: str, settings: ImageSettings, output: Path) -> None:
    """Write a picture; the file appears under its name only whole. One that is there already stays.

    `picture.alpha`, of whatever size, is enlarged to the pixels' size (Lanczos). Raises OutputError or
    ResourceError if it cannot be written.
    """
    attempt = attempt_at(output)
    alpha = None if picture.alpha is None else _resized(picture.alpha, picture.pixels)
    try:
        if picture.pixels.dtype == np.uint16 and format in DEEP_FORMATS:
            attempt.write_bytes(_deep_bytes(picture, alpha, format))
        else:
            _save_plain(picture, alpha, format, settings, attempt)
        finish_attempt(attempt, output)
    except (OSError, av.error.FFmpegError) as error:
        raise writing_error(error, output, f"writing {format}") from error
    finally:
        attempt.unlink(missing_ok=True)


def _resized(alpha: Pixels, like: Pixels) -> Pixels:
    height, width = like.shape[:2]
    enlarged = Image.fromarray(alpha.astype(np.float32)).resize((width, height), Image.Resampling.LANCZOS)
    rounded = np.asarray(enlarged).round()
    if alpha.dtype == np.uint16:
        return rounded.clip(0, 65535).astype(np.uint16)
    return rounded.clip(0, 255).astype(np.uint8)


def _save_plain(
    picture: Picture, alpha: Pixels | None, format: str, settings: ImageSettings, path: Path
) -> None:
    shift = 8 if picture.pixels.dtype == np.uint16 else 0
    image = Image.fromarray((picture.pixels >> shift).astype(np.uint8))
    if picture.grey:
        image = image.convert("L")
    if alpha is not None and format not in NO_ALPHA:
        image.putalpha(Image.fromarray((alpha >> shift).astype(np.uint8)))
    if format == "TIFF":
        path.write_bytes(_plain_tiff(image, picture))
        return
    options = save_options(picture.extras, format, image.size)
    if format == "WEBP" and picture.compression == LOSSLESS:
        options["lossless"] = True
    elif format in ("JPEG", "WEBP"):
        options["quality"] = settings.quality
    if format == "JPEG":
        options["subsampling"] = 0
    image.save(path, format, **options)


def _plain_tiff(image: Image.Image, picture: Picture) -> bytes:
    written = io.BytesIO()
    image.save(
        written, "TIFF", compression=picture.compression if picture.compression in TIFF_COMPRESSIONS else None
    )
    return tiff_with(written.getvalue(), picture.extras, image.size)


def _deep_bytes(picture: Picture, alpha: Pixels | None, format: str) -> bytes:
    if alpha is not None:
        source, kind = _frame(np.dstack([picture.pixels, alpha]).astype(np.uint16), "rgba64le"), "rgba64"
    elif picture.grey:
        source, kind = _frame(luma(picture.pixels), "gray16le"), "gray16"
    else:
        source, kind = _frame(picture.pixels, "rgb48le"), "rgb48"
    encoder = av.CodecContext.create(format.lower(), "w")
    assert isinstance(encoder, VideoCodecContext)
    encoder.width, encoder.height = source.width, source.height
    encoder.pix_fmt = kind + ("be" if format == "PNG" else "le")
    encoder.time_base = Fraction(1)
    if format == "TIFF" and picture.compression in TIFF_COMPRESSIONS:
        encoder.options = {"compression_algo": TIFF_COMPRESSIONS[picture.compression]}
    frame = source.reformat(format=encoder.pix_fmt)
    frame.pts = 0
    encoded = b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])
    if format == "PNG":
        return png_with(encoded, picture.extras, (source.width, source.height))
    return tiff_with(encoded, picture.extras, (source.width, source.height))


def _frame(samples: Pixels, format: str) -> VideoFrame:
    whole: NDArray[Any] = np.ascontiguousarray(samples)
    return VideoFrame.from_ndarray(whole, format)
