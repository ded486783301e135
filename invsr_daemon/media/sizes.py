"""What of a file's size is refused: too much, mostly holes, more than pixels need, nothing new for long."""

from __future__ import annotations

import os

from ..errors import InputError

# Smaller files cost nothing to read, holes and all.
SPARSE_SIZE = 16 * 1024**2
SPARSE_SHARE = 4  # one part of so many, or less, is really there
# Of a picture: four channels of 16 bits, twice over for a bad compression; and what else it holds.
PIXEL_BYTES = 16
EXTRA_BYTES = 64 * 1024**2
SILENT_BYTES = 32 * 1024**3  # more than a whole track of sound


def check_file(descriptor: int, most: int) -> None:
    """Raise InputError if a file is larger than `most` bytes, or mostly holes."""
    found = os.fstat(descriptor)
    if found.st_size > most:
        raise InputError(f"its {found.st_size} bytes exceed the limit of {most} (limits.max_input_size)")
    allocated = 512 * found.st_blocks
    # Both: where a file system compresses, less is allocated, but there are no holes.
    if (
        found.st_size >= SPARSE_SIZE
        and allocated < found.st_size // SPARSE_SHARE
        and os.lseek(descriptor, 0, os.SEEK_HOLE) < found.st_size
    ):
        raise InputError(
            f"it is sparse: of its {found.st_size} bytes only {allocated} are there, the rest are holes."
            " Copy it whole (cp --sparse=never) if that is meant"
        )


def most_picture_bytes(pixels: int) -> int:
    """More than a picture of so many pixels can need."""
    return pixels * PIXEL_BYTES + EXTRA_BYTES


class Silence:
    """Counts bytes that are read without a new frame. Raises InputError if they become too many."""

    def __init__(self, most: int = SILENT_BYTES) -> None:
        self._most = most
        self._bytes = 0

    def read(self, count: int) -> None:
        self._bytes += count
        if self._bytes > self._most:
            raise InputError(f"{self._most >> 20} MiB of it were read without finding another frame")

    def frame(self) -> None:
        self._bytes = 0
