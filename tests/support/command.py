"""Runs the real command in a process of its own, in a home of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PATIENCE_SECONDS = 300.0


@dataclass(frozen=True)
class Finished:
    """What a command left: its exit code and what it said."""

    code: int
    out: str
    err: str

    def events(self, kind: str) -> list[dict[str, Any]]:
        """The JSON events of one kind on stdout."""
        return [event for line in self.out.splitlines() if (event := json.loads(line))["event"] == kind]


@dataclass(frozen=True)
class Home:
    """A folder for a command's state and files."""

    path: Path

    @property
    def state(self) -> Path:
        return self.path / "state" / "invsr-daemon"

    def chunks(self) -> list[Path]:
        """Finished pieces of unfinished jobs."""
        return sorted(self.state.glob("work/*/chunk-*.nut"))

    def run(self, *arguments: str | Path) -> Finished:
        """Run a command to its end."""
        with self.start(*arguments) as process:
            out, err = process.communicate(timeout=PATIENCE_SECONDS)
            return Finished(process.returncode, out, err)

    @contextmanager
    def start(self, *arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
        """Start a command in a session of its own; whatever is left of it afterwards is killed."""
        with subprocess.Popen(
            [sys.executable, "-m", "invsr_daemon", *map(str, arguments)],
            cwd=self.path,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                yield process
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)

    def environment(self) -> dict[str, str]:
        return {**os.environ, "XDG_STATE_HOME": str(self.path / "state")}

    def workers(self) -> set[int]:
        """Living workers of this home's processes."""
        return self._living("invsr_daemon.workers.restore") | self._living("tests.support.sick_worker")

    def media_processes(self) -> set[int]:
        """Those that plan jobs and join pieces at this moment, or have done so just now."""
        return self._living("invsr_daemon.workers.media")

    def wait_for_children(self) -> None:
        """What served a killed process dies with it."""
        wait_until(lambda: not self.workers() | self.media_processes(), "they follow their parent")

    def _living(self, module: str) -> set[int]:
        mark = f"XDG_STATE_HOME={self.path / 'state'}".encode()
        return {pid for pid in _processes_of(module) if mark in _environment(pid)}


def wait_until(condition: Callable[[], bool], what: str, patience: float = PATIENCE_SECONDS) -> None:
    """Poll until something holds; AssertionError if it never does."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.05)


def _processes_of(module: str) -> set[int]:
    """Living processes that run a module."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_text().split("\0")
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:  # it ended meanwhile
                continue
            if state != "Z" and module in words:
                found.add(int(entry.name))
    return found


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # it ended meanwhile
        return []
