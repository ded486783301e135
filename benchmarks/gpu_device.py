"""A device under test: its clock, its memory, what a profile tells of it. In a dry run a CPU stands in."""

from __future__ import annotations

import gc
import os
import platform
import resource
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from gpu_results import Value
from torch.profiler import ProfilerActivity, profile

# On a CPU these stand for what would make it wait for a device.
SYNCING = ("aten::_local_scalar_dense", "aten::nonzero")


@dataclass(frozen=True)
class Setting:
    """What a run was asked for. `dry`: everything in miniature, to see that it works."""

    device: torch.device
    dry: bool
    ends: float

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    def left(self) -> float:
        """Seconds of the budget that are left."""
        return self.ends - time.monotonic()

    def synchronize(self) -> None:
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def release(self) -> None:
        """Give back what memory is not in use."""
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()


@dataclass(frozen=True)
class Profile:
    """What went on: kernels (a CPU's operators), their seconds, waits for the device, operators' names."""

    kernels: int
    busy: float
    syncs: int
    names: frozenset[str]


def prepare(setting: Setting) -> None:
    """As workers do: no autotuned kernels, whose choice depends on what else goes on."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    if setting.dry:
        torch.set_num_threads(1)
    if setting.cuda:
        torch.cuda.set_device(setting.device)


def machine(setting: Setting) -> dict[str, Value]:
    """What it is that was measured. No names of people or places."""
    found: dict[str, Value] = {
        "device": "CPU",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)),
    }
    if setting.cuda:
        properties = torch.cuda.get_device_properties(setting.device)
        found |= {
            "device": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "memory GB": round(properties.total_memory / 1e9, 1),
            "CUDA": torch.version.cuda,
            "cuDNN": torch.backends.cudnn.version(),
        }
    return found


def seconds_of(setting: Setting, work: Callable[[], object], runs: int = 5, warm: int = 2) -> float:
    """The median of some runs: between events on the device; on a CPU by the clock."""
    if setting.dry:
        return _clocked(work)
    for _ in range(warm):
        work()
    if not setting.cuda:
        return statistics.median(_clocked(work) for _ in range(runs))
    pairs = []
    for _ in range(runs):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        work()
        end.record()
        pairs.append((start, end))
    setting.synchronize()
    return float(statistics.median(start.elapsed_time(end) for start, end in pairs)) / 1e3


def _clocked(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


@contextmanager
def exact_convolutions() -> Iterator[None]:
    """Without TF32, which cuDNN uses in float32 unless it is told not to."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def reset_peak(setting: Setting) -> None:
    if setting.cuda:
        torch.cuda.reset_peak_memory_stats(setting.device)


def peak_bytes(setting: Setting) -> int:
    """The most that tensors took on the device since `reset_peak`; on a CPU, of the process ever."""
    if setting.cuda:
        return torch.cuda.max_memory_allocated(setting.device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


@contextmanager
def capped(setting: Setting, most: int) -> Iterator[None]:
    """No more than so many bytes of the device's memory, by a fraction that torch's allocator keeps to."""
    total = torch.cuda.get_device_properties(setting.device).total_memory
    setting.release()
    torch.cuda.set_per_process_memory_fraction(min(1.0, most / total), setting.device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, setting.device)


def profiled(setting: Setting, work: Callable[[], object]) -> Profile:
    """One run under torch's profiler, which makes it slower: time it elsewhere."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if setting.cuda else [])]
    with _counted_syncs(setting) as caught, profile(activities=activities) as seen:
        work()
        setting.synchronize()
    events: list[Any] = list(seen.events() or [])
    names = frozenset(str(event.name) for event in events)
    if setting.cuda:
        kernels = [event for event in events if event.device_type.name == "CUDA"]
        microseconds = sum(event.time_range.elapsed_us() for event in kernels)
        return Profile(len(kernels), microseconds / 1e6, len(caught), names)
    syncs = sum(event.name in SYNCING for event in events)
    microseconds = sum(event.self_cpu_time_total for event in events)
    return Profile(len(events), microseconds / 1e6, syncs, names)


@contextmanager
def _counted_syncs(setting: Setting) -> Iterator[list[warnings.WarningMessage]]:
    """Torch warns whenever the CPU waits for the device."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if setting.cuda:
            torch.cuda.set_sync_debug_mode("warn")
        try:
            yield caught
        finally:
            if setting.cuda:
                torch.cuda.set_sync_debug_mode("default")
            caught[:] = [each for each in caught if "synchroniz" in str(each.message)]
