"""What a picture's file holds beside its pixels, read by Pillow and carried into the result's file.

Pillow writes it for 8 bits per channel. 16 bits do not pass through Pillow: there the chunks of a PNG and the
tags of a TIFF are put in here.
"""

from __future__ import annotations

import os
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import IO

from PIL import Image
from PIL.PngImagePlugin import PngImageFile, PngInfo
from PIL.TiffImagePlugin import ImageFileDirectory_v2

ORIENTATION, XMP_TAG, EXIF_IFD, GPS_IFD, INTEROP_IFD = 0x0112, 700, 0x8769, 0x8825, 0xA005
PIXEL_SIZE_TAGS = (40962, 40963)
# How the file lays out its pixels: TIFF keeps that among the EXIF tags, and it is wrong in another file.
LAYOUT_TAGS = frozenset(
    {254, 255, 256, 257, 258, 259, 262, 263, 266, 273, 277, 278, 279, 284, 317, 320}
    | {322, 323, 324, 325, 330, 338, 339, 347, 34675}
)
# Description, camera, software, date, artist, host, rating, copyright, IPTC, Photoshop's, Windows' own.
DESCRIBING_TAGS = frozenset(
    {270, 271, 272, 305, 306, 315, 316, 18246, 18249, 33432, 33723, 34377}
) | frozenset(range(40091, 40096))
# What Pillow raises over damaged EXIF.
EXIF_DAMAGE = (SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, OSError, struct.error)
# Of a TIFF's own resolution.
DPI_TAGS = frozenset({282, 283, 296})
BYTE, ASCII, SHORT, LONG, RATIONAL, UNDEFINED = 1, 2, 3, 4, 5, 7
COMPRESSION, OLD_DEFLATE = 259, struct.pack("<H", 32946)
TYPE_SIZES = {BYTE: 1, ASCII: 1, SHORT: 2, LONG: 4, RATIONAL: 8, UNDEFINED: 1}
# A JPEG's segments end there; XMP's has a name before it.
LONGEST_JPEG_EXIF = 65533
LONGEST_JPEG_XMP = 65533 - 29
LONGEST_JPEG_IPTC = 65533 - 27
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOUR_CHUNKS = (b"gAMA", b"cHRM", b"sRGB", b"cICP", b"mDCV", b"cLLI")
SRGB_CHUNKS = {
    b"gAMA": struct.pack(">I", 45455),
    b"cHRM": struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000),
}
LONGEST_COLOUR_CHUNK, CHECKSUM_BYTES = 64, 4
PHOTOSHOP, IPTC_RESOURCE = b"Photoshop 3.0\0", 0x0404
JPEG_APP13 = b"\xff\xed"
PNG_XMP = "XML:com.adobe.xmp"
METRES_PER_INCH = Fraction(254, 10000)
# Sizes in XMP, as attributes and as elements.
XMP_SIZE = rb"(?:tiff:Image(?:Width|Length)|exif:Pixel[XY]Dimension)"
XMP_SIZES = re.compile(rb'\s*%b="[^"]*"|\s*<(%b)>[^<]*</\1>' % (XMP_SIZE, XMP_SIZE))

# What is said of those that a format has no room for, and which have.
NAMES = {
    "alpha": "its transparency is left out",
    "icc_profile": "its ICC profile is left out",
    "exif": "its EXIF is left out",
    "xmp": "its XMP is left out",
    "dpi": "its resolution (dpi) is left out",
    "texts": "its PNG texts are left out",
    "comment": "its comment is left out",
    "iptc": "its IPTC is left out",
    "colour_chunks": "what its colours are (gAMA, cHRM, cICP) is left out",
}
HOLDS = {
    "PNG": frozenset({"icc_profile", "exif", "xmp", "dpi", "texts", "comment", "colour_chunks"}),
    "JPEG": frozenset({"icc_profile", "exif", "xmp", "dpi", "comment", "iptc"}),
    "WEBP": frozenset({"icc_profile", "exif", "xmp"}),
    "TIFF": frozenset({"icc_profile", "exif", "xmp", "dpi"}),
    "BMP": frozenset({"dpi"}),
}


