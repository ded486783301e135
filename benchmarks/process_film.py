"""What restoring one film costs: time, memory of every process over time, and whether its times are kept.

    python benchmarks/process_film.py FILM [options of `invsr-daemon process`]

Prints a Markdown table. Memory is the resident set, sampled five times a second from /proc.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import av

SAMPLE_SECONDS = 0.2
MIB = 2**20


def main() -> None:
    film, *options = sys.argv[1:]
    with tempfile.TemporaryDirectory() as scratch:
        result = Path(scratch) / f"result{Path(film).suffix}"
        began = time.monotonic()
        command = [
            sys.executable,
            "-m",
            "invsr_daemon",
            "process",
            film,
            "-o",
            str(result),
            "--json",
            *options,
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            samples = _sampled(process)
            assert process.stdout is not None
            events = [json.loads(line) for line in process.stdout]
        seconds = time.monotonic() - began
        if process.returncode:
            sys.exit(process.returncode)
        source, restored = _times(film), _times(str(result))
        done = next(event for event in events if event["event"] == "done")
        _print(done["frames"], seconds, samples, source == restored)


def _sampled(process: subprocess.Popen[str]) -> list[tuple[int, int]]:
    """(parent, workers) bytes resident, until the process ends."""
    samples = []
    while process.poll() is None:
        samples.append((_resident(process.pid), sum(_resident(pid) for pid in _children(process.pid))))
        time.sleep(SAMPLE_SECONDS)
    return samples


def _resident(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS")), 0)


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def _times(film: str) -> list[Fraction]:
    with av.open(film) as container:
        return [frame.pts * frame.time_base for frame in container.decode(video=0)]


def _print(frames: int, seconds: float, samples: list[tuple[int, int]], same_times: bool) -> None:
    parents, workers = zip(*samples, strict=True)
    middle = len(samples) // 2
    rows = [
        ("frames", str(frames)),
        ("seconds", f"{seconds:.1f}"),
        ("frames per second", f"{frames / seconds:.2f}"),
        ("parent, peak MiB", f"{max(parents) / MIB:.0f}"),
        ("workers, peak MiB", f"{max(workers) / MIB:.0f}"),
        ("parent, peak of the second half over the first, MiB", _growth(parents, middle)),
        ("workers, peak of the second half over the first, MiB", _growth(workers, middle)),
        ("timestamps equal to the source's", "yes" if same_times else "NO"),
    ]
    print("| | |\n|---|---|")
    for name, value in rows:
        print(f"| {name} | {value} |")


def _growth(resident: tuple[int, ...], middle: int) -> str:
    return f"{(max(resident[middle:]) - max(resident[:middle])) / MIB:+.0f}"


if __name__ == "__main__":
    main()
