"""A daemon with folders of its own: files are dropped, the real process works, its store is read."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from invsr_daemon.store.rows import ENDED, JobRow
from invsr_daemon.store.store import STORE_FILE, Store
from tests.support.command import PATIENCE_SECONDS, Home, wait_until
from tests.support.mediafiles import Sound, make_film

CHUNK = 8


def film(path: Path, frames: int = 40, seed: int = 0) -> Path:
    """48x32, variable frame rate, B-frames, sound; chunks of eight frames."""
    pts = [index * 40 + (index % 3) * 7 for index in range(frames)]

    def paint(index: int, size: tuple[int, int]) -> np.ndarray[Any, np.dtype[np.uint8]]:
        rng = np.random.default_rng(seed)
        backdrop = rng.integers(0, 255, (size[1], size[0] + frames, 3), dtype=np.uint8)
        return np.ascontiguousarray(backdrop[:, index : index + size[0]])

    make_film(path, size=(48, 32), pts=pts, paint=paint, sounds=(Sound(seconds=0.5),))
    return path


def picture(path: Path, seed: int = 0) -> Path:
    """16x12, different for every seed."""
    pixels = np.random.default_rng(seed).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@dataclass(frozen=True)
class Site(Home):
    """A daemon's home: settings, inbox, outbox, state and log. `program`: the module that is the daemon."""

    program: str = "invsr_daemon"

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def inbox(self) -> Path:
        return self.path / "inbox"

    @property
    def outbox(self) -> Path:
        return self.path / "outbox"

    @property
    def log(self) -> str:
        path = self.path / "daemon.log"
        return path.read_text() if path.exists() else ""

    @classmethod
    def make(cls, path: Path, **settings: Any) -> Site:
        site = cls(path)
        site.inbox.mkdir(parents=True)
        site.configure(**settings)
        return site

    def configure(self, **settings: Any) -> None:
        """Write settings: quick ones, and these on top."""
        limits = {"min_free_space": 0, **settings.pop("limits", {})}
        quick = {
            "inbox": str(self.inbox),
            "outbox": str(self.outbox),
            "settle_seconds": 0.1,
            "watch": {"rescan_seconds": 2},
            "devices": "cpu",
            "limits": limits,
            "video": {"chunk_frames": CHUNK, "preset": "ultrafast"},
        }
        self.config.write_text(yaml.safe_dump(quick | settings))

    @contextmanager
    def daemon(self, *prefix: str) -> Iterator[subprocess.Popen[bytes]]:
        """The daemon, watching; killed afterwards if it still runs, and its workers waited for."""
        said = len(self.log)
        with self.started(*prefix) as process:
            wait_until(
                lambda: process.poll() is not None or "watching" in self.log[said:], "the daemon watches"
            )
            assert process.poll() is None, self.log[said:]
            yield process

    @contextmanager
    def started(self, *prefix: str) -> Iterator[subprocess.Popen[bytes]]:
        """The daemon's process, from its first moment. `prefix`: a command to run it by."""
        command = [*prefix, sys.executable, "-m", self.program, "run", "-c", str(self.config)]
        with (
            (self.path / "daemon.log").open("ab") as log,
            subprocess.Popen(
                command, cwd=self.path, env=self.environment(), stderr=log, start_new_session=True
            ) as process,
        ):
            try:
                yield process
            finally:
                if process.poll() is None:
                    kill(process)
                self.wait_for_children()

    def command(self, *arguments: str) -> str:
        """Run a command about this daemon; what it prints."""
        name, *rest = arguments
        finished = self.run(name, *rest, "-c", self.config)
        assert finished.code == 0, finished.err
        return finished.out

    def drop(self, source: Path, name: str | None = None) -> Path:
        """Have a file appear in the inbox, whole."""
        target = self.inbox / (name or source.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        hidden = target.with_name(f".{target.name}")
        shutil.copy(source, hidden)
        hidden.rename(target)
        return target

    def jobs(self) -> list[JobRow]:
        """All jobs, the latest first."""
        path = self.state / STORE_FILE
        if not path.exists():
            return []
        with Store.open(path) as store:
            return store.jobs()

    def jobs_of(self, name: str) -> list[JobRow]:
        """A file's jobs, the latest first."""
        return [row for row in self.jobs() if row.relative == Path(name)]

    def wait_for(self, name: str, *states: str, jobs: int = 1) -> JobRow:
        """The latest of a file's so many jobs, once it is in one of these states."""

        def there() -> bool:
            rows = self.jobs_of(name)
            return len(rows) >= jobs and rows[0].state in states

        wait_until(there, f"{name} is {' or '.join(states)}")
        return self.jobs_of(name)[0]

    def wait_until_all_ended(self, jobs: int, patience: float = PATIENCE_SECONDS) -> None:
        """Until there are so many jobs, all of them have ended and nothing is left to do for them."""

        def ended() -> bool:
            rows = self.jobs()
            return len(rows) >= jobs and all(row.state in ENDED for row in rows) and not self.untidy()

        wait_until(ended, f"{jobs} jobs ended", patience)

    def untidy(self) -> list[JobRow]:
        with Store.open(self.state / STORE_FILE) as store:
            return store.untidy()

    def chunks(self) -> list[Path]:
        """Finished pieces of unfinished films."""
        return sorted(self.state.glob("work/**/chunk-*.nut"))

    def finished(self, name: str) -> dict[int, float]:
        """When each finished chunk of a file's latest job was written down."""
        rows = self.jobs_of(name)
        if not rows:
            return {}
        with Store.open(self.state / STORE_FILE) as store:
            found = store.chunks(rows[0].id)
        return {row.index: row.finished for row in found if row.finished is not None}

    def status(self) -> dict[str, Any]:
        """`status --json`."""
        found: dict[str, Any] = json.loads(self.command("status", "--json"))
        return found

    def litter(self) -> list[str]:
        """What is in outbox and work folder, but is neither a result nor a finished piece."""
        hidden = [path for path in self.outbox.rglob(".*")]
        kept = [path for name in ("work", "done") for path in self.state.glob(f"{name}/*")]
        return [str(path.relative_to(self.path)) for path in hidden + kept]


def kill(process: subprocess.Popen[bytes]) -> None:
    """kill -9, and wait."""
    process.send_signal(signal.SIGKILL)
    process.wait()


def stop(process: subprocess.Popen[bytes]) -> int:
    """SIGTERM; the exit code."""
    process.send_signal(signal.SIGTERM)
    return process.wait(timeout=120)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def resident_bytes(pid: int) -> int:
    """Memory of a process that is its own or in files it has mapped."""
    (found,) = re.findall(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found) * 1024


def cpu_seconds(pid: int) -> float:
    """Time on a core, ever."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wake_ups(pid: int) -> int:
    """How often a process's threads, those that live, have gone to wait for something."""
    statuses = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/status")]
    return sum(int(re.findall(r"^voluntary_ctxt_switches:\s+(\d+)", each, re.M)[0]) for each in statuses)
