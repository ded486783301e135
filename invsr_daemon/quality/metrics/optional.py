"""Metrics of other people's networks: LPIPS, CLIP-IQA, MUSIQ.

Offered only where their library is installed and its weights are on this machine already. Nothing is
ever downloaded, and nothing here is required. Their licences are their own (pyiqa's is non-commercial).
"""

from __future__ import annotations

import importlib
import importlib.util
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# A restored picture and, where the metric needs it, the truth: [1,3,H,W] in [0,1].
Measure = Callable[[Tensor, Tensor | None], float]


@dataclass(frozen=True)
class OptionalMetric:
    """A metric that can be measured here; `needs_truth` if it compares."""

    name: str
    needs_truth: bool
    measure: Measure


@dataclass(frozen=True)
class Offer:
    """What can be measured here, and why the others cannot, by name."""

    available: tuple[OptionalMetric, ...]
    missing: dict[str, str]


@dataclass(frozen=True)
class _Known:
    name: str
    library: str
    needs_truth: bool
    load: Callable[[Any, torch.device], Measure]


def optional_metrics(device: torch.device) -> Offer:
    """Load what can be loaded offline."""
    available: list[OptionalMetric] = []
    missing: dict[str, str] = {}
    for known in _KNOWN:
        if importlib.util.find_spec(known.library) is None:
            missing[known.name] = f"the library {known.library} is not installed"
            continue
        try:
            with _offline():
                measure = known.load(importlib.import_module(known.library), device)
        except Exception as error:  # whatever a foreign library raises without its weights
            reason = (str(error) or type(error).__name__).splitlines()[0]
            missing[known.name] = f"{known.library} cannot load it offline: {reason}"
        else:
            available.append(OptionalMetric(known.name, known.needs_truth, measure))
    return Offer(tuple(available), missing)


def _lpips(library: Any, device: torch.device) -> Measure:
    """LPIPS with AlexNet (Zhang et al., CVPR 2018); lower is better."""
    network = library.LPIPS(net="alex", verbose=False).to(device).eval()

    def measure(restored: Tensor, truth: Tensor | None) -> float:
        assert truth is not None
        with torch.inference_mode():
            return float(network(restored.to(device) * 2 - 1, truth.to(device) * 2 - 1))

    return measure


def _pyiqa(name: str) -> Callable[[Any, torch.device], Measure]:
    def load(library: Any, device: torch.device) -> Measure:
        network = library.create_metric(name, device=device)

        def measure(restored: Tensor, truth: Tensor | None) -> float:
            with torch.inference_mode():
                return float(network(restored.to(device)))

        return measure

    return load


# CLIP-IQA: Wang et al., AAAI 2023. MUSIQ: Ke et al., ICCV 2021. Both without reference; higher is better.
_KNOWN = (
    _Known("LPIPS", "lpips", True, _lpips),
    _Known("CLIP-IQA", "pyiqa", False, _pyiqa("clipiqa")),
    _Known("MUSIQ", "pyiqa", False, _pyiqa("musiq")),
)


@contextmanager
def _offline() -> Iterator[None]:
    """No host can be found: these libraries would download weights unasked."""

    def refused(*_: object, **__: object) -> Any:
        raise OSError("its weights are not on this machine")

    kept = socket.getaddrinfo
    socket.getaddrinfo = refused
    try:
        yield
    finally:
        socket.getaddrinfo = kept
