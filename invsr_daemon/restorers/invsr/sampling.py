"""Timesteps, sigmas and the denoising loop: pure functions over a diffusers scheduler.

InvSR (Yue et al., CVPR 2025, section 3) starts its reverse process at a timestep of at most 250 and
walks down a short list (see `invsr_daemon.timesteps`). Published timesteps count from one;
`set_timesteps` gets them minus one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from diffusers import EulerDiscreteScheduler
from torch import Tensor


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
