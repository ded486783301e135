"""Pictures in and out: PNG, JPEG, WebP, TIFF and BMP, by their content, not their name.

Pillow reads and writes them, but for 16 bits per channel, which it would cut to 8: those pass
through PyAV exactly.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import av.error
import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from ..durable import sync_rename
from ..records import ConfigError, ImageInfo, ImageSettings, InputError
from .encode import writing_error
from .source import check_regular

# Sizes are checked here, against the settings; Pillow's own limit is lower than theirs may be.
Image.MAX_IMAGE_PIXELS = None

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP")
SUFFIX = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp", "TIFF": ".tif", "BMP": ".bmp"}
# The longest side that a format, or what writes it, can have.
LONGEST_SIDE = {"JPEG": 65500, "WEBP": 16383}
BITS_8, BITS_16 = 8, 16
TIFF_BITS_PER_SAMPLE = 258
SMALLEST_SIDE = 8
ORIENTATION, IMAGE_WIDTH, IMAGE_LENGTH = 0x0112, 256, 257
# How the file lays out its pixels: TIFF keeps that among the EXIF tags, and it is wrong in another file.
LAYOUT_TAGS = frozenset(
    {254, 255, 256, 257, 258, 259, 262, 263, 266, 273, 277, 278, 279, 284, 317, 320}
    | {322, 323, 324, 325, 330, 338, 339, 347, 34675}
)
LONGEST_JPEG_EXIF = 65533
# What Pillow's plugins raise over damaged files.
DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    AttributeError,
    TypeError,
    LookupError,
    ArithmeticError,
    EOFError,
    struct.error,
    zlib.error,
    av.error.FFmpegError,
)

Pixels = NDArray[np.uint8] | NDArray[np.uint16]


@dataclass(frozen=True)
class Picture:
    """`pixels` [H,W,3] uint8 or uint16, upright; `alpha` [H,W] of the same depth, if there is any."""

    pixels: Pixels
    alpha: Pixels | None = None
    grey: bool = False
    icc_profile: bytes | None = None
    exif: bytes | None = None


def probe_image(path: Path, max_pixels: int) -> ImageInfo | None:
    """What a picture's header says; None if the file is no picture of these formats.

    Raises InputError if it is too large or small, animated, or has several pages.
    """
    check_regular(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damage is raised
            with Image.open(path, formats=FORMATS) as image:
                _check(image, max_pixels)
                width, height = _upright_size(image)
                return ImageInfo(path, str(image.format), width, height, _depth(image, path))
    except UnidentifiedImageError:
        return None
    except DAMAGE as error:
        raise InputError(f"the picture is damaged: {error}") from error


def _upright_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) once EXIF orientation is applied. Of a TIFF, Pillow's own size is turned already."""
    width, height = image.size
    if isinstance(image, TiffImageFile):
        width, height = image.tag_v2[IMAGE_WIDTH], image.tag_v2[IMAGE_LENGTH]
    if image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8):
        return height, width
    return width, height


