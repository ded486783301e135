"""The three networks' losses. A stage knows what it trains and how well a batch of crops fits."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
from .critics import Discriminator, feature_distance, generator_loss
from .parts import part

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


@dataclass(frozen=True)
class Outcome:
    """A step's named, weighted losses, and the pictures [B,3,H,W] in [-1,1] for a discriminator."""

    losses: dict[str, Tensor]
    restored: Tensor | None = None


class Stage(Protocol):
    """One network's training: `trained` receives the gradients of the losses' sum."""

    @property
    def trained(self) -> nn.Module: ...

    @property
    def discriminator(self) -> Discriminator | None: ...

    def step(self, sharp: Tensor, step: int) -> Outcome:
        """The outcome for a batch of sharp crops [B,3,H,W] in [0,1] at a step."""
        ...

    def save(self, folder: Path, averaged: dict[str, Tensor]) -> None:
        """The trained part in diffusers layout, with averaged weights."""
        ...


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

    discriminator: Discriminator | None = None

    def __init__(self, config: TrainConfig, base: Sequence[Path]) -> None:
        self.config = config
        self.trained = CompactAutoencoder(**config.network)

    def step(self, sharp: Tensor, step: int) -> Outcome:
        rng = np.random.default_rng([self.config.seed, step, 1])
        third = sharp.shape[0] // 3
        poor = upsampled(degraded(sharp[:third], self.config.data.realistic, rng))
        pictures = torch.cat([poor, sharp[third:]]) * 2 - 1
        mean = self.trained.encode(pictures).latent_dist.mean
        noise = torch.from_numpy(rng.standard_normal(mean.shape, dtype=np.float32))
        decoded = self.trained.decode(mean + noise * self.trained.config.posterior_std).sample
        pixel = self.config.loss.pixel * functional.l1_loss(decoded.float(), pictures)
        return Outcome({"pixel": pixel, "prior": self.config.loss.prior * mean.float().square().mean()})

    def save(self, folder: Path, averaged: dict[str, Tensor]) -> None:
        self.trained.load_state_dict(averaged)
        self.trained.save_pretrained(folder / "vae")


class DiffusionStage:
    """Epsilon prediction on the latents of sharp crops at the timesteps InvSR visits."""

    discriminator: Discriminator | None = None

    def __init__(self, config: TrainConfig, base: Sequence[Path]) -> None:
        self.config = config
        self.autoencoder = _frozen(CompactAutoencoder, part(base, "vae"))
        self.trained = CompactUNet(**config.network)
        self.sigmas = training_sigmas(EulerDiscreteScheduler(**SD_SCHEDULER))

    def step(self, sharp: Tensor, step: int) -> Outcome:
        rng = np.random.default_rng([self.config.seed, step, 1])
        latents = self.autoencoder.encode(sharp * 2 - 1).latent_dist.mean.float()
        latents = latents * self.autoencoder.config.scaling_factor
        noise = torch.from_numpy(rng.standard_normal(latents.shape, dtype=np.float32))
        index = torch.from_numpy(rng.integers(0, max(self.config.timesteps), size=sharp.shape[0]))
        sigma = self.sigmas[index][:, None, None, None]
        scaled = (latents + sigma * noise) / (sigma**2 + 1).sqrt()
        predicted = self.trained(scaled, index).sample
        return Outcome({"epsilon": functional.mse_loss(predicted.float(), noise)})

    def save(self, folder: Path, averaged: dict[str, Tensor]) -> None:
        self.trained.load_state_dict(averaged)
        self.trained.save_pretrained(folder / "unet")
        EulerDiscreteScheduler(**SD_SCHEDULER).save_pretrained(folder / "scheduler")


