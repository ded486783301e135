"""What a model directory's descriptions may say: they come from strangers, and networks are built by them.

Weights are read as plain tensors, so they cannot do more than be wrong. A description could ask for networks
larger than any memory, for other classes, or for files elsewhere.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

LARGEST_JSON = 1024**2
MOST_NUMBER = 65_536
MOST_ITEMS = 4096
MOST_LAYERS = 256
COUNTS = ("layers", "blocks", "depth")  # names that hold one of these count what is built one by one
DEEPEST = 4
# Would have diffusers load other packages.
REFUSED = ("quantization_config", "auto_map")
OF_INVSR = frozenset({"tile", "overlap", "multiple", "fill_tile", "detail", "guard"})
LARGEST_TILE = 4096


def read_json(path: Path) -> dict[str, Any]:
    """A description. Raises OSError, ValueError."""
    if path.stat().st_size > LARGEST_JSON:
        raise ValueError(f"{path} is larger than {LARGEST_JSON} bytes")
    loaded = json.loads(path.read_text())
    if not isinstance(loaded, dict):
        raise ValueError(f"{path} does not hold a JSON object")
    if refused := loaded.keys() & set(REFUSED):
        raise ValueError(f"{path} asks for {min(refused)}, which is not supported")
    _check(loaded, str(path), 0)
    return loaded


def read_settings(path: Path) -> dict[str, Any]:
    """What a model of this project says of itself. Raises OSError, ValueError."""
    settings = read_json(path)
    if unknown := settings.keys() - OF_INVSR:
        raise ValueError(f"{path} holds {min(unknown)!r}, which is not known")
    for name, value in settings.items():
        if name in ("detail", "guard"):
            _check_numbers(value, f"{path}: {name}")
        elif name == "fill_tile":
            if not isinstance(value, bool):
                raise ValueError(f"{path}: fill_tile must be true or false")
        elif type(value) is not int or not 0 <= value <= LARGEST_TILE:
            raise ValueError(f"{path}: {name} must be a whole number up to {LARGEST_TILE}")
    return settings


def check_size(make: Callable[[], nn.Module], weights: int, what: Path) -> None:
    """Raise ValueError if a network has more numbers than its weights have bytes. Nothing is allocated."""
    with torch.device("meta"):
        network = make()
    numbers = sum(tensor.numel() for tensor in network.parameters())
    if numbers > weights:
        raise ValueError(f"{what} asks for {numbers} weights, which its files of {weights} bytes cannot hold")


def _check_numbers(value: Any, name: str) -> None:
    if not isinstance(value, dict) or not all(type(each) in (int, float) for each in value.values()):
        raise ValueError(f"{name} must hold numbers")


def _check(value: Any, name: str, depth: int) -> None:
    if depth > DEEPEST:
        raise ValueError(f"{name} is nested too deep")
    if isinstance(value, dict | list):
        if len(value) > MOST_ITEMS:
            raise ValueError(f"{name} has more than {MOST_ITEMS} items")
        inner = value.items() if isinstance(value, dict) else ((name, each) for each in value)
        for key, each in inner:
            _check(each, key, depth + 1)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} is no finite number")
    elif isinstance(value, int | float) and abs(value) > _most(name):
        raise ValueError(f"{name}: {value!r:.30} is larger than {_most(name)}")


def _most(name: str) -> int:
    return MOST_LAYERS if any(count in name for count in COUNTS) else MOST_NUMBER
