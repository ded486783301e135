"""What tells a file from every other one: see `records.Identity`.

Only statx(2) tells the time of birth. Python's os module does not know that call, so the C library is asked.
"""

from __future__ import annotations

import ctypes
import os
import struct

from ..records import Identity

AT_SYMLINK_NOFOLLOW, AT_EMPTY_PATH = 0x100, 0x1000
STATX_BTIME = 0x800
STATX_BYTES = 256
MASK_AT, BTIME_AT = 0, 0x50  # where they lie in struct statx: what there is, and seconds and nanoseconds
_STATX = getattr(ctypes.CDLL(None, use_errno=True), "statx", None)


def identity_of(descriptor: int) -> Identity:
    """That of an open file. Raises OSError."""
    return _identity(os.fstat(descriptor), born_ns(descriptor, ""))


def identity_in(folder: int, name: str, found: os.stat_result) -> Identity:
    """That of a file in an open folder, of which stat said `found`."""
    return _identity(found, born_ns(folder, name))


def born_ns(descriptor: int, name: str) -> int | None:
    """When a file began to be, in nanoseconds since the epoch: an open one, or one in an open folder.

    None where the file system or the system does not tell, or there is no such file.
    """
    if _STATX is None:
        return None
    told = ctypes.create_string_buffer(STATX_BYTES)
    flags = AT_SYMLINK_NOFOLLOW | (0 if name else AT_EMPTY_PATH)
    if _STATX(descriptor, os.fsencode(name), flags, STATX_BTIME, told):
        return None
    (mask,) = struct.unpack_from("=I", told, MASK_AT)
    seconds, nanoseconds = struct.unpack_from("=qI", told, BTIME_AT)
    return int(seconds * 10**9 + nanoseconds) if mask & STATX_BTIME else None


def _identity(found: os.stat_result, born: int | None) -> Identity:
    return Identity(found.st_ino, found.st_size, found.st_mtime_ns, born)
