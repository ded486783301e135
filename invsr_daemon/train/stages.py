"""The three networks' losses. A stage knows what it trains and how well a batch of crops fits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from diffusers import EulerDiscreteScheduler
from torch import Tensor, nn
from torch.nn import functional

from ..model.compact import CompactAutoencoder, CompactNoisePredictor, CompactUNet
from ..model.sampling import training_sigmas
from . import degrade
from .config import TrainConfig

UPSAMPLE = 4
SD_SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "timestep_spacing": "trailing",
    "steps_offset": 1,
}


class Stage(Protocol):
    """One network's training: `trained` receives gradients, `losses` are summed."""

    @property
    def trained(self) -> nn.Module: ...

    def losses(self, sharp: Tensor, step: int) -> dict[str, Tensor]:
        """Named, weighted losses of a batch of sharp crops [B,3,H,W] in [0,1] at a step."""

    def save(self, folder: Path, averaged: dict[str, Tensor]) -> None:
        """The trained part in diffusers layout, with averaged weights."""


@torch.autocast("cpu", enabled=False)
def degraded(sharp: Tensor, share: float, rng: np.random.Generator) -> Tensor:
    """The LR batch: the first `share` of it realistically degraded, the rest reduced."""
    split = round(share * sharp.shape[0])
    parts = [degrade.realistic(sharp[:split], rng)] if split else []
    if split < sharp.shape[0]:
        parts.append(degrade.bicubic(sharp[split:]))
    return torch.cat(parts)


def upsampled(lr: Tensor) -> Tensor:
    """Plain bicubic x4, as in restoration."""
    return functional.interpolate(lr, scale_factor=UPSAMPLE, mode="bicubic").clamp(0, 1)


def _frozen(kind: Any, folder: Path) -> Any:
    return kind.from_pretrained(folder).requires_grad_(False).to(memory_format=torch.channels_last)


class AutoencoderStage:
    """L1 reconstruction of sharp crops and, a third of the batch, of upsampled poor ones."""

    def __init__(self, config: TrainConfig, base: Path) -> None:
        self.config = config
        self.trained = CompactAutoencoder(**config.network)

    def losses(self, sharp: Tensor, step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([self.config.seed, step, 1])
        third = sharp.shape[0] // 3
        poor = upsampled(degraded(sharp[:third], self.config.data.realistic, rng))
        pictures = torch.cat([poor, sharp[third:]]) * 2 - 1
        mean = self.trained.encode(pictures).latent_dist.mean
        noise = torch.from_numpy(rng.standard_normal(mean.shape, dtype=np.float32))
        decoded = self.trained.decode(mean + noise * self.trained.config.posterior_std).sample
        return {
            "pixel": self.config.loss.pixel * functional.l1_loss(decoded.float(), pictures),
            "prior": self.config.loss.prior * mean.float().square().mean(),
        }

    def save(self, folder: Path, averaged: dict[str, Tensor]) -> None:
        self.trained.load_state_dict(averaged)
        self.trained.save_pretrained(folder / "vae")


class DiffusionStage:
    """Epsilon prediction on the latents of sharp crops at the timesteps InvSR visits."""

    def __init__(self, config: TrainConfig, base: Path) -> None:
        self.config = config
        self.autoencoder = _frozen(CompactAutoencoder, base / "vae")
        self.trained = CompactUNet(**config.network)
        self.sigmas = training_sigmas(EulerDiscreteScheduler(**SD_SCHEDULER))

    def losses(self, sharp: Tensor, step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([self.config.seed, step, 1])
        latents = self.autoencoder.encode(sharp * 2 - 1).latent_dist.mean.float()
        latents = latents * self.autoencoder.config.scaling_factor
        noise = torch.from_numpy(rng.standard_normal(latents.shape, dtype=np.float32))
        index = torch.from_numpy(rng.integers(0, max(self.config.timesteps), size=sharp.shape[0]))
        sigma = self.sigmas[index][:, None, None, None]
        scaled = (latents + sigma * noise) / (sigma**2 + 1).sqrt()
        predicted = self.trained(scaled, index).sample
        return {"epsilon": functional.mse_loss(predicted.float(), noise)}

    def save(self, folder: Path, averaged: dict[str, Tensor]) -> None:
        self.trained.load_state_dict(averaged)
        self.trained.save_pretrained(folder / "unet")
        EulerDiscreteScheduler(**SD_SCHEDULER).save_pretrained(folder / "scheduler")


class NoisePredictorStage:
    """InvSR's own training (section 3.3): one step from a random start, through frozen networks."""

    def __init__(self, config: TrainConfig, base: Path) -> None:
        self.config = config
        self.autoencoder: Any = _frozen(CompactAutoencoder, base / "vae")
        self.unet: Any = _frozen(CompactUNet, base / "unet")
        self.sigmas = training_sigmas(EulerDiscreteScheduler(**SD_SCHEDULER))
        self.trained = nn.ModuleDict({"noise_predictor": CompactNoisePredictor(**config.network)})
        if "decoder" in config.also_train:
            self.trained["decoder"] = self.autoencoder.decoder.requires_grad_(True)
        if "unet" in config.also_train:
            self.trained["unet"] = self.unet.requires_grad_(True)

    def losses(self, sharp: Tensor, step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([self.config.seed, step, 1])
        lr = degraded(sharp, self.config.data.realistic, rng)
        scale = self.autoencoder.config.scaling_factor
        start = self.autoencoder.encode(upsampled(lr) * 2 - 1).latent_dist.mean.float() * scale
        eps = torch.from_numpy(rng.standard_normal((2, *start.shape), dtype=np.float32))
        start = start + eps[0] * self.autoencoder.config.posterior_std * scale

        index = torch.from_numpy(rng.choice(self.config.timesteps, size=sharp.shape[0])) - 1
        sigma = self.sigmas[index][:, None, None, None]
        noise = self.trained["noise_predictor"](lr * 2 - 1, index)
        latents = start + sigma * (noise.mean.float() + noise.std.float() * eps[1])
        predicted = self.unet(latents / (sigma**2 + 1).sqrt(), index).sample.float()
        restored = latents - sigma * predicted

        weights = self.config.loss
        found = {}
        if weights.pixel:
            decoded = self.autoencoder.decode(restored / scale).sample.float()
            found["pixel"] = weights.pixel * functional.l1_loss(decoded, sharp * 2 - 1)
        if weights.latent:
            target = self.autoencoder.encode(sharp * 2 - 1).latent_dist.mean.float() * scale
            found["latent"] = weights.latent * functional.mse_loss(restored, target)
        return found

    def save(self, folder: Path, averaged: dict[str, Tensor]) -> None:
        self.trained.load_state_dict(averaged)
        predictor: Any = self.trained["noise_predictor"]
        predictor.save_pretrained(folder / "noise_predictor")
        if "decoder" in self.config.also_train:
            self.autoencoder.save_pretrained(folder / "vae")
        if "unet" in self.config.also_train:
            self.unet.save_pretrained(folder / "unet")


STAGES: dict[str, Callable[[TrainConfig, Path], Stage]] = {
    "autoencoder": AutoencoderStage,
    "diffusion": DiffusionStage,
    "noise_predictor": NoisePredictorStage,
}


def make_stage(config: TrainConfig, base: Path) -> Stage:
    """The configured stage, its frozen parts loaded from `base` (diffusers layout)."""
    return STAGES[config.stage](config, base)
