"""The three networks' losses. A stage knows what it trains and how well a batch of crops fits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from diffusers import EulerDiscreteScheduler
from torch import Tensor, nn
from torch.nn import functional

from ..errors import ConfigError
from ..restorers.invsr.compact import CompactAutoencoder, CompactNoisePredictor, CompactUNet
from ..restorers.invsr.noise_predictor import NoisePredictor
from . import degrade, parts
from .batches import Batch
from .config import DataConfig, TrainConfig
from .critics import (
    Discriminator,
    feature_distance,
    generator_loss,
    load_lpips,
    luma_distance,
    texture_distance,
)
from .denoiser import SD_SCHEDULER, Denoiser, normal

UPSAMPLE = 4
PREDICTORS: dict[str, type[nn.Module]] = {"compact": CompactNoisePredictor, "invsr": NoisePredictor}


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

    def poor(self, sharp: Tensor, rng: np.random.Generator) -> Tensor:
        """The poor crops that a batch of sharp ones [B,3,H,W] in [0,1] needs; on the CPU."""
        ...

    def step(self, batch: Batch) -> Outcome:
        """The outcome for a batch on the stage's device; draws from the batch's generator."""
        ...

    def shown(self, batch: Batch) -> tuple[Tensor, ...]:
        """What was given, what is made of it, and the truth: each [B,3,H,W], about [0,1]."""
        ...

    def save(self, folder: Path) -> None:
        """The trained part in diffusers layout."""
        ...


def degraded(sharp: Tensor, data: DataConfig, rng: np.random.Generator) -> Tensor:
    """The LR batch: what is realistically degraded, then noise, then blur, then what is only reduced."""
    shares = np.cumsum([data.realistic, data.noise, data.blur])
    realistic, noise, blur, rest = sharp.tensor_split([round(share * sharp.shape[0]) for share in shares])
    kinds = ((degrade.realistic, realistic), (degrade.any_noise, noise), (degrade.any_blur, blur))
    poor = [degradation(crops, rng) for degradation, crops in kinds if len(crops)]
    return torch.cat([*poor, degrade.bicubic(rest)])


def upsampled(lr: Tensor) -> Tensor:
    """Plain bicubic x4 that may overshoot [0,1], as in restoration."""
    return functional.interpolate(lr, scale_factor=UPSAMPLE, mode="bicubic")


def _placed(network: Any, device: torch.device) -> Any:
    return network.to(device=device, memory_format=torch.channels_last)


def _begun(config: TrainConfig, base: Sequence[Path], name: str, kind: Callable[..., Any]) -> Any:
    """The network to train: base's, or a new one."""
    if config.from_base:
        return parts.grown(parts.network(base, name), config.network)
    return parts.built(kind, config.network)


