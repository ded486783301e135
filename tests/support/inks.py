"""A small ICC profile of CMYK (ICC.1:2022: 7.2 header, 7.3 tags, 10.11 lut8Type)."""

from __future__ import annotations

import struct
from itertools import product

Lab = tuple[float, float, float]
PAPER: Lab = (100.0, 0.0, 0.0)
# What the inks do to lightness, as a factor, and to a and b.
INKS: tuple[Lab, ...] = ((0.55, -37.0, -50.0), (0.48, 74.0, -3.0), (0.89, -5.0, 93.0), (0.1, 0.0, 0.0))


def printed(amounts: tuple[float, ...]) -> Lab:
    """What these inks look like one over the other, more or less."""
    lightness, a, b = PAPER
    for amount, (factor, red, yellow) in zip(amounts, INKS, strict=True):
        lightness *= 1 - amount * (1 - factor)
        a, b = a + amount * red, b + amount * yellow
    dark = 1 - 0.9 * amounts[3]
    return lightness, a * dark, b * dark


def inks_profile() -> bytes:
    """A table of two points a side, from CMYK to CIELAB."""
    tags = {
        b"desc": _text(b"mluc", "inks"),
        b"cprt": _text(b"mluc", "none"),
        b"wtpt": b"XYZ " + bytes(4) + _xyz(0.9642, 1.0, 0.8249),
        b"A2B0": _table(),
    }
    start = 128 + 4 + 12 * len(tags)
    directory, bodies = struct.pack(">I", len(tags)), b""
    for name, body in tags.items():
        directory += name + struct.pack(">II", start + len(bodies), len(body))
        bodies += body + bytes(-len(body) % 4)
    header = struct.pack(">I4sI4s4s4s", start + len(bodies), bytes(4), 0x02400000, b"prtr", b"CMYK", b"Lab ")
    header += bytes(12) + b"acsp" + bytes(28) + _xyz(0.9642, 1.0, 0.8249)
    return header.ljust(128, b"\0") + directory + bodies


def _table() -> bytes:
    straight = bytes(range(256))
    head = (
        b"mft1"
        + bytes(4)
        + bytes((4, 3, 2, 0))
        + struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    )
    corners = b"".join(_lab8(printed(amounts)) for amounts in product((0.0, 1.0), repeat=4))
    return head + straight * 4 + corners + straight * 3


def _lab8(lab: Lab) -> bytes:
    lightness, a, b = lab
    return bytes(max(0, min(255, round(value))) for value in (lightness * 2.55, a + 128, b + 128))


def _xyz(*values: float) -> bytes:
    return struct.pack(">3i", *(round(value * 65536) for value in values))


def _text(kind: bytes, text: str) -> bytes:
    coded = text.encode("utf-16-be")
    return kind + bytes(4) + struct.pack(">II2s2sII", 1, 12, b"en", b"US", len(coded), 28) + coded
