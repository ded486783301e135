"""Two users who share a group only: the service's own, and one who may drop files and fetch results."""

from __future__ import annotations

import ctypes
import os
import shlex
import signal
import stat
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import invsr_daemon

SERVICE, STRANGER, SHARED = 54320, 54321, 54322  # users of these numbers, and the group that they share
RENAME_EXCHANGE = 2
AT_FDCWD = -100


def as_service() -> tuple[str, ...]:
    """The beginning of a command that runs as the service's user, wherever Python and this package lie.

    In a mount namespace of its own, where the folders that only root may pass hold nothing but those.
    """
    needed = sorted({sys.prefix, sys.base_prefix, *_paths_of_code()})
    script = ["set -e", "shelf=$(mktemp -d)"]
    hidden = sorted({str(folder) for path in needed if (folder := _shut_folder(Path(path)))})
    inside = [path for path in needed if _shut_folder(Path(path))]
    for number, path in enumerate(inside):
        script += [f"mkdir $shelf/{number}", f"mount --rbind {shlex.quote(path)} $shelf/{number}"]
    script += [f"mount -t tmpfs -o mode=755 none {shlex.quote(folder)}" for folder in hidden]
    for number, path in enumerate(inside):
        script += [f"mkdir -p {shlex.quote(path)}", f"mount --rbind $shelf/{number} {shlex.quote(path)}"]
    script.append(f'exec setpriv --reuid={SERVICE} --regid={SERVICE} --groups={SHARED} --no-new-privs "$@"')
    return ("unshare", "--mount", "--propagation", "private", "sh", "-c", "\n".join(script), "sh")


def _paths_of_code() -> list[str]:
    packages = [each for each in sys.path if Path(each).name == "site-packages"]
    return [*packages, sysconfig.get_path("stdlib"), str(Path(invsr_daemon.__file__).parents[1])]


def _shut_folder(path: Path) -> Path | None:
    """The outermost folder above a path that others may not pass, if there is one."""
    above = reversed(path.parents)
    return next((each for each in above if not each.stat().st_mode & stat.S_IXOTH), None)


@contextmanager
def stranger(work: Callable[[], None], begin: Callable[[], None]) -> Iterator[None]:
    """Let another user do something over and over, in a process, for as long as the block takes."""
    process = os.fork()
    if process == 0:
        try:
            os.setgroups([SHARED])
            os.setresgid(STRANGER, STRANGER, STRANGER)
            os.setresuid(STRANGER, STRANGER, STRANGER)
            os.umask(0o007)
            begin()
            while True:
                work()
        except BaseException as error:
            os.write(2, f"the stranger gave up: {error!r}\n".encode())
        finally:
            os._exit(1)
    try:
        yield
        assert os.waitpid(process, os.WNOHANG) == (0, 0), "the stranger gave up"
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)


class Exchange:
    """Gives two names each other's file, as often as wanted."""

    def __init__(self, one: Path, other: Path) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._names = os.fsencode(one), os.fsencode(other)

    def __call__(self) -> None:
        one, other = self._names
        if self._libc.renameat2(AT_FDCWD, one, AT_FDCWD, other, RENAME_EXCHANGE):
            raise OSError(ctypes.get_errno(), "the names cannot be exchanged")
