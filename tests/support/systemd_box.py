"""A real systemd to test units with, on a machine whose PID 1 may be anything else.

It has its own processes, mounts, network and cgroup, and sees the machine's files; what it changes in them
is gone with it. Needs root, a writable cgroup 2 and systemd's programs, but no systemd that runs.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.support.command import PATIENCE_SECONDS, Finished, wait_until

INIT = Path(__file__).parents[1] / "data" / "systemd-box.sh"
REPOSITORY = Path(__file__).parents[2]
SYSTEMD = Path("/lib/systemd/systemd")
# This interpreter, its venv and the code; what lies in /usr is seen anyway.
CODE = tuple(
    path for path in (Path(sys.base_prefix), REPOSITORY, Path(sys.prefix)) if not path.is_relative_to("/usr")
)


@dataclass(frozen=True)
class SystemdBox:
    """A systemd that runs; `pid` is its first process as seen from outside."""

    pid: int

    def run(self, *command: str | Path) -> Finished:
        """Run a command inside, as root, to its end."""
        enter = ["nsenter", "-t", str(self.pid), "-m", "-p", "-u", "-i", "-n", "-C"]
        root = f"/proc/{self.pid}/root"
        done = subprocess.run(
            [*enter, f"--root={root}", f"--wd={root}", *map(str, command)],
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    def must(self, *command: str | Path) -> str:
        """Run a command that has to succeed; what it printed."""
        finished = self.run(*command)
        assert finished.code == 0, f"{command}: {finished.err or finished.out}"
        return finished.out

    def path(self, inside: str | Path) -> Path:
        """Where a file of the box lies, seen from outside."""
        return Path(f"/proc/{self.pid}/root") / Path(inside).relative_to("/")

    def add_unit(self, name: str, text: str) -> None:
        """Write a unit, or a drop-in such as `x.service.d/test.conf`, and have it read."""
        file = self.path("/etc/systemd/system") / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        self.must("systemctl", "daemon-reload")

    def show(self, unit: str, name: str) -> str:
        """A property of a unit, such as ActiveState, StatusText, MainPID, NRestarts."""
        return self.must("systemctl", "show", unit, f"--property={name}", "--value").strip()

    def journal(self, unit: str) -> str:
        """Everything that a unit, and systemd about it, has logged."""
        return self.must("journalctl", "--no-pager", "--quiet", "--output=cat", f"--unit={unit}")

    def wait_for(self, unit: str, name: str, value: str) -> None:
        """Wait until a property has a value; the journal if it never does."""
        try:
            wait_until(lambda: self.show(unit, name) == value, f"{unit} {name}={value}")
        except AssertionError as error:
            error.add_note(self.journal(unit))
            raise


def unavailable() -> str:
    """Why there can be no box on this machine; empty if there can."""
    if os.geteuid() != 0:
        return "a systemd-box needs root"
    if not SYSTEMD.exists():
        return "systemd is not installed"
    if not os.access(_cgroups(), os.W_OK):
        return "no cgroup 2 that may be written to"
    return ""


@contextmanager
def booted(folder: Path, shared: Sequence[Path] = CODE) -> Iterator[SystemdBox]:
    """A systemd with `shared` folders shown read-only at their own place. Uses an empty `folder`."""
    cgroup = _cgroups() / f"box-{os.getpid()}-{folder.name}"
    view, console, log = folder / "view", folder / "console.log", folder / "boot.log"
    view.mkdir()
    console.touch()
    cgroup.mkdir()
    join = 'echo $$ > "$0/cgroup.procs"; exec "$@"'
    # Dies with this process, and takes everything inside along.
    start = ["setpriv", "--pdeathsig", "KILL", "unshare", "--fork", "--kill-child"]
    namespaces = ["--pid", "--mount", "--uts", "--ipc", "--net", "--cgroup"]
    try:
        with (
            log.open("wb") as output,
            subprocess.Popen(
                ["bash", "-c", join, cgroup, *start, *namespaces, "bash", INIT, view, console, *shared],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            ) as process,
        ):
            try:
                yield _running(cgroup, process, lambda: log.read_text() + console.read_text())
            finally:
                process.kill()
    finally:
        _remove(cgroup)


def _cgroups() -> Path:
    """Where cgroup 2 is mounted; beside cgroup 1 it has a place of its own."""
    root = Path("/sys/fs/cgroup")
    beside = root / "unified"
    return beside if beside.is_dir() else root


def _running(cgroup: Path, process: subprocess.Popen[bytes], said: Callable[[], str]) -> SystemdBox:
    """The box, once its systemd has started everything it was to start."""

    def up() -> bool:
        assert process.poll() is None, f"the box did not boot: {said()}"
        pid = _first_process(cgroup)
        state = SystemdBox(pid).run("systemctl", "is-system-running").out.strip() if pid else ""
        return state in ("running", "degraded")

    wait_until(up, "the box has booted")
    return SystemdBox(_first_process(cgroup))


def _first_process(cgroup: Path) -> int:
    """The process that is 1 in its own namespace, once it is systemd; 0 if there is none yet."""
    for processes in [cgroup / "cgroup.procs", *cgroup.glob("*/cgroup.procs")]:
        for pid in processes.read_text().split():
            with suppress(OSError):  # it ended meanwhile
                status = Path("/proc", pid, "status").read_text()
                if status.startswith("Name:\tsystemd\n") and "\t1\n" in _line(status, "NSpid:"):
                    return int(pid)
    return 0


def _line(text: str, beginning: str) -> str:
    return next((line for line in text.splitlines(keepends=True) if line.startswith(beginning)), "")


def _remove(cgroup: Path) -> None:
    """Remove a cgroup, with everything below, whose processes are ending."""
    deadline = time.monotonic() + 10
    while cgroup.exists():
        assert time.monotonic() < deadline, f"{cgroup} cannot be removed"
        for folder in [*sorted(cgroup.rglob("*/"), reverse=True), cgroup]:
            with suppress(OSError):  # one of them still is
                folder.rmdir()
        time.sleep(0.02)
