"""What restoring one film or picture costs: time, memory of every process, and whether times are kept.

    python benchmarks/process_film.py FILM [options of `invsr-daemon process`]

Prints a Markdown table. Peaks are the kernel's own (VmHWM), those of several workers added; growth is
that of the resident set, sampled five times a second from /proc.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

SAMPLE_SECONDS = 0.2
MIB = 2**20


@dataclass
class Memory:
    """Bytes resident, per sample and at most, of the parent and of all workers together."""

    parent: list[int] = field(default_factory=list)
    workers: list[int] = field(default_factory=list)
    parent_peak: int = 0
    worker_peaks: dict[int, int] = field(default_factory=dict)

    def sample(self, parent: int) -> None:
        """Look at the process `parent` and its children; those that ended meanwhile count nothing now."""
        children = _children(parent)
        self.parent.append(_status(parent, "VmRSS"))
        self.workers.append(sum(_status(pid, "VmRSS") for pid in children))
        self.parent_peak = max(self.parent_peak, _status(parent, "VmHWM"))
        for pid in children:
            self.worker_peaks[pid] = max(self.worker_peaks.get(pid, 0), _status(pid, "VmHWM"))


def main() -> None:
    source, *options = sys.argv[1:]
    with tempfile.TemporaryDirectory() as scratch:
        result = Path(scratch) / f"result{Path(source).suffix}"
        began = time.monotonic()
        events, memory = _processed(source, result, options)
        seconds = time.monotonic() - began
        done = next(event for event in events if event["event"] == "done")
        _print(done["frames"], seconds, memory, _times(source) == _times(str(result)))


def _processed(source: str, result: Path, options: list[str]) -> tuple[list[dict[str, Any]], Memory]:
    """Run the command; its events. Ends this program if it fails."""
    command = [sys.executable, "-m", "invsr_daemon", "process", source, "-o", str(result), "--json", *options]
    memory = Memory()
    log = result.with_name("events.jsonl")  # a file, because a pipe that nobody reads would fill up
    with log.open("w") as events, subprocess.Popen(command, stdout=events) as process:
        while process.poll() is None:
            memory.sample(process.pid)
            time.sleep(SAMPLE_SECONDS)
    if process.returncode:
        sys.exit(process.returncode)
    return [json.loads(line) for line in log.read_text().splitlines()], memory


def _status(pid: int, name: str) -> int:
    """A size from /proc/PID/status in bytes; 0 if the process has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith(name)), 0)


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def _times(film: str) -> list[Fraction]:
    """Seconds of every frame that has a time."""
    with av.open(film) as container:
        frames = ((frame.pts, frame.time_base) for frame in container.decode(video=0))
        return [pts * Fraction(base) for pts, base in frames if pts is not None and base is not None]


def _print(frames: int, seconds: float, memory: Memory, same_times: bool) -> None:
    middle = len(memory.parent) // 2
    rows = [
        ("frames", str(frames)),
        ("seconds", f"{seconds:.1f}"),
        ("frames per second", f"{frames / seconds:.2f}"),
        ("parent, peak MiB", f"{memory.parent_peak / MIB:.0f}"),
        ("workers, peak MiB", f"{sum(memory.worker_peaks.values()) / MIB:.0f}"),
        ("parent, peak of the second half over the first, MiB", _growth(memory.parent, middle)),
        ("workers, peak of the second half over the first, MiB", _growth(memory.workers, middle)),
        ("timestamps equal to the source's", "yes" if same_times else "NO"),
    ]
    print("| | |\n|---|---|")
    for name, value in rows:
        print(f"| {name} | {value} |")


def _growth(resident: list[int], middle: int) -> str:
    return f"{(max(resident[middle:]) - max(resident[:middle])) / MIB:+.0f}"


if __name__ == "__main__":
    main()
