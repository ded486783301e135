"""Pictures read: PNG, JPEG, WebP, TIFF, BMP and others, by their content, not their name.

Pillow reads them, but for more than 8 bits per channel, which it would cut to 8: those pass through PyAV
exactly, TIFFs through `tiff`.
"""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TypeVar, cast

import av
import av.error
import numpy as np
from av.container import InputContainer
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from ..errors import InputError
from ..logs import counted
from ..records import SMALLEST_SIDE, ImageInfo
from .extras import (
    ORIENTATION,
    Extras,
    extras_of,
    has_damaged_exif,
    profile_space,
)
from .foreign import unreadable_picture
from .inks import are_inks_described, inks_as_rgb
from .names import WRITTEN_SUFFIXES
from .sizes import most_picture_bytes
from .source import NO_PROTOCOL, TOO_MUCH_MEMORY, File, OpenFile, buffered, reading
from .tiff import Layout, check_deep, layout, read_deep, read_inks

# Sizes are checked here, against the settings; Pillow's own limit is lower than theirs may be.
Image.MAX_IMAGE_PIXELS = None

FORMATS = tuple(WRITTEN_SUFFIXES)
SUFFIX = {format: suffixes[0] for format, suffixes in WRITTEN_SUFFIXES.items()}
# Read only: their results are PNG. Those of the second line may be films.
READ = (*FORMATS, "JPEG2000", "PPM", "GIF", "AVIF")
FILM_FORMATS = ("GIF", "AVIF")
JPEG_END = b"\xff\xd9"
TGA_END = b"TRUEVISION-XFILE.\0"
DEEP_FORMATS = ("PNG", "TIFF")
# Modes of Pillow's that mean other colours than the result's.
LOSSLESS = "lossless"
OTHER_COLOURS = ("CMYK", "LAB", "HSV")
BITS_8, BITS_16 = 8, 16
IMAGE_WIDTH, IMAGE_LENGTH, DNG_VERSION = 256, 257, 50706
# What Pillow's plugins raise over damaged files.
DAMAGE = (
    OSError,
    RuntimeError,
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
P = TypeVar("P", NDArray[np.uint8], NDArray[np.uint16])


@dataclass(frozen=True)
class Picture:
    """`pixels` [H,W,3] uint8 or uint16, upright; `alpha` [H,W] of the same depth, if there is any.

    `compression`: a TIFF's, as Pillow calls it; of a WebP `LOSSLESS` if it is.
    """

    pixels: Pixels
    alpha: Pixels | None = None
    grey: bool = False
    extras: Extras = field(default_factory=Extras)
    compression: str | None = None


def probe_image(file: File, max_pixels: int) -> ImageInfo | None:
    """What a picture's file says of it; None if it is no picture of these formats, or moves (GIF, AVIF).

    Raises InputError if it is too large or small, animated, has several pages, or many more bytes than such a
    picture needs. A file that is too long for any picture of `max_pixels` is taken for none.
    """
    path = file.path if isinstance(file, OpenFile) else file
    try:
        with warnings.catch_warnings(), buffered(file) as content:
            warnings.simplefilter("ignore")  # damage is raised
            length = content.seek(0, os.SEEK_END)
            if length > most_picture_bytes(max_pixels):  # some are read into memory whole, to be opened
                _refuse_as_picture(content, length)
                return None
            with Image.open(content, formats=_formats(path, content)) as image:
                if image.format in FILM_FORMATS and _pages(image) > 1:
                    return None
                found = _laid_out(image, content)
                _check(image, max_pixels)
                _check_length(image, length)
                width, height = _upright_size(image)
                depth = _depth(image, file, found)
                extras = _extras(image, content)
                held, notes = _held(image, extras, found), _notes(image, extras, file, found)
                return ImageInfo(path, _format(image), width, height, depth, held, notes)
    except UnidentifiedImageError:
        return None
    except MemoryError as error:
        raise InputError(TOO_MUCH_MEMORY) from error
    except DAMAGE as error:
        raise InputError(f"the picture is damaged: {error}") from error


def _formats(path: Path, content: IO[bytes]) -> tuple[str, ...]:
    """Those to try. TGA begins with nothing that tells it from others: its name or its end must."""
    if path.suffix.lower() == ".tga" or _end(content, len(TGA_END)) == TGA_END:
        return (*READ, "TGA")
    return READ


def _end(content: IO[bytes], length: int) -> bytes:
    content.seek(-min(length, content.seek(0, os.SEEK_END)), os.SEEK_END)
    return content.read()


def _pages(image: Image.Image) -> int:
    return int(getattr(image, "n_frames", 1))


def _format(image: Image.Image) -> str:
    """A camera's JPEG that has previews or other views behind it (MPO) is the first one's."""
    return "JPEG" if image.format == "MPO" else str(image.format)


def _laid_out(image: Image.Image, content: IO[bytes]) -> Layout | None:
    """How a TIFF is laid out, opened at the page to be read; None if it is none. Raises InputError."""
    if not isinstance(image, TiffImageFile):
        return None
    if DNG_VERSION in image.tag_v2:
        raise InputError("DNG is not supported")
    found = layout(content)
    if found.page:
        image.seek(found.page)
    if found.bits > BITS_8:
        check_deep(content, found)
    return found


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
    if _pages(image) > 1 and image.format not in ("MPO", "TIFF"):
        raise InputError("it is animated or has several pages, which is not supported")
    if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):
        raise InputError("it has 32 bits per channel, which is not supported")


