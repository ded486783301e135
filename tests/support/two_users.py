"""A second, unprivileged user whose only link to the service is the group of its inbox and outbox."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.support.daemons import Site

SERVICE, STRANGER = 54320, 54321  # users without names; the service's group has its number
SHARED = 0o2770
EXCHANGE = 2  # RENAME_EXCHANGE

# The code may lie where only its owner looks: the service may read everything. It may write only what is its.
AS_SERVICE = (
    *("setpriv", f"--reuid={SERVICE}", f"--regid={SERVICE}", "--clear-groups"),
    *("--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"),
)


class SharedSite(Site):
    """A daemon's home, all of it the service's; its group may write to inbox and outbox."""

    @property
    def secret(self) -> Path:
        """A folder that nobody but the service's user may look into."""
        return self.path / "secret"

    def keep(self, name: str, content: bytes) -> Path:
        """Put a file of the service's user into that folder."""
        path = self.secret / name
        path.parent.mkdir(parents=True, exist_ok=True)
        for folder in path.relative_to(self.path).parents[:-1]:
            os.chown(self.path / folder, SERVICE, SERVICE)
        path.write_bytes(content)
        path.chmod(0o600)
        os.chown(path, SERVICE, SERVICE)
        return path


@contextmanager
def shared_site(**settings: Any) -> Iterator[SharedSite]:
    """A home where another user reaches inbox and outbox: the folders of tests are closed to him."""
    with TemporaryDirectory(prefix="invsr-strangers-") as folder:
        os.chmod(folder, 0o755)
        site = SharedSite.make(Path(folder) / "home", **settings)
        assert isinstance(site, SharedSite)
        site.outbox.mkdir()
        site.secret.mkdir(mode=0o700)
        for path in (site.path, site.inbox, site.outbox, site.secret):
            os.chown(path, SERVICE, SERVICE)
        for path in (site.inbox, site.outbox):
            path.chmod(SHARED)
        yield site


@contextmanager
def stranger(attack: Callable[[], None]) -> Iterator[None]:
    """Another user attacks until the block ends, or he has."""
    if (child := os.fork()) == 0:
        try:
            os.setgroups([SERVICE])
            os.setresgid(STRANGER, STRANGER, STRANGER)
            os.setresuid(STRANGER, STRANGER, STRANGER)
            os.umask(0o007)
            attack()
        finally:
            os._exit(0)
    try:
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def drop(content: bytes, target: Path) -> None:
    """As a stranger: have a file appear, whole, which the group may read."""
    hidden = target.with_name(f".{target.name}.dropped")
    hidden.write_bytes(content)
    hidden.chmod(0o664)
    hidden.rename(target)


def seconds_of(patience: float) -> Iterator[None]:
    """Again and again, as fast as possible, for so long."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        yield


def wait(condition: Callable[[], bool], patience: float = 5.0) -> bool:
    """Whether something came to hold in that time."""
    for _ in seconds_of(patience):
        if condition():
            return True
        time.sleep(0.0005)
    return False


class Exchange:
    """Exchanges two names at once, some 100,000 times a second."""

    def __init__(self, one: Path, other: Path) -> None:
        self._names = (os.fsencode(one), os.fsencode(other))
        self._rename = ctypes.CDLL(None).renameat2

    def __call__(self) -> None:
        here = -100  # AT_FDCWD
        self._rename(here, self._names[0], here, self._names[1], EXCHANGE)


def relink(path: Path, target: Path) -> None:
    """Have a name be a link, whatever it was."""
    with suppress(OSError):
        os.unlink(path)
    with suppress(OSError):
        os.symlink(target, path)


def tools_are_missing() -> bool:
    """Whether a second user cannot be had here, or the service not be broken as it must be."""
    return os.geteuid() != 0 or not all(map(shutil.which, ("setpriv", "strace")))