@dataclass(frozen=True)
class Extras:
    """`exif` without orientation and layout; `dpi` (across, down); `texts` of a PNG (key, text).

    `iptc`: a JPEG's, as its record holds it. `colour_chunks` of a PNG that is not sRGB (kind, data).
    """

    icc_profile: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    texts: tuple[tuple[str, str], ...] = ()
    comment: bytes | None = None
    iptc: bytes | None = None
    colour_chunks: tuple[tuple[bytes, bytes], ...] = ()

    def held(self) -> tuple[str, ...]:
        """Names of those that are there."""
        return tuple(field.name for field in fields(self) if getattr(self, field.name))


def extras_of(image: Image.Image, content: IO[bytes]) -> Extras:
    """What a picture holds that was opened from `content`, whatever its profile is of."""
    return Extras(
        icc_profile=image.info.get("icc_profile"),
        exif=_exif(image),
        xmp=_xmp(image),
        dpi=_dpi(image),
        texts=tuple(_texts(image)),
        comment=_comment(image),
        iptc=_iptc(image),
        colour_chunks=_colour_chunks(content) if image.format == "PNG" else (),
    )


def _exif(image: Image.Image) -> bytes | None:
    """The tags that describe the picture, not the file; nothing if there are none, or if they are damaged."""
    whole = _whole_exif(image)
    if whole is None:
        return None
    tags = _loaded(whole)
    apart = LAYOUT_TAGS | {ORIENTATION, XMP_TAG} | (DPI_TAGS if image.format == "TIFF" else frozenset())
    for tag in apart & set(tags):
        del tags[tag]
    return _as_bytes(tags) if len(tags) else None


class _Text(str):
    """Text as Pillow reads it, each byte a character: written as it was, where Pillow would ask for ASCII."""

    def encode(self, encoding: str = "", errors: str = "") -> bytes:
        return super().encode("latin-1", "replace")


def _as_bytes(tags: Image.Exif) -> bytes:
    """EXIF as a file holds it, texts in whatever encoding they were."""
    inner = [tags.get_ifd(tag) for tag in (EXIF_IFD, GPS_IFD) if tag in tags]
    tags.bigtiff = False  # whatever it was read from
    for directory in (tags, *inner):
        directory.update({tag: _Text(text) for tag, text in directory.items() if isinstance(text, str)})
    return tags.tobytes()


def _whole_exif(image: Image.Image) -> bytes | None:
    try:
        return _as_bytes(image.getexif())
    except EXIF_DAMAGE:
        return None


def has_damaged_exif(image: Image.Image) -> bool:
    """Whether there is EXIF that cannot be written again."""
    return _whole_exif(image) is None


def _xmp(image: Image.Image) -> bytes | None:
    """Without the picture's size, which changes, and without orientation, for it is applied."""
    found = image.info.get("xmp")
    if not isinstance(found, (str, bytes)):
        return None
    whole = found.encode() if isinstance(found, str) else found
    whole = re.sub(rb'\s*tiff:Orientation="[^"]*"|\s*<tiff:Orientation>[^<]*</tiff:Orientation>', b"", whole)
    return XMP_SIZES.sub(b"", whole.rstrip(b"\0")) or None


def _dpi(image: Image.Image) -> tuple[float, float] | None:
    found = image.info.get("dpi")
    if not isinstance(found, tuple) or len(found) != 2:
        return None
    across, down = float(found[0]), float(found[1])
    return (across, down) if min(across, down) >= 1 and max(across, down) <= 100_000 else None


def _texts(image: Image.Image) -> Iterator[tuple[str, str]]:
    """Texts, but those in which ImageMagick hides EXIF and the like, and those that are read as XMP."""
    if isinstance(image, PngImageFile):
        for key, text in image.text.items():
            if key != PNG_XMP and not key.startswith("Raw profile type"):
                yield key, str(text)


def _comment(image: Image.Image) -> bytes | None:
    found = image.info.get("comment") if image.format in ("JPEG", "GIF") else None
    return found.encode() if isinstance(found, str) else found


def _iptc(image: Image.Image) -> bytes | None:
    """IPTC of a JPEG. A TIFF's is among its tags."""
    resources = image.info.get("photoshop")
    found = resources.get(IPTC_RESOURCE) if isinstance(resources, dict) else None
    return found if isinstance(found, bytes) else None


