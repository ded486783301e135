"""Publishing: a result appears under its name only whole, and never over something unasked."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .durable import sync
from .records import OutputError, OutputExistsError, ResourceError


@contextmanager
def publishing(final: Path, key: str, *, overwrite: bool) -> Iterator[Path]:
    """A hidden file in the target's folder to write into; it gets its name when the block ends.

    Its name depends on `key` alone, so that a run after a crash takes it up and leaves no litter.
    Raises OutputExistsError if the name is taken, OutputError if the folder cannot be written to.
    """
    partial = final.with_name(f".{final.stem[:48]}.{key[:16]}.part")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)
        yield partial
        sync(partial)
        _name(partial, final, overwrite=overwrite)
        sync(final.parent)
    except OSError as error:
        raise _explained(error, final) from error
    finally:
        with suppress(OSError):  # gone already, or the folder is: no reason to hide the error above
            partial.unlink()


def check_free(final: Path, *, overwrite: bool) -> None:
    """Raise OutputExistsError early if the name is taken."""
    if not overwrite and os.path.lexists(final):
        raise OutputExistsError(f"{final} is already there (--overwrite replaces it)")


def _name(partial: Path, final: Path, *, overwrite: bool) -> None:
    """link() fails where something has the name; rename() replaces it."""
    if overwrite:
        os.replace(partial, final)
        return
    try:
        os.link(partial, final)
    except FileExistsError as error:
        raise OutputExistsError(f"{final} is already there (--overwrite replaces it)") from error
    except OSError:  # a file system without hard links
        check_free(final, overwrite=False)
        os.replace(partial, final)


def _explained(error: OSError, final: Path) -> OutputError | ResourceError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceError(f"the disk of {final.parent} is full")
    return OutputError(f"{final.parent} cannot be written to: {error.strerror}")
