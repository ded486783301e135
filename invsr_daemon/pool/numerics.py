"""What settings leave to the machine and yet decides bits, without importing torch into the caller."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ..records import Precision
from .protocol import Numerics

CPUINFO = Path("/proc/cpuinfo")
CPUS = Path("/sys/devices/system/cpu")
MATRIX_UNITS = "amx_bf16"  # as the kernel names them among a CPU's flags
THREADS_VARIABLE = "OMP_NUM_THREADS"


def numerics_of(devices: Iterable[str], threads: int) -> Numerics:
    """How workers on these devices compute; `threads` of each, 0 for as many as there are cores."""
    return Numerics(common_precision(devices), threads or cores())


def common_precision(devices: Iterable[str]) -> Precision:
    """What all devices compute soonest; fp32, which each of them does well, if they do not agree."""
    quickest = {quickest_precision(device) for device in devices}
    return quickest.pop() if len(quickest) == 1 else "fp32"


def quickest_precision(device: str, cpuinfo: Path = CPUINFO) -> Precision:
    """What a device computes in soonest; bf16 only pays where a CPU has matrix units (AMX)."""
    if device.partition(":")[0] != "cpu":
        return "fp16"
    return "bf16" if MATRIX_UNITS in _flags(cpuinfo) else "fp32"


def _flags(cpuinfo: Path) -> list[str]:
    """Of the first CPU; none where the kernel does not tell."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return []
    found = (line.partition(":")[2].split() for line in lines if line.startswith("flags"))
    return next(found, [])


def cores(cpus: Path = CPUS) -> int:
    """Cores that this process may use, each counted once however many threads it runs.

    As everywhere where OpenMP is used, OMP_NUM_THREADS says otherwise.
    """
    wanted = os.environ.get(THREADS_VARIABLE, "").partition(",")[0]
    if wanted.isdecimal() and int(wanted):
        return int(wanted)
    return len({_siblings(cpus, number) for number in os.sched_getaffinity(0)})


def _siblings(cpus: Path, number: int) -> str:
    """The numbers of all CPUs on the same core, as the kernel writes them; its own if it does not."""
    try:
        return (cpus / f"cpu{number}" / "topology" / "thread_siblings_list").read_text().strip()
    except OSError:
        return str(number)
