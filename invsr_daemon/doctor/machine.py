"""Checks of the machine: Python, memory, torch, devices, limits."""

from __future__ import annotations

import json
import os
import platform
import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from .. import __version__
from ..confinement import confinement_problem, landlock_version
from ..errors import ConfigError
from ..pool.devices import ACCELERATOR_NODES, choose_devices
from ..settings.settings import Settings
from ..systemd.service import NAME
from .findings import Finding, size_text

PROBE_SECONDS = 300
ENOUGH_OPEN_FILES = 1024


@dataclass(frozen=True)
class Answers:
    """What a probe said before it ended; `problem` tells why it ended, if not in peace."""

    lines: tuple[dict[str, Any], ...]
    problem: str | None


def check_python() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0))
    text = f"{platform.python_version()}, {NAME} {__version__}, {cores} cores, {_memory()} of memory free"
    yield Finding("OK", "python", text)


def _memory() -> str:
    (kilobytes,) = re.findall(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return size_text(int(kilobytes) << 10)


def check_torch() -> Iterator[Finding]:
    answers = ask_probe("torch")
    if not answers.lines:
        mend = f"install it again: {sys.executable} -m pip install --force-reinstall torch"
        yield Finding("FAIL", "torch", str(answers.problem), mend)
        return
    (found,) = answers.lines
    yield Finding("OK", "torch", f"{found['version']}, built for {found['built_for']}")
    for device in found["devices"]:
        free, total = device["memory"]
        yield Finding(
            "OK", device["name"], f"{device['model']}, {size_text(free)} of {size_text(total)} free"
        )
    there = [str(node) for node in ACCELERATOR_NODES if node.exists()]
    if there and not found["devices"]:
        yield Finding(
            "WARN",
            "torch",
            f"{there[0]} is there, but torch finds no GPU",
            "install the build of torch for this GPU; look at its driver (nvidia-smi, rocminfo)",
        )


def check_devices(settings: Settings) -> Iterator[Finding]:
    """What the daemon itself would choose."""
    try:
        chosen = choose_devices(settings.devices, settings.workers)
    except ConfigError as error:
        yield Finding(
            "FAIL", "devices", str(error), "change devices in the settings, or mend what torch finds"
        )
    else:
        yield Finding("OK", "devices", f"{len(chosen)} worker(s), on {', '.join(dict.fromkeys(chosen))}")


def ask_probe(*question: str, environment: Mapping[str, str] | None = None) -> Answers:
    """Ask a process of its own, that may crash or hang. `environment`: what it finds set beside ours."""
    command = [sys.executable, "-m", "invsr_daemon.workers.probe", *question]
    # To files: what was said before a timeout is kept.
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+", errors="replace") as err:
        try:
            code = subprocess.run(
                command,
                stdout=out,
                stderr=err,
                timeout=PROBE_SECONDS,
                env={**os.environ, **(environment or {})},
                check=False,
            ).returncode
            problem = None if code == 0 else _last_words(code, err)
        except subprocess.TimeoutExpired:
            problem = f"no answer for {PROBE_SECONDS} s"
        out.seek(0)
        return Answers(tuple(json.loads(line) for line in out if line.endswith("\n")), problem)


def _last_words(code: int, err: IO[str]) -> str:
    err.seek(0)
    words = [line.strip() for line in err if line.strip()]
    how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
    return f"{words[-1]} ({how})" if words else how


def check_confinement() -> Iterator[Finding]:
    if problem := confinement_problem():
        yield Finding("WARN", "confinement", problem, "see docs/confinement.md")
    else:
        yield Finding("OK", "confinement", f"Landlock, version {landlock_version()}")


def check_open_files() -> Iterator[Finding]:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    text = f"at most {soft} for a process"
    if 0 <= soft < ENOUGH_OPEN_FILES:
        yield Finding("WARN", "open files", text, "ulimit -n 1024, or LimitNOFILE= in a unit")
    else:
        yield Finding("OK", "open files", text)
