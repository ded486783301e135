"""One daemon for an inbox: two would restore everything twice, each without a word of the other."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...errors import ConfigError

log = logging.getLogger(__name__)


@contextmanager
def only_watcher(inbox: Path) -> Iterator[None]:
    """Hold the inbox, if it is there and its file system gives locks on folders.

    One that is a mount of its own is not held: nobody could unmount it any more. Raises ConfigError if
    another daemon holds it.
    """
    if os.path.ismount(inbox):
        yield
        return
    try:
        descriptor = os.open(inbox, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:  # it is waited for
        yield
        return
    try:
        _lock(descriptor, inbox)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, inbox: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ConfigError(f"inbox: another daemon, with another state_dir, watches {inbox}") from error
    except OSError as error:
        log.info("%s gives no locks (%s): no other daemon may watch it", inbox, error.strerror)
