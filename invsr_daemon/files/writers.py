"""Whether someone has a file open for writing.

The kernel tells by leases (fcntl(2), F_SETLEASE): one for reading is refused while anybody has the file open
for writing, and as long as it is held, whoever opens the file for writing waits. Only a file's owner, root,
and who has CAP_LEASE may take one. On remote file systems leases tell of other things.
"""

from __future__ import annotations

import errno
import fcntl
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .folders import path_of
from .mounts import is_remote


@contextmanager
def writers_kept_out(descriptor: int) -> Iterator[bool | None]:
    """For a moment, let nobody open a file for writing that is open for reading here.

    True: so it is, and nobody has it open for writing already. False: someone has. None: that cannot be
    known, on this file system or for this user; then nobody is kept out.
    """
    kept_out = _lease(descriptor)
    try:
        yield kept_out
    finally:
        if kept_out:
            fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)


def has_writer(descriptor: int) -> bool | None:
    """Whether anybody has a file open for writing that is open for reading here; None: it cannot be known."""
    with writers_kept_out(descriptor) as kept_out:
        return None if kept_out is None else not kept_out


def _lease(descriptor: int) -> bool | None:
    try:
        # Whoever waits has a signal sent here: one that does nothing. SIGIO would end the process.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        in_use = error.errno == errno.EAGAIN and not is_remote(Path(path_of(descriptor)))
        return False if in_use else None
    return True