def _refuse_as_picture(content: IO[bytes], length: int) -> None:
    """Raise InputError if it begins like one that is no film."""
    content.seek(0)
    if kind := unreadable_picture(content):
        raise InputError(f"its {length} bytes are more than a {kind} within limits.max_input_pixels can need")


def _check_length(image: Image.Image, length: int) -> None:
    width, height = image.size
    if length > most_picture_bytes(width * height):
        raise InputError(f"its {length} bytes are far more than a picture of {width}x{height} can need")


def _depth(image: Image.Image, file: File, found: Layout | None) -> int:
    if image.format == "PNG":
        with reading(file) as content:
            return BITS_16 if content.read(25)[24:] == b"\x10" else BITS_8
    if found is not None:
        return BITS_16 if found.bits > BITS_8 and not found.inks else BITS_8
    if image.format in ("JPEG2000", "PPM"):
        return BITS_16 if _coded_bits(file, _pipe(file, image.format)) > BITS_8 else BITS_8
    return BITS_8


def _pipe(file: File, format: str) -> str:
    """FFmpeg's name of the demuxer for a picture."""
    if format == "PPM":
        with reading(file) as content:
            kind = content.read(2)
        return {b"P1": "pbm_pipe", b"P4": "pbm_pipe", b"P2": "pgm_pipe", b"P5": "pgm_pipe"}.get(
            kind, "ppm_pipe"
        )
    return {"JPEG2000": "j2k_pipe"}.get(format, f"{format.lower()}_pipe")


def _coded_bits(file: File, demuxer: str) -> int:
    """Bits per channel, as FFmpeg finds them."""
    with _piped(file, demuxer) as container:
        context = container.streams.video[0].codec_context
        return (
            max((part.bits for part in context.format.components), default=BITS_8)
            if context.format
            else BITS_8
        )


@contextmanager
def _piped(file: File, demuxer: str) -> Iterator[InputContainer]:
    """A picture as FFmpeg reads it."""
    with reading(file) as reader, av.open(reader, "r", format=demuxer, options=NO_PROTOCOL) as container:
        yield container


def _held(image: Image.Image, extras: Extras, found: Layout | None) -> tuple[tuple[str, int], ...]:
    """What there is beside the colours, and how long it is."""
    lengths = ((name, getattr(extras, name)) for name in extras.held())
    held = [(name, len(value) if isinstance(value, bytes) else 0) for name, value in lengths]
    deep = found is not None and found.bits > BITS_8
    has_alpha = found.alpha is not None if found is not None and deep else _has_alpha(image)
    return (*held, ("alpha", 0)) if has_alpha else tuple(held)


def _notes(image: Image.Image, extras: Extras, file: File, found: Layout | None) -> tuple[str, ...]:
    """What reading a picture loses."""
    notes = [*(found.notes() if found is not None else ()), *_colour_notes(image, extras)]
    if has_damaged_exif(image):
        notes.append("its EXIF is left out: it is damaged")
    if image.format == "MPO":
        others = counted(_pages(image) - 1, "further picture")
        notes.append(f"left out: {others} (previews, other views)")
    if image.format == "AVIF" and (bits := _coded_bits(file, "mov")) > BITS_8:
        notes.append(f"its {bits} bits per channel are cut to 8")
    return tuple(notes)


def _colour_notes(image: Image.Image, extras: Extras) -> Iterator[str]:
    profile = image.info.get("icc_profile")
    if image.mode == "CMYK" and are_inks_described(profile):
        yield "its colours are converted from CMYK to sRGB by its ICC profile"
        return
    if image.mode in OTHER_COLOURS:
        yield f"its colours are converted from {image.mode} to RGB"
    if profile and not extras.icc_profile:
        yield "its ICC profile is left out: it does not describe what is written"