def _check(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise InputError(
            f"its size of {width}x{height} exceeds the limit of {max_pixels} pixels (limits.max_input_pixels)"
        )
    if min(width, height) < SMALLEST_SIDE:
        raise InputError(f"its size of {width}x{height} is smaller than {SMALLEST_SIDE}x{SMALLEST_SIDE}")
    if getattr(image, "n_frames", 1) > 1:
        raise InputError("it is animated or has several pages, which is not supported")
    if image.mode in ("I", "F") and image.format == "TIFF":
        raise InputError("it has 32 bits per channel, which is not supported")


def _depth(image: Image.Image, path: Path) -> int:
    if image.format == "PNG":
        with path.open("rb") as file:
            return BITS_16 if file.read(25)[24:] == b"\x10" else BITS_8
    if image.format == "TIFF":
        bits = image.tag_v2.get(TIFF_BITS_PER_SAMPLE, (BITS_8,))  # type: ignore[attr-defined]
        return BITS_16 if max(bits) == BITS_16 else BITS_8
    return BITS_8


def read_image(info: ImageInfo) -> Picture:
    """The whole picture, upright. Raises InputError if it is damaged."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damage is raised
            with Image.open(info.path, formats=FORMATS) as opened:
                if info.depth == BITS_16:
                    return _read_deep(info, opened)
                return _read_plain(opened)
    except DAMAGE as error:
        raise InputError(f"the picture is damaged: {error}") from error


def _read_plain(opened: Image.Image) -> Picture:
    profile = None if opened.mode == "CMYK" else opened.info.get("icc_profile")
    exif = _exif(opened)
    upright = ImageOps.exif_transpose(opened)
    if upright.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in upright.info:
        rgba = np.asarray(upright.convert("RGBA"))
        return Picture(rgba[..., :3], rgba[..., 3], icc_profile=profile, exif=exif)
    grey = upright.mode in ("L", "1")
    return Picture(np.asarray(upright.convert("RGB")), grey=grey, icc_profile=profile, exif=exif)


def _exif(opened: Image.Image) -> bytes | None:
    """The tags that describe the picture, not the file; nothing if there are none."""
    tags = Image.Exif()
    tags.load(opened.getexif().tobytes())
    for tag in (LAYOUT_TAGS | {ORIENTATION}) & set(tags):
        del tags[tag]
    return tags.tobytes() if len(tags) else None


def _read_deep(info: ImageInfo, opened: Image.Image) -> Picture:
    with av.open(f"file:{info.path.absolute()}", format=f"{info.format.lower()}_pipe") as container:
        frame = next(container.decode(video=0))
    pixels = cast("NDArray[np.uint16]", frame.reformat(format="rgba64le").to_ndarray())
    pixels = _oriented(pixels, int(opened.getexif().get(ORIENTATION, 1)))
    has_alpha = frame.format.name.startswith(("rgba", "ya", "gbrap"))
    return Picture(
        np.ascontiguousarray(pixels[..., :3]),
        np.ascontiguousarray(pixels[..., 3]) if has_alpha else None,
        grey=frame.format.name.startswith("gray"),
        icc_profile=opened.info.get("icc_profile"),
    )


def _oriented(pixels: NDArray[np.uint16], orientation: int) -> NDArray[np.uint16]:
    """EXIF orientation undone, as Pillow does for 8 bits."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def image_format(info: ImageInfo, settings: ImageSettings) -> str:
    """The format to write: the source's own (`same`) or the configured one. ConfigError if unknown."""
    if settings.format == "same":
        return info.format
    wanted = settings.format.upper()
    wanted = {"JPG": "JPEG", "TIF": "TIFF"}.get(wanted, wanted)
    if wanted not in FORMATS:
        raise ConfigError(f"image.format: {settings.format!r} is none of same, {', '.join(FORMATS).lower()}")
    return wanted


def check_side(format: str, width: int, height: int) -> None:
    """Raise InputError if a format cannot hold a picture of this size."""
    longest = LONGEST_SIDE.get(format)
    if longest is not None and max(width, height) > longest:
        raise InputError(
            f"the result of {width}x{height} is too long for {format}, which ends at {longest} pixels a side:"
            " choose another format (image.format)"
        )


def write_image(picture: Picture, format: str, settings: ImageSettings, output: Path) -> None:
    """Write a picture; the file appears under its name only whole.

    `picture.alpha`, of whatever size, is enlarged to the pixels' size (Lanczos). Raises OutputError or
    ResourceError if it cannot be written.
    """
    partial = output.with_suffix(".partial")
    alpha = None if picture.alpha is None else _resized(picture.alpha, picture.pixels)
    try:
        if picture.pixels.dtype == np.uint16 and format in ("PNG", "TIFF"):
            partial.write_bytes(_deep_bytes(picture, alpha, format))
        else:
            _save_plain(picture, alpha, format, settings, partial)
        sync_rename(partial, output)
    except (OSError, av.error.FFmpegError) as error:
        raise writing_error(error, partial, f"writing {format}") from error


def _resized(alpha: Pixels, like: Pixels) -> Pixels:
    height, width = like.shape[:2]
    enlarged = Image.fromarray(alpha.astype(np.float32)).resize((width, height), Image.Resampling.LANCZOS)
    rounded = np.asarray(enlarged).round()
    if alpha.dtype == np.uint16:
        return rounded.clip(0, 65535).astype(np.uint16)
    return rounded.clip(0, 255).astype(np.uint8)


def _save_plain(
    picture: Picture, alpha: Pixels | None, format: str, settings: ImageSettings, partial: Path
) -> None:
    shift = 8 if picture.pixels.dtype == np.uint16 else 0
    image = Image.fromarray((picture.pixels >> shift).astype(np.uint8))
    if picture.grey:
        image = image.convert("L")
    if alpha is not None and format not in ("JPEG", "BMP"):
        image.putalpha(Image.fromarray((alpha >> shift).astype(np.uint8)))
    options: dict[str, object] = {}
    if format in ("JPEG", "WEBP"):
        options["quality"] = settings.quality
    if format == "JPEG":
        options["subsampling"] = 0
    if picture.icc_profile and format != "BMP":
        options["icc_profile"] = picture.icc_profile
    too_long = format == "JPEG" and len(picture.exif or b"") > LONGEST_JPEG_EXIF
    if picture.exif and format != "BMP" and not too_long:
        options["exif"] = picture.exif
    image.save(partial, format, **options)


def _deep_bytes(picture: Picture, alpha: Pixels | None, format: str) -> bytes:
    if alpha is not None:
        source, kind = _frame(np.dstack([picture.pixels, alpha]).astype(np.uint16), "rgba64le"), "rgba64"
    elif picture.grey:
        source, kind = _frame(_luma(picture.pixels), "gray16le"), "gray16"
    else:
        source, kind = _frame(picture.pixels, "rgb48le"), "rgb48"
    encoder = av.CodecContext.create(format.lower(), "w")
    assert isinstance(encoder, VideoCodecContext)
    encoder.width, encoder.height = source.width, source.height
    encoder.pix_fmt = kind + ("be" if format == "PNG" else "le")
    encoder.time_base = Fraction(1)
    frame = source.reformat(format=encoder.pix_fmt)
    frame.pts = 0
    encoded = b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])
    if format == "PNG" and picture.icc_profile:
        return _with_profile(encoded, picture.icc_profile)
    return encoded


def _frame(samples: Pixels, format: str) -> VideoFrame:
    whole: NDArray[Any] = np.ascontiguousarray(samples)
    return VideoFrame.from_ndarray(whole, format)


def _luma(pixels: Pixels) -> NDArray[np.uint16]:
    """BT.601 luma in whole numbers, as Pillow has it for 8 bits; swscale would round greys."""
    weighted = pixels.astype(np.uint32) @ np.array([299, 587, 114], np.uint32)
    return ((weighted + 500) // 1000).astype(np.uint16)


def _with_profile(png: bytes, profile: bytes) -> bytes:
    """A PNG with an iCCP chunk right after its header (PNG specification, 11.3.2.3)."""
    end_of_header = 8 + 25
    body = b"iCCP" + b"ICC profile\0\0" + zlib.compress(profile)
    chunk = (len(body) - 4).to_bytes(4) + body + zlib.crc32(body).to_bytes(4)
    return png[:end_of_header] + chunk + png[end_of_header:]
