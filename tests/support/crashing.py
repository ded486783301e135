"""Runs the real daemon many times over, and breaks it at a chosen system call.

    python -m tests.support.crashing < runs

Each line of input is a run as JSON (`Run`); the answer is a line with how it ended. What is heavy is
imported once and each run is a fork, so that a run takes a fraction of a second. Nothing is replaced: an
audit hook sees every call that changes the file system just before it is made, and kills the process
there. A run that is not killed stops by itself when every job has ended.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from invsr_daemon.cli.main import main
from invsr_daemon.store.rows import ENDED
from invsr_daemon.store.store import STORE_FILE, Store

CHANGES = frozenset({"os.link", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "open"})
WRITING = os.O_WRONLY | os.O_RDWR
# What is of no consequence after a crash.
PASSING = ("/status.json", "/.status.json.part", "/logs", "/lock", "daemon.log", "/proc/", "/dev/")


@dataclass(frozen=True)
class Run:
    """One run of a home's daemon. `kill_at`: die before this change, counted from 1; never for 0.

    `kill_on` counts only changes of paths that end so. `fail_sync` names paths, too, by their ends: the
    first time one is synced, its disk fails.
    """

    home: str
    kill_at: int = 0
    kill_on: str = ""
    fail_sync: tuple[str, ...] = ()

    def line(self) -> str:
        return json.dumps(asdict(self)) + "\n"


def _killer(kill_at: int, kill_on: str) -> Callable[[str, tuple[Any, ...]], None]:
    seen = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event in CHANGES and _matters(event, arguments, kill_on):
            seen += 1
            if seen == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    return hook


def _matters(event: str, arguments: tuple[Any, ...], kill_on: str) -> bool:
    if isinstance(arguments[0], int) or (event == "open" and not arguments[2] & WRITING):
        return False
    path = os.fsdecode(arguments[1] if event == "os.link" else arguments[0])
    return path.endswith(kill_on) and not any(part in path for part in PASSING)


def _fail_syncs(ends: tuple[str, ...]) -> None:
    """A disk that fails is the one thing that cannot be had for real here."""
    left, real = list(ends), os.fsync

    def fsync(fd: Any) -> None:
        path = os.readlink(f"/proc/self/fd/{fd}")
        for end in left:
            if path.endswith(end):
                left.remove(end)
                raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(fd)

    os.fsync = fsync


def _stop_when_done(store_file: Path) -> None:
    # A signal that comes before it is listened for would be the daemon's death.
    while not _all_done(store_file) or signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGTERM)


def _all_done(store_file: Path) -> bool:
    if not store_file.exists():
        return False
    with Store.open(store_file) as store:
        rows = store.jobs()
        return bool(rows) and all(row.state in ENDED for row in rows) and not store.untidy()


def _do(run: Run) -> None:
    """In the fork: become the daemon."""
    home = Path(run.home)
    os.environ["XDG_STATE_HOME"] = str(home / "state")
    os.chdir(home)
    log = os.open("daemon.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, sys.stderr.fileno())
    _fail_syncs(run.fail_sync)
    watching = threading.Thread(target=_stop_when_done, args=(home / "state/invsr-daemon" / STORE_FILE,))
    watching.daemon = True
    sys.addaudithook(_killer(run.kill_at, run.kill_on))
    watching.start()
    main(["run", "-c", "config.yaml"])


def _forked(run: Run) -> int:
    """How it ended: an exit code, or minus a signal."""
    if (child := os.fork()) == 0:
        try:
            _do(run)
        except SystemExit as end:
            os._exit(end.code if isinstance(end.code, int) else 0)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(70)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def serve() -> None:
    # Whatever a run needs is there before the first fork.
    import invsr_daemon.daemon.daemon  # noqa: F401

    for line in sys.stdin:
        given = json.loads(line)
        run = Run(**{**given, "fail_sync": tuple(given["fail_sync"])})
        print(_forked(run), flush=True)


if __name__ == "__main__":
    serve()
