"""One process or many: on which device this one computes, and how gradients become the same in all.

Many processes are started by `accelerate launch` (or torchrun). Each draws batches of its own by its
rank, and after every backward pass the gradients are averaged; everything else is computed alike
everywhere, so weights, averages and optimizers stay equal without being sent. `accelerate` is needed
only there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from ..errors import ConfigError

Device = Literal["auto", "cpu", "cuda"]


class Processes(Protocol):
    """This process among all that train together; rank 0 writes files."""

    @property
    def device(self) -> torch.device: ...

    @property
    def rank(self) -> int: ...

    def average(self, gradients: Sequence[Tensor]) -> None:
        """Replace each by its mean over all processes, which must hand in the same shapes."""
        ...


@dataclass(frozen=True)
class Alone:
    """The only process."""

    device: torch.device
    rank: int = 0

    def average(self, gradients: Sequence[Tensor]) -> None:
        """They are their own mean."""


class Together:
    """One of several processes that `accelerate` has joined."""

    def __init__(self, accelerator: Any) -> None:
        self._accelerator = accelerator
        self.device: torch.device = accelerator.device
        self.rank: int = accelerator.process_index

    def average(self, gradients: Sequence[Tensor]) -> None:
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        mean: Tensor = self._accelerator.reduce(flat, "mean")
        for gradient, part in zip(gradients, mean.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))


@contextmanager
def joined(device: Device) -> Iterator[Processes]:
    """Join the other processes, if this one was launched as one of several.

    Raises ConfigError if there is no such device, or accelerate is missing.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: torch finds no CUDA device here")
    on_cpu = device == "cpu" or not torch.cuda.is_available()
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Alone(torch.device("cpu" if on_cpu else "cuda"))
        return
    if find_spec("accelerate") is None:
        raise ConfigError("several processes need accelerate: pip install 'invsr-daemon[train]'")
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=on_cpu)
    try:
        yield Together(accelerator)
    finally:
        accelerator.end_training()