class AutoencoderStage:
    """L1 reconstruction of sharp crops and, a third of the batch, of upsampled poor ones."""

    discriminator: Discriminator | None = None

    def __init__(self, config: TrainConfig, base: Sequence[Path], device: torch.device) -> None:
        self.config = config
        self.trained = _placed(_begun(config, base, "vae", CompactAutoencoder), device)

    def poor(self, sharp: Tensor, rng: np.random.Generator) -> Tensor:
        return degraded(sharp[: sharp.shape[0] // 3], self.config.data, rng)

    def step(self, batch: Batch) -> Outcome:
        pictures, latents, decoded = self._reconstructed(batch)
        weights = self.config.loss
        pixel = weights.pixel * functional.l1_loss(decoded, pictures)
        return Outcome({"pixel": pixel, "prior": weights.prior * latents.square().mean()})

    def shown(self, batch: Batch) -> tuple[Tensor, ...]:
        pictures, _, decoded = self._reconstructed(batch)
        return (pictures + 1) / 2, (decoded + 1) / 2, batch.sharp

    def _reconstructed(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Pictures in [-1,1], their latents' means, and what the decoder makes of those."""
        given = torch.cat([upsampled(batch.poor), batch.sharp[batch.poor.shape[0] :]])
        pictures = given * 2 - 1
        posterior = self.trained.encode(pictures).latent_dist
        latents = posterior.mean + posterior.std * normal(batch.rng, posterior.mean)
        return pictures, posterior.mean.float(), self.trained.decode(latents).sample.float()

    def save(self, folder: Path) -> None:
        self.trained.save_pretrained(folder / "vae")


class DiffusionStage:
    """Noise prediction on the latents of sharp crops, at the timesteps that InvSR visits."""

    discriminator: Discriminator | None = None

    def __init__(self, config: TrainConfig, base: Sequence[Path], device: torch.device) -> None:
        self.config = config
        self.scheduler = EulerDiscreteScheduler(**SD_SCHEDULER)
        self.autoencoder = _placed(parts.network(base, "vae").requires_grad_(False), device)
        self.trained = _placed(_begun(config, base, "unet", CompactUNet), device)
        self.denoiser = Denoiser.with_scheduler(self.trained, self.scheduler, None, device)

    def poor(self, sharp: Tensor, rng: np.random.Generator) -> Tensor:
        return degrade.bicubic(sharp[:0])

    def step(self, batch: Batch) -> Outcome:
        latents = encoded(self.autoencoder, batch.sharp * 2 - 1)
        return Outcome({"epsilon": self.denoiser.loss(latents, max(self.config.timesteps), batch.rng)})

    def shown(self, batch: Batch) -> tuple[Tensor, ...]:
        latents = encoded(self.autoencoder, batch.sharp * 2 - 1)
        index = torch.full((latents.shape[0],), max(self.config.timesteps) - 1, device=latents.device)
        noisy = latents + self.denoiser.sigma(index) * normal(batch.rng, latents)
        seen = (decoded(self.autoencoder, each) for each in (noisy, self.denoiser.clean(noisy, index)))
        return *((picture + 1) / 2 for picture in seen), batch.sharp

    def save(self, folder: Path) -> None:
        self.trained.save_pretrained(folder / "unet")
        self.scheduler.save_pretrained(folder / "scheduler")


class NoisePredictorStage:
    """InvSR's own training (section 3.3): one step from a random start, through the base's networks."""

    def __init__(self, config: TrainConfig, base: Sequence[Path], device: torch.device) -> None:
        self.config = config
        self.autoencoder = _frozen(
            config, parts.grown(parts.network(base, "vae"), config.autoencoder), device
        )
        unet = _frozen(config, parts.network(base, "unet"), device)
        prompt = parts.prompt(base, unet, device)
        self.denoiser = Denoiser.with_scheduler(unet, parts.scheduler(base), prompt, device)
        predictor = _predictor(config, base, self.autoencoder)
        self.trained = nn.ModuleDict({"noise_predictor": _placed(predictor, device)})
        if "decoder" in config.also_train:
            self.trained["decoder"] = self.autoencoder.decoder.requires_grad_(True)
        if "unet" in config.also_train:
            self.trained["unet"] = unet.requires_grad_(True)
        self.lpips = load_lpips(device) if config.loss.lpips else None
        self.discriminator = _placed(Discriminator(), device) if config.loss.adversarial else None

    def poor(self, sharp: Tensor, rng: np.random.Generator) -> Tensor:
        return degraded(sharp, self.config.data, rng)

    def step(self, batch: Batch) -> Outcome:
        start, latents = self._restored_latents(batch)
        restored = decoded(self.autoencoder, latents)
        sharp = batch.sharp * 2 - 1
        faithful = self._faithful(latents, restored, sharp, batch.rng)
        return Outcome({**faithful, **self._realistic(restored, sharp, start)}, restored)

    def shown(self, batch: Batch) -> tuple[Tensor, ...]:
        _, latents = self._restored_latents(batch)
        return upsampled(batch.poor), (decoded(self.autoencoder, latents) + 1) / 2, batch.sharp

    def _restored_latents(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Start timesteps [B], and the latents after one step from there."""
        start = torch.from_numpy(batch.rng.choice(self.config.timesteps, size=batch.poor.shape[0]))
        start = start.to(batch.poor.device)
        posterior = self.autoencoder.encode(upsampled(batch.poor) * 2 - 1).latent_dist
        mean, std = posterior.mean.float(), posterior.std.float()
        z0 = (mean + std * normal(batch.rng, mean)) * self.autoencoder.config.scaling_factor
        predicted = self.trained["noise_predictor"](batch.poor * 2 - 1, start - 1)
        if predicted.mean.shape != z0.shape:
            shapes = f"{tuple(predicted.mean.shape)}, the latents {tuple(z0.shape)}"
            raise ConfigError(f"network: the noise map would be {shapes}")
        noise = predicted.mean.float() + predicted.std.float() * normal(batch.rng, z0)
        return start, self.denoiser.clean(z0 + self.denoiser.sigma(start - 1) * noise, start - 1)

    def _faithful(
        self, latents: Tensor, restored: Tensor, sharp: Tensor, rng: np.random.Generator
    ) -> dict[str, Tensor]:
        weights, found = self.config.loss, {}
        if weights.pixel:
            found["pixel"] = weights.pixel * functional.l1_loss(restored, sharp)
        if weights.luma:
            found["luma"] = weights.luma * luma_distance(restored, sharp).mean()
        if weights.latent or weights.epsilon:
            target = encoded(self.autoencoder, sharp)
        if weights.latent:
            found["latent"] = weights.latent * functional.mse_loss(latents, target)
        if weights.epsilon:
            found["epsilon"] = weights.epsilon * self.denoiser.loss(target, max(self.config.timesteps), rng)
        return found

    def _realistic(self, restored: Tensor, sharp: Tensor, start: Tensor) -> dict[str, Tensor]:
        weights, found = self.config.loss, {}
        span = max(1, weights.realism_full - weights.realism_none)
        realism = ((start - weights.realism_none) / span).clamp(0, 1).float()
        if weights.perceptual:
            distance = feature_distance(self.autoencoder, restored, sharp)
            found["perceptual"] = weights.perceptual * (realism * distance).mean()
        if self.lpips is not None:
            distance = self.lpips(restored, sharp).flatten().float()
            found["lpips"] = weights.lpips * (realism * distance).mean()
        if weights.texture:
            distance = texture_distance(restored, sharp)
            found["texture"] = weights.texture * (realism * distance).mean()
        if self.discriminator is not None:
            fooled = generator_loss(self.discriminator(restored))
            found["adversarial"] = weights.adversarial * (realism * fooled).mean()
        return found

    def save(self, folder: Path) -> None:
        predictor: Any = self.trained["noise_predictor"]
        predictor.save_pretrained(folder / "noise_predictor")
        if "decoder" in self.config.also_train:
            self.autoencoder.save_pretrained(folder / "vae")
        if "unet" in self.config.also_train:
            self.denoiser.unet.save_pretrained(folder / "unet")


def encoded(autoencoder: Any, pictures: Tensor) -> Tensor:
    """Pictures in [-1,1] -> their latents' means in the sampler's scale, float32."""
    return autoencoder.encode(pictures).latent_dist.mean.float() * autoencoder.config.scaling_factor


def decoded(autoencoder: Any, latents: Tensor) -> Tensor:
    """Latents in the sampler's scale -> pictures in [-1,1], float32."""
    return autoencoder.decode(latents / autoencoder.config.scaling_factor).sample.float()


def _frozen(config: TrainConfig, network: Any, device: torch.device) -> Any:
    if config.gradient_checkpointing:
        try:
            network.enable_gradient_checkpointing()
        except ValueError as error:
            raise ConfigError(f"gradient_checkpointing: {error}") from error
    return _placed(network.requires_grad_(False), device)


def _predictor(config: TrainConfig, base: Sequence[Path], autoencoder: Any) -> Any:
    if config.from_base:
        return parts.grown(parts.noise_predictor(base), config.network)
    kind = config.predictor or ("compact" if isinstance(autoencoder, CompactAutoencoder) else "invsr")
    channels = {"latent_channels": autoencoder.config.latent_channels}
    return parts.built(PREDICTORS[kind], {**channels, **config.network})


STAGES: dict[str, Callable[[TrainConfig, Sequence[Path], torch.device], Stage]] = {
    "autoencoder": AutoencoderStage,
    "diffusion": DiffusionStage,
    "noise_predictor": NoisePredictorStage,
}


def make_stage(config: TrainConfig, base: Sequence[Path], device: torch.device) -> Stage:
    """The configured stage; parts that it builds on come from `base`, later folders first.

    Raises ConfigError or ModelError.
    """
    return STAGES[config.stage](config, base, device)
