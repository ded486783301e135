"""Timesteps, sigmas and the denoising loop: pure functions over a diffusers scheduler.

InvSR (Yue et al., CVPR 2025, section 3) starts its reverse process at a timestep of at most 250 and
walks down a short list. Published timesteps count from one; `set_timesteps` gets them minus one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from diffusers import EulerDiscreteScheduler
from torch import Tensor

DEFAULT_TIMESTEPS: dict[int, tuple[int, ...]] = {
    1: (200,),
    2: (200, 100),
    3: (200, 100, 50),
    4: (200, 150, 100, 50),
    5: (250, 200, 150, 100, 50),
}
LARGEST_START = 250


def default_timesteps(steps: int) -> tuple[int, ...]:
    """The published list for 1 to 5 steps; evenly spaced from 250 down for more (at most 250)."""
    if not 1 <= steps <= LARGEST_START:
        raise ValueError(f"steps must be from 1 to {LARGEST_START}, not {steps}")
    if steps in DEFAULT_TIMESTEPS:
        return DEFAULT_TIMESTEPS[steps]
    return tuple(round(LARGEST_START * (steps - i) / steps) for i in range(steps))


def check_timesteps(timesteps: Sequence[int], trained: int = 1000) -> tuple[int, ...]:
    """The list itself, if it descends strictly within 1..trained; else ValueError."""
    descending = all(a > b for a, b in zip(timesteps, timesteps[1:], strict=False))
    if not timesteps or not descending or not (1 <= timesteps[-1] and timesteps[0] <= trained):
        raise ValueError(f"timesteps must descend strictly within {trained}..1, not {list(timesteps)}")
    return tuple(timesteps)


def training_sigmas(scheduler: EulerDiscreteScheduler) -> Tensor:
    """sigma[i] = sqrt((1 - a_i) / a_i) for the cumulative alphas a_i, float32 [trained timesteps]."""
    cumulative: Tensor = scheduler.alphas_cumprod
    return ((1 - cumulative) / cumulative).sqrt()


def scheduler_at(
    scheduler: EulerDiscreteScheduler, timesteps: Sequence[int], device: torch.device
) -> EulerDiscreteScheduler:
    """A scheduler of one's own, set to published `timesteps` (the original keeps its state)."""
    own = copy.deepcopy(scheduler)
    own.set_timesteps(timesteps=[t - 1 for t in timesteps], device=device)
    return own


def denoise(
    scheduler: EulerDiscreteScheduler,
    predict: Callable[[Tensor, Tensor], Tensor],
    latents: Tensor,
    noise: Tensor,
) -> Tensor:
    """Add `noise` to `latents` at the scheduler's first timestep and walk down to zero.

    `scheduler` comes fresh from `scheduler_at`; `predict(scaled latents, timestep)` is the UNet's
    output (epsilon or v, as the scheduler is configured). Latents and noise: [B,C,h,w]. The Euler
    step without churn draws no randomness (Karras et al. 2022, algorithm 2 with S_churn = 0).
    """
    start = scheduler.timesteps[:1].expand(latents.shape[0])
    latents = scheduler.add_noise(latents, noise, start)
    for timestep in scheduler.timesteps:
        prediction = predict(scheduler.scale_model_input(latents, timestep), timestep)
        latents = scheduler.step(prediction, timestep, latents, return_dict=False)[0]
    return latents