def _colour_chunks(png: IO[bytes]) -> tuple[tuple[bytes, bytes], ...]:
    """What a PNG says of its colours, if they are not sRGB's (PNG specification, third edition, 11.3.2)."""
    found = dict(_chunks_before_pixels(png))
    is_srgb = b"sRGB" in found or all(found.get(kind, data) == data for kind, data in SRGB_CHUNKS.items())
    if b"cICP" not in found and is_srgb:
        return ()
    return tuple(found.items())


def _chunks_before_pixels(png: IO[bytes]) -> Iterator[tuple[bytes, bytes]]:
    png.seek(len(PNG_SIGNATURE))
    while len(header := png.read(8)) == 8 and header[4:] != b"IDAT":
        length = int.from_bytes(header[:4])
        if header[4:] in COLOUR_CHUNKS and length <= LONGEST_COLOUR_CHUNK:
            yield header[4:], png.read(length)
            length = 0
        png.seek(length + CHECKSUM_BYTES, os.SEEK_CUR)


def profile_space(profile: bytes) -> str:
    """What an ICC profile is of: RGB, GRAY, CMYK, Lab ... (ICC.1:2022, 7.2.6)."""
    return profile[16:20].decode("ascii", "replace").strip()


def save_options(extras: Extras, format: str, size: tuple[int, int]) -> dict[str, object]:
    """Options of Pillow's `save` that write what the format has room for; `size` is the result's.

    Not of a TIFF: Pillow refuses a compressed one with directories of EXIF. See `tiff_with`.
    """
    options: dict[str, object] = {}
    holds = HOLDS[format]
    exif = sized_exif(extras.exif, size)
    if exif and "exif" in holds and fits(format, "exif", len(exif)):
        options["exif"] = exif
    if extras.xmp and "xmp" in holds and format != "PNG" and fits(format, "xmp", len(extras.xmp)):
        options["xmp"] = extras.xmp
    if extras.comment and format == "JPEG":
        options["comment"] = extras.comment
    if extras.iptc and format == "JPEG" and fits(format, "iptc", len(extras.iptc)):
        options["extra"] = _iptc_segment(extras.iptc)
    if format == "PNG":
        options["pnginfo"] = _png_chunks(extras)
    options |= {name: getattr(extras, name) for name in ("icc_profile", "dpi") if name in holds}
    return {name: value for name, value in options.items() if value}


def fits(format: str, name: str, length: int) -> bool:
    """Whether something of so many bytes has room in a format."""
    most = {"exif": LONGEST_JPEG_EXIF, "xmp": LONGEST_JPEG_XMP, "iptc": LONGEST_JPEG_IPTC}.get(name)
    return format != "JPEG" or most is None or length <= most


def sized_exif(exif: bytes | None, size: tuple[int, int]) -> bytes | None:
    """EXIF that states a picture's new size, if it states one."""
    if exif is None:
        return None
    tags = _loaded(exif)
    inner = tags.get_ifd(EXIF_IFD)
    if not set(PIXEL_SIZE_TAGS) & set(inner):
        return exif
    inner.update(zip(PIXEL_SIZE_TAGS, size, strict=True))
    return _as_bytes(tags)


def _iptc_segment(iptc: bytes) -> bytes:
    """A segment of a JPEG with one of Photoshop's image resources, which is where IPTC is kept."""
    name = b"\0\0"
    resource = b"8BIM" + struct.pack(">H", IPTC_RESOURCE) + name + struct.pack(">I", len(iptc)) + iptc
    whole = PHOTOSHOP + resource + bytes(len(iptc) % 2)
    return JPEG_APP13 + struct.pack(">H", 2 + len(whole)) + whole


def _png_chunks(extras: Extras) -> PngInfo:
    """Chunks of what colours are, and of texts."""
    info = PngInfo()
    for kind, data in extras.colour_chunks:
        info.add(kind, data)
    for key, text in extras.texts:
        info.add_text(key, text)
    if extras.comment:
        info.add_text("Comment", extras.comment.decode("utf-8", "replace"))
    if extras.xmp:
        info.add_itxt(PNG_XMP, extras.xmp.decode("utf-8", "replace"))
    return info


