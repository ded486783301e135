"""Which devices there are, without importing torch into the caller.

Where no accelerator's device node exists the answer is known at once; otherwise a short-lived
worker asks torch, which respects CUDA_VISIBLE_DEVICES.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path

from ..errors import ConfigError
from ..settings.devices import UUID

ACCELERATOR_NODES = (Path("/dev/nvidiactl"), Path("/dev/kfd"), Path("/dev/dxg"))
ASK_SECONDS = 120
INSTEAD = "`invsr-daemon doctor` tells more, and `devices: cpu` does without"


def named_by_torch(device: str) -> tuple[str, Mapping[str, str]]:
    """What torch calls a device, and the environment of a process in which it does.

    A card, or a part of one, that has a UUID for a name is the only one that its process sees. Parts cannot
    be used in another way: CUDA shows a process one of them at most.
    """
    if UUID.fullmatch(device):
        return "cuda:0", {"CUDA_VISIBLE_DEVICES": device}
    return device, {}


def find_devices() -> tuple[str, ...]:
    """Every CUDA device, or the CPU if there is none. Raises ConfigError if torch cannot tell."""
    if not any(node.exists() for node in ACCELERATOR_NODES):
        return ("cpu",)
    return _ask_torch({}) or ("cpu",)


def _ask_torch(environment: Mapping[str, str]) -> tuple[str, ...]:
    try:
        asked = subprocess.run(
            [sys.executable, "-m", "invsr_daemon.workers.restore", "--list-devices"],
            capture_output=True,
            text=True,
            timeout=ASK_SECONDS,
            env={**os.environ, **environment},
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ConfigError(f"devices: torch did not name any within {ASK_SECONDS} s; {INSTEAD}") from error
    if asked.returncode != 0:
        words = asked.stderr.strip().rpartition("\n")[2] or f"exit code {asked.returncode}"
        raise ConfigError(f"devices: torch cannot be asked for them: {words}; {INSTEAD}")
    return tuple(json.loads(asked.stdout))


def choose_devices(names: Iterable[str], workers: int) -> tuple[str, ...]:
    """A device for each worker, of what `device_names` has found right.

    `workers` > 0 sets their number, going round over the devices. Raises ConfigError if one is not there.
    """
    there = cache(find_devices)  # torch may take long to answer, and is asked once
    devices = [device for name in names for device in _named(name, there)]
    count = workers or len(devices)
    return tuple(devices[i % len(devices)] for i in range(count))


def _named(name: str, find: Callable[[], tuple[str, ...]]) -> tuple[str, ...]:
    kind, _, number = name.partition(":")
    if name == "auto":
        return find()
    if UUID.fullmatch(name):
        return _unique(name)
    if kind == "cpu":
        return ("cpu",) * int(number or 1)
    there = [device for device in find() if device.startswith("cuda")]
    if not there:
        raise ConfigError("devices: there is no CUDA device here (nvidia-smi, and torch built for CUDA?)")
    if not number:
        return tuple(there)
    if name not in there:
        raise ConfigError(f"devices: there is no {name}, only {', '.join(there)}")
    return (name,)


def _unique(name: str) -> tuple[str, ...]:
    if not _ask_torch(named_by_torch(name)[1]):
        raise ConfigError(f"devices: there is no {name} here (see nvidia-smi -L)")
    return (name,)
