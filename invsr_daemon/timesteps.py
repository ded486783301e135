"""Published timestep lists (InvSR, CVPR 2025). Published timesteps count from one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

TRAINED_TIMESTEPS = 1000
LARGEST_START = 250
_PUBLISHED: dict[int, tuple[int, ...]] = {
    1: (200,),
    2: (200, 100),
    3: (200, 100, 50),
    4: (200, 150, 100, 50),
    5: (250, 200, 150, 100, 50),
}


def default_timesteps(steps: int) -> tuple[int, ...]:
    """The published list for 1 to 5 steps; evenly spaced from 250 down for more (at most 250)."""
    if not 1 <= steps <= LARGEST_START:
        raise ValueError(f"steps must be from 1 to {LARGEST_START}, not {steps}")
    if steps in _PUBLISHED:
        return _PUBLISHED[steps]
    return tuple(round(LARGEST_START * (steps - i) / steps) for i in range(steps))


def check_timesteps(timesteps: Sequence[int], trained: int = TRAINED_TIMESTEPS) -> tuple[int, ...]:
    """The list itself, if it descends strictly within trained..1; else ValueError."""
    descending = all(a > b for a, b in pairwise(timesteps))
    if not timesteps or not descending or timesteps[-1] < 1 or timesteps[0] > trained:
        raise ValueError(f"timesteps must descend strictly within {trained}..1, not {list(timesteps)}")
    return tuple(timesteps)
