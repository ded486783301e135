"""Whether a film file is as long as its own structure says.

FFmpeg reads a file that was cut off up to the cut and is content; MP4's boxes and Matroska's segment
state their sizes, so a cut shows before anything is decoded.
"""

from __future__ import annotations

import os
from typing import IO

from ..errors import InputError

EBML, SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
FIRST_BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide"})
# Others may be padding or garbage behind the film, which does no harm.
NEEDED_BOXES = frozenset({b"moov", b"mdat", b"moof"})


def check_complete(file: IO[bytes]) -> None:
    """Raise InputError if a file ends before its own structure does."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(8)
    if head[4:] in FIRST_BOXES:
        end = _end_of_boxes(file, size)
    elif head[:4] == EBML:
        end = _end_of_segment(file)
    else:
        return
    if end > size:
        raise InputError(f"it is cut off: its last {end - size} bytes are missing")


def _end_of_boxes(file: IO[bytes], size: int) -> int:
    """Where the last needed top-level box of an MP4 ends (ISO/IEC 14496-12, 4.2)."""
    position = end = 0
    while position < size:
        file.seek(position)
        header = file.read(16)
        length, kind = int.from_bytes(header[:4]), header[4:8]
        if length == 1:
            length = int.from_bytes(header[8:16])
        if length < 8:  # 0: up to the end of the file
            break
        position += length
        if kind in NEEDED_BOXES:
            end = position
    return end


def _end_of_segment(file: IO[bytes]) -> int:
    """Where a Matroska segment ends; 0 if it does not say (RFC 8794, 5 and 6)."""
    file.seek(len(EBML))
    header = _element_size(file)
    if header is None:
        return 0
    file.seek(header, os.SEEK_CUR)
    if file.read(len(SEGMENT)) != SEGMENT:
        return 0
    length = _element_size(file)
    return 0 if length is None else file.tell() + length


def _element_size(file: IO[bytes]) -> int | None:
    """A variable-size integer; None if all its bits are set, which means unknown, or if it is none."""
    first = file.read(1)
    width = 9 - first[0].bit_length() if first else 9
    if width > 8:
        return None
    bits = 7 * width
    value = int.from_bytes(first + file.read(width - 1)) & ((1 << bits) - 1)
    return None if value == (1 << bits) - 1 else value
