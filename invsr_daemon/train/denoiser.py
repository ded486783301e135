"""A diffusion UNet with its schedule and text condition: what it makes of noisy latents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from diffusers import EulerDiscreteScheduler
from torch import Tensor
from torch.nn import functional

from ..errors import ModelError
from ..restorers.invsr.sampling import training_sigmas

Prediction = Literal["epsilon", "v_prediction"]
# Stable Diffusion's schedule, as SD-Turbo has it.
SD_SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "timestep_spacing": "trailing",
    "steps_offset": 1,
}


def normal(rng: np.random.Generator, like: Tensor) -> Tensor:
    """Standard normal draws, float32, of a tensor's shape and on its device."""
    return torch.from_numpy(rng.standard_normal(like.shape, dtype=np.float32)).to(like.device)


@dataclass(frozen=True)
class Denoiser:
    """Latents [B,C,h,w] are in the sampler's scale (clean + sigma · noise); indices [B] count from 0.

    `prompt` is [1,tokens,C], `sigmas` [trained timesteps].
    """

    unet: Any
    sigmas: Tensor
    prediction: Prediction = "epsilon"
    prompt: Tensor | None = None

    @classmethod
    def with_scheduler(
        cls, unet: Any, scheduler: EulerDiscreteScheduler, prompt: Tensor | None, device: torch.device
    ) -> Denoiser:
        """Raises ModelError if the scheduler asks for another kind of prediction."""
        kind = scheduler.config.prediction_type
        if kind not in ("epsilon", "v_prediction"):
            raise ModelError(f"the scheduler's prediction_type {kind!r} is neither epsilon nor v_prediction")
        return cls(unet, training_sigmas(scheduler).to(device), kind, prompt)

    def sigma(self, index: Tensor) -> Tensor:
        """[B,1,1,1]."""
        return self.sigmas[index][:, None, None, None]

    def noise(self, noisy: Tensor, index: Tensor) -> Tensor:
        """The noise that the UNet finds, float32.

        With c = 1 / sqrt(1 + sigma²), v = c · noise − c · sigma · clean (Salimans and Ho 2022), which
        the scaled latents c · clean + c · sigma · noise complete.
        """
        sigma = self.sigma(index)
        scaled = noisy / (sigma**2 + 1).sqrt()
        condition = {}
        if self.prompt is not None:
            condition["encoder_hidden_states"] = self.prompt.expand(noisy.shape[0], -1, -1)
        predicted: Tensor = self.unet(scaled, index, **condition).sample.float()
        if self.prediction == "epsilon":
            return predicted
        return (predicted + sigma * scaled) / (sigma**2 + 1).sqrt()

    def clean(self, noisy: Tensor, index: Tensor) -> Tensor:
        """One Euler step down to zero, as in restoration with one timestep."""
        return noisy - self.sigma(index) * self.noise(noisy, index)

    def loss(self, latents: Tensor, below: int, rng: np.random.Generator) -> Tensor:
        """How far the noise found in noisy `latents` is from what was added, a scalar.

        Noise is added at random timesteps up to `below`.
        """
        index = torch.from_numpy(rng.integers(0, below, size=latents.shape[0])).to(latents.device)
        noise = normal(rng, latents)
        return functional.mse_loss(self.noise(latents + self.sigma(index) * noise, index), noise)
