"""What the daemon is doing, for `invsr-daemon status`: a small file that it rewrites, and a lock it holds."""

from __future__ import annotations

import errno
import fcntl
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

from ..errors import ConfigError, InvsrError, UnwritableError

STATUS_FILE = "status.json"
LOCK_FILE = "lock"
# Mended only by other rights or another path; all else may pass by itself.
WRONG = frozenset({errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EEXIST})
LOCK_ATTEMPTS, LOCK_ATTEMPT_SECONDS = 10, 0.05


@dataclass(frozen=True)
class DaemonStatus:
    """One moment of a running daemon. `held` says why no work begins, if so; `problem` what is amiss.

    `set_aside`: why devices are not used at present, by device. `written`: files in the inbox that wait, for
    someone is writing to them; the first few.
    """

    pid: int
    version: str
    started: float
    devices: tuple[str, ...]
    busy: int
    running: tuple[int, ...]
    queued: int
    frames_per_second: float
    watching: str
    held: str | None
    problem: str | None
    set_aside: dict[str, str] = field(default_factory=dict)
    written: tuple[str, ...] = ()

    def line(self) -> str:
        """For `systemctl status`: 2 running, 14 queued, 3.1 fps."""
        text = f"{len(self.running)} running, {self.queued} queued, {self.frames_per_second:.1f} fps"
        aside = f"set aside: {', '.join(self.set_aside)}" if self.set_aside else None
        remarks = [remark for remark in (self.held, self.problem, aside) if remark]
        return "; ".join([text, *remarks])

    def write(self, state_dir: Path) -> None:
        """Replace the file. Not synced: it is of no use after a crash. Raises OSError."""
        partial = state_dir / f".{STATUS_FILE}.part"
        partial.write_text(json.dumps(asdict(self)))
        partial.replace(state_dir / STATUS_FILE)


def read(state_dir: Path) -> DaemonStatus | None:
    """What the daemon on this state folder wrote last; None if none is running."""
    if not is_running(state_dir):
        return None
    try:
        found = json.loads((state_dir / STATUS_FILE).read_text())
    except FileNotFoundError:  # it has only just started
        return None
    lists = {name: tuple(found.get(name, ())) for name in ("devices", "running", "written")}
    return DaemonStatus(**{**found, **lists})


def is_running(state_dir: Path) -> bool:
    """Whether a daemon holds this state folder's lock."""
    try:
        with (state_dir / LOCK_FILE).open() as lock:
            return not _taken(lock, fcntl.LOCK_SH)
    except FileNotFoundError:
        return False


@contextmanager
def only_daemon(state_dir: Path) -> Iterator[None]:
    """Hold the state folder.

    Raises ConfigError if another daemon has it, or this user may not write to it; UnwritableError if its disk
    takes nothing just now.
    """
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
        lock = (state_dir / LOCK_FILE).open("a")
    except OSError as error:
        raise unusable_state(state_dir, error) from error
    with lock:
        if not _taken_soon(lock):
            raise ConfigError(f"state_dir: another daemon is running on {state_dir}")
        (state_dir / STATUS_FILE).unlink(missing_ok=True)  # of one that was killed
        yield
        (state_dir / STATUS_FILE).unlink(missing_ok=True)


def _taken_soon(lock: IO[str]) -> bool:
    """Try for a moment: a command that asks whether a daemon runs holds the lock for just that long."""
    for _ in range(LOCK_ATTEMPTS):
        if _taken(lock, fcntl.LOCK_EX):
            return True
        time.sleep(LOCK_ATTEMPT_SECONDS)
    return False


def _taken(lock: IO[str], how: int) -> bool:
    try:
        fcntl.flock(lock, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:  # ENOLCK
        folder = Path(lock.name).parent
        raise UnwritableError(f"state_dir: {folder} gives no locks ({error.strerror})") from error
    return True


def unusable_state(state_dir: Path, error: OSError) -> InvsrError:
    """What keeps a state folder from being used: a wrong setting, or a disk that may be well again later."""
    kind = ConfigError if error.errno in WRONG else UnwritableError
    return kind(f"state_dir: {state_dir} cannot be written to: {error.strerror}")