class NoisePredictorStage:
    """InvSR's own training (section 3.3): one step from a random start, through the base's networks."""

    def __init__(self, config: TrainConfig, base: Sequence[Path]) -> None:
        self.config = config
        self.autoencoder = _frozen(CompactAutoencoder, part(base, "vae"))
        self.critic_features = copy.deepcopy(self.autoencoder)
        self.unet = _frozen(CompactUNet, part(base, "unet"))
        self.sigmas = training_sigmas(EulerDiscreteScheduler(**SD_SCHEDULER))
        if config.from_base:
            predictor = CompactNoisePredictor.from_pretrained(part(base, "noise_predictor"))
        else:
            predictor = CompactNoisePredictor(**config.network)
        self.trained = nn.ModuleDict({"noise_predictor": predictor})
        if "decoder" in config.also_train:
            self.trained["decoder"] = self.autoencoder.decoder.requires_grad_(True)
        if "unet" in config.also_train:
            self.trained["unet"] = self.unet.requires_grad_(True)
        self.discriminator = Discriminator() if config.loss.adversarial else None

    def step(self, sharp: Tensor, step: int) -> Outcome:
        rng = np.random.default_rng([self.config.seed, step, 1])
        lr = degraded(sharp, self.config.data.realistic, rng)
        start = torch.from_numpy(rng.choice(self.config.timesteps, size=sharp.shape[0]))
        latents = self._restored_latents(lr, start - 1, rng)
        decoded = self.autoencoder.decode(latents / self.autoencoder.config.scaling_factor).sample.float()
        return Outcome(self._losses(latents, decoded, sharp * 2 - 1, start), decoded)

    def _restored_latents(self, lr: Tensor, index: Tensor, rng: np.random.Generator) -> Tensor:
        """One Euler step from the start down to zero, as in restoration with one timestep."""
        scale = self.autoencoder.config.scaling_factor
        z0 = self.autoencoder.encode(upsampled(lr) * 2 - 1).latent_dist.mean.float() * scale
        eps = torch.from_numpy(rng.standard_normal((2, *z0.shape), dtype=np.float32))
        z0 = z0 + eps[0] * self.autoencoder.config.posterior_std * scale
        sigma = self.sigmas[index][:, None, None, None]
        noise = self.trained["noise_predictor"](lr * 2 - 1, index)
        noisy = z0 + sigma * (noise.mean.float() + noise.std.float() * eps[1])
        predicted = self.unet(noisy / (sigma**2 + 1).sqrt(), index).sample.float()
        return noisy - sigma * predicted

    def _losses(self, latents: Tensor, decoded: Tensor, sharp: Tensor, start: Tensor) -> dict[str, Tensor]:
        weights = self.config.loss
        span = max(1, weights.realism_full - weights.realism_none)
        realism = ((start - weights.realism_none) / span).clamp(0, 1).float()
        found = {}
        if weights.pixel:
            found["pixel"] = weights.pixel * functional.l1_loss(decoded, sharp)
        if weights.latent:
            target = self.autoencoder.encode(sharp).latent_dist.mean.float()
            target = target * self.autoencoder.config.scaling_factor
            found["latent"] = weights.latent * functional.mse_loss(latents, target)
        if weights.perceptual:
            distance = feature_distance(self.critic_features, decoded, sharp)
            found["perceptual"] = weights.perceptual * (realism * distance).mean()
        if self.discriminator is not None:
            fooled = generator_loss(self.discriminator(decoded))
            found["adversarial"] = weights.adversarial * (realism * fooled).mean()
        return found

    def save(self, folder: Path, averaged: dict[str, Tensor]) -> None:
        self.trained.load_state_dict(averaged)
        predictor: Any = self.trained["noise_predictor"]
        predictor.save_pretrained(folder / "noise_predictor")
        if "decoder" in self.config.also_train:
            self.autoencoder.save_pretrained(folder / "vae")
        if "unet" in self.config.also_train:
            self.unet.save_pretrained(folder / "unet")


STAGES: dict[str, Callable[[TrainConfig, Sequence[Path]], Stage]] = {
    "autoencoder": AutoencoderStage,
    "diffusion": DiffusionStage,
    "noise_predictor": NoisePredictorStage,
}


def make_stage(config: TrainConfig, base: Sequence[Path]) -> Stage:
    """The configured stage; parts that it builds on come from `base`, later folders first."""
    return STAGES[config.stage](config, base)
