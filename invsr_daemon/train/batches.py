"""Batches as values: what a step sees is a function of (seed, step, rank), never of what was before."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import IntEnum
from itertools import islice
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

Made = TypeVar("Made")


class Draw(IntEnum):
    """What a generator is for."""

    CROPS = 0
    STEP = 1
    SAMPLE_CROPS = 2
    SAMPLE = 3


def generator(seed: int, step: int, draw: Draw, rank: int = 0) -> np.random.Generator:
    """The one source of randomness of a step's crops, or of everything else in it."""
    return np.random.default_rng([seed, step, draw, rank])


@dataclass(frozen=True)
class Batch:
    """Sharp crops [B,3,H,W], poor ones [N,3,H/4,W/4] of the first N, both in [0,1]; and what draws next."""

    sharp: Tensor
    poor: Tensor
    rng: np.random.Generator

    def to(self, device: torch.device) -> Batch:
        """The same on a device, laid out for convolutions."""
        sharp, poor = (x.to(device, memory_format=torch.channels_last) for x in (self.sharp, self.poor))
        return replace(self, sharp=sharp, poor=poor)


def ahead(make: Callable[[int], Made], steps: Iterable[int], workers: int) -> Generator[Made, None, None]:
    """`make(step)` for every step in turn; with workers in as many threads, two rounds ahead.

    Close it: that ends the threads.
    """
    if workers == 0:
        yield from map(make, steps)
        return
    rest = iter(steps)
    pool = ThreadPoolExecutor(workers)
    try:
        queue: deque[Future[Made]] = deque(pool.submit(make, step) for step in islice(rest, 2 * workers))
        while queue:
            made = queue.popleft().result()
            queue.extend(pool.submit(make, step) for step in islice(rest, 1))
            yield made
    finally:
        pool.shutdown(cancel_futures=True)
