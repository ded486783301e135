"""Well-known files that are not supported, known by their first bytes: so that a refusal can name them."""

from __future__ import annotations

import re
from typing import IO

from ..errors import InputError

LONGEST_HEAD = 1024
SIGNATURES = (
    ("DPX", (b"SDPX", b"XPDS")),
    ("Cineon", (b"\x80\x2a\x5f\xd7",)),
    ("OpenEXR", (b"\x76\x2f\x31\x01",)),
    ("Radiance HDR", (b"#?RADIANCE", b"#?RGBE")),
    ("JPEG XL", (b"\xff\x0a", b"\0\0\0\x0cJXL ")),
    ("Photoshop (PSD)", (b"8BPS",)),
    ("GIMP (XCF)", (b"gimp xcf",)),
    ("PDF", (b"%PDF",)),
    ("PostScript", (b"%!PS",)),
    ("DDS", (b"DDS ",)),
    ("QOI", (b"qoif",)),
    ("FITS", (b"SIMPLE  =",)),
    ("Canon's raw format", (b"II*\0\x10\0\0\0CR",)),
    ("Fujifilm's raw format", (b"FUJIFILMCCD-RAW",)),
    ("Olympus' raw format", (b"IIRO", b"IIRS")),
    ("Panasonic's raw format", (b"IIU\0",)),
    ("ZIP", (b"PK\x03\x04",)),
    ("RAR", (b"Rar!\x1a",)),
    ("7z", (b"7z\xbc\xaf\x27\x1c",)),
    ("gzip", (b"\x1f\x8b",)),
)
# By the brands that ISO media files state; AVIF is not among them, for it has others as well.
BRANDS = {
    "HEIC": {b"heic", b"heix", b"heim", b"heis", b"hevm", b"hevs"},
    "Canon's raw format": {b"crx "},
}
SVG = re.compile(rb"^\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*|<!DOCTYPE[^>]*>\s*)*<svg[\s>]", re.DOTALL)
PICTURES = (
    ("PNG", (b"\x89PNG\r\n\x1a\n",)),
    ("JPEG", (b"\xff\xd8\xff",)),
    ("TIFF", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    ("WebP", (b"RIFF",)),
    ("BMP", (b"BM",)),
    ("JPEG 2000", (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")),
)


def check_supported(file: IO[bytes]) -> None:
    """Raise InputError if a file is of a kind that is known and not supported."""
    kind = _kind(file.read(LONGEST_HEAD))
    if kind is not None:
        raise InputError(f"{kind} is not supported")


def _kind(head: bytes) -> str | None:
    for kind, beginnings in SIGNATURES:
        if head.startswith(beginnings):
            return kind
    if SVG.match(head.removeprefix(b"\xef\xbb\xbf")):
        return "SVG"
    brands = _brands(head)
    return next((kind for kind, known in BRANDS.items() if brands & known and b"avif" not in brands), None)


def _brands(head: bytes) -> set[bytes]:
    """The major and the compatible brands (ISO/IEC 14496-12, 4.3)."""
    if head[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(head[:4]), len(head))
    return {head[8:12]} | {head[at : at + 4] for at in range(16, end - 3, 4)}


def unreadable_picture(file: IO[bytes]) -> str | None:
    """The name of a picture format that a file begins like, though it could not be opened as such."""
    head = file.read(12)
    for kind, beginnings in PICTURES:
        if head.startswith(beginnings) and (kind != "WebP" or head[8:] == b"WEBP"):
            return kind
    return None