def _has_alpha(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info


def _extras(image: Image.Image, content: IO[bytes]) -> Extras:
    """What goes along; a profile only if it describes the pixels that will be written."""
    extras = extras_of(image, content)
    if extras.icc_profile is None:
        return extras
    space = profile_space(extras.icc_profile)
    grey = image.mode.startswith(("L", "1", "I")) and not _has_alpha(image)
    if image.mode in OTHER_COLOURS or space in ("CMYK", "Lab") or (space == "GRAY" and not grey):
        return replace(extras, icc_profile=None)
    return extras


def read_image(info: ImageInfo, file: OpenFile | None = None) -> Picture:
    """The whole picture, upright. `file`: the picture, if it is open already.

    Raises InputError if it is damaged.
    """
    source = file or info.path
    try:
        with warnings.catch_warnings(), buffered(source) as content:
            warnings.simplefilter("ignore")  # damage is raised
            with Image.open(_ended(content, info.format), formats=(info.format,)) as opened:
                found = _laid_out(opened, content)
                if found is not None and found.bits > BITS_8:
                    return _read_deep_tiff(content, found, opened)
                if info.depth == BITS_16:
                    return _read_deep(info, source, content, opened)
                return _read_plain(content, opened)
    except MemoryError as error:
        raise InputError(TOO_MUCH_MEMORY) from error
    except DAMAGE as error:
        raise InputError(f"the picture is damaged: {error}") from error


def _read_plain(content: IO[bytes], opened: Image.Image) -> Picture:
    extras, compression = _extras(opened, content), _compression(opened, content)
    opened.load()  # which turns a TIFF, and then takes its orientation away
    orientation = int(opened.getexif().get(ORIENTATION, 1))
    if _has_alpha(opened):
        rgba = _oriented(np.asarray(opened.convert("RGBA")), orientation)
        return Picture(rgba[..., :3], rgba[..., 3], extras=extras, compression=compression)
    grey = opened.mode in ("L", "1")
    converted = _inked(opened) if opened.mode == "CMYK" else opened.convert("RGB")
    pixels = _oriented(np.asarray(converted), orientation)
    return Picture(pixels, grey=grey, extras=extras, compression=compression)


def _ended(content: IO[bytes], format: str) -> IO[bytes]:
    """A JPEG that lacks its end marker, and nothing else, with one: Pillow would wait for more."""
    if format != "JPEG" or _end(content, len(JPEG_END)) == JPEG_END:
        return content
    content.seek(0)
    jpeg = content.read()
    # Pixels that are missing would be made of whatever follows.
    first, second = (_decoded(jpeg + filler + JPEG_END) for filler in (b"\0" * 64, b"\xaa" * 64))
    return io.BytesIO(jpeg + JPEG_END) if first == second else content


def _decoded(jpeg: bytes) -> bytes:
    with Image.open(io.BytesIO(jpeg), formats=("JPEG",)) as image:
        return image.tobytes()


def _compression(opened: Image.Image, content: IO[bytes]) -> str | None:
    if opened.format == "WEBP":
        return LOSSLESS if _is_lossless(content) else None
    found: str | None = opened.info.get("compression")
    return found


def _is_lossless(content: IO[bytes]) -> bool:
    """Whether a WebP's picture is of the lossless kind (RFC 9649, 2.6)."""
    content.seek(12)
    while len(header := content.read(8)) == 8:
        if header[:4] in (b"VP8 ", b"VP8L"):
            return header[:4] == b"VP8L"
        length = int.from_bytes(header[4:], "little")
        content.seek(length + length % 2, os.SEEK_CUR)
    return False


def _inked(opened: Image.Image) -> Image.Image:
    return inks_as_rgb(opened, opened.info.get("icc_profile"))


def _read_deep_tiff(content: IO[bytes], found: Layout, opened: Image.Image) -> Picture:
    extras, compression = _extras(opened, content), opened.info.get("compression")
    orientation = int(opened.getexif().get(ORIENTATION, 1))
    if found.inks:
        converted = read_inks(content, found, opened.info.get("icc_profile"))
        return Picture(_oriented(np.asarray(converted), orientation), extras=extras, compression=compression)
    pixels, alpha = read_deep(content, found)
    return Picture(
        _oriented(pixels, orientation),
        None if alpha is None else _oriented(alpha, orientation),
        found.grey,
        extras,
        compression,
    )


def _read_deep(info: ImageInfo, file: File, content: IO[bytes], opened: Image.Image) -> Picture:
    with _piped(file, _pipe(file, info.format)) as container:
        frame = next(container.decode(video=0), None)
    if frame is None:
        raise InputError("the picture is damaged: it holds none that can be decoded")
    rgba = cast("NDArray[np.uint16]", frame.reformat(format="rgba64le").to_ndarray())
    pixels = _oriented(rgba, int(opened.getexif().get(ORIENTATION, 1)))
    has_alpha = frame.format.name.startswith(("rgba", "ya", "gbrap"))
    return Picture(
        np.ascontiguousarray(pixels[..., :3]),
        np.ascontiguousarray(pixels[..., 3]) if has_alpha else None,
        grey=frame.format.name.startswith("gray"),
        extras=_extras(opened, content),
        compression=opened.info.get("compression"),
    )


def _oriented(pixels: P, orientation: int) -> P:
    """EXIF orientation undone as Pillow does it, which would also write the EXIF anew, damaged or not."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