def png_with(png: bytes, extras: Extras, size: tuple[int, int]) -> bytes:
    """A PNG with chunks of these right after its header (PNG specification, 11.3)."""
    end_of_header = 8 + 25
    chunks = []
    if extras.icc_profile:
        chunks.append(_chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(extras.icc_profile)))
    if extras.dpi:
        across, down = (round(Fraction(dpi) / METRES_PER_INCH) for dpi in extras.dpi)
        chunks.append(_chunk(b"pHYs", struct.pack(">IIB", across, down, 1)))
    if exif := sized_exif(extras.exif, size):
        chunks.append(_chunk(b"eXIf", exif.removeprefix(b"Exif\0\0")))
    chunks += [_chunk(kind, data) for kind, data, *_ in _png_chunks(extras).chunks]
    return png[:end_of_header] + b"".join(chunks) + png[end_of_header:]


def _chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)


def tiff_with(tiff: bytes, extras: Extras, size: tuple[int, int]) -> bytes:
    """A little-endian TIFF with tags of these: another directory at its end takes the first one's place."""
    whole = bytearray(tiff)
    entries = _entries(tiff)
    if entries[COMPRESSION][8:10] == OLD_DEFLATE:  # the same, under the number that more readers know
        entries[COMPRESSION] = struct.pack("<HHIHH", COMPRESSION, SHORT, 1, 8, 0)
    for tag, kind, data in _new_tags(extras, sized_exif(extras.exif, size)):
        field = data.ljust(4, b"\0")
        if len(data) > 4:
            field = struct.pack("<I", _appended(whole, data))
        entries[tag] = struct.pack("<HHI", tag, kind, len(data) // TYPE_SIZES[kind]) + field
    for tag, inner in _inner_directories(extras.exif, size).items():
        start = len(whole) + len(whole) % 2
        entries[tag] = struct.pack("<HHII", tag, LONG, 1, _appended(whole, inner.tobytes(start)))
    directory = struct.pack("<H", len(entries)) + b"".join(entries[tag] for tag in sorted(entries)) + bytes(4)
    struct.pack_into("<I", whole, 4, _appended(whole, directory))
    return bytes(whole)


def _appended(whole: bytearray, data: bytes) -> int:
    """Where data begins now that it is at the end, at an even place."""
    whole += bytes(len(whole) % 2)
    start = len(whole)
    whole += data
    return start


def _entries(tiff: bytes) -> dict[int, bytes]:
    """The first directory's entries by tag (TIFF 6.0, section 2)."""
    (start,) = struct.unpack_from("<I", tiff, 4)
    (count,) = struct.unpack_from("<H", tiff, start)
    raw = [tiff[start + 2 + 12 * number :][:12] for number in range(count)]
    return {struct.unpack_from("<H", entry)[0]: entry for entry in raw}


def _new_tags(extras: Extras, exif: bytes | None) -> Iterator[tuple[int, int, bytes]]:
    """Tag, type and bytes."""
    for tag, value in _loaded(exif).items():
        if tag not in DESCRIBING_TAGS:
            continue
        if isinstance(value, str):
            yield tag, ASCII, _Text(value).encode() + b"\0"
        elif isinstance(value, bytes):
            yield tag, BYTE, value
        elif isinstance(value, int):
            yield tag, LONG, struct.pack("<I", value)
    if extras.icc_profile:
        yield 34675, UNDEFINED, extras.icc_profile
    if extras.xmp:
        yield XMP_TAG, BYTE, extras.xmp
    if extras.dpi:
        for tag, dpi in zip((282, 283), extras.dpi, strict=True):
            ratio = Fraction(dpi).limit_denominator(10_000)
            yield tag, RATIONAL, struct.pack("<II", ratio.numerator, ratio.denominator)
        yield 296, SHORT, struct.pack("<H", 2)  # per inch


def _inner_directories(exif: bytes | None, size: tuple[int, int]) -> dict[int, ImageFileDirectory_v2]:
    tags, found = _loaded(sized_exif(exif, size)), {}
    for tag in (EXIF_IFD, GPS_IFD):
        inner = tags.get_ifd(tag) if tag in tags else {}
        if inner:
            found[tag] = ImageFileDirectory_v2(b"II*\0\x08\0\0\0")
            for key, value in inner.items():
                if key != INTEROP_IFD:
                    found[tag][key] = _Text(value) if isinstance(value, str) else value
    return found


def _loaded(exif: bytes | None) -> Image.Exif:
    tags = Image.Exif()
    if exif:
        tags.load(exif)
    return tags
