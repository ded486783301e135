"""The embedded model in training: from poor squares to restored ones, as restoration does it in one step."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ...records import BT601_LUMA
from ...restorers.guard import Guard, guarded
from .. import parts
from ..denoiser import Denoiser, normal
from ..export import COMPACT_SETTINGS, SETTINGS
from ..stages import decoded, encoded, upsampled


@dataclass(frozen=True)
class Weights:
    """Of losses. `latent` and `epsilon` keep the parts a diffusion model; they look at `kept_on` squares."""

    pixel: float = 1.0
    slope: float = 0.5
    latent: float = 0.02
    epsilon: float = 0.01
    kept_on: int = 1


class Student:
    """Decoder, UNet and noise predictor learn; the encoder stays, so that latents keep their meaning."""

    def __init__(
        self,
        base: Sequence[Path],
        changes: Mapping[str, Mapping[str, Any]],
        guard: Guard,
        device: torch.device,
    ) -> None:
        """`changes`: constructor arguments of `vae`, `unet` and `noise_predictor` that differ from base's."""
        self.device = device
        autoencoder = parts.grown(parts.network(base, "vae"), changes.get("vae", {}))
        unet = parts.grown(parts.network(base, "unet"), changes.get("unet", {}))
        predictor = parts.grown(parts.noise_predictor(base), changes.get("noise_predictor", {}))
        for network in (autoencoder, unet, predictor):
            network.to(device=device, memory_format=torch.channels_last)
        self.autoencoder, self.predictor, self.guard = autoencoder.requires_grad_(False), predictor, guard
        self.scheduler = parts.scheduler(base)
        self.denoiser = Denoiser.with_scheduler(unet, self.scheduler, None, device)
        self.trained = nn.ModuleDict(
            {
                "decoder": autoencoder.decoder.requires_grad_(True),
                "unet": unet.requires_grad_(True),
                "noise_predictor": predictor.requires_grad_(True),
            }
        )

    def restored(self, poor: Tensor, start: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """[B,3,h,w] in [0,1] and starts [B] -> latents, and pictures [B,3,4h,4w] about [0,1]."""
        enlarged = upsampled(poor)
        posterior = self.autoencoder.encode(enlarged * 2 - 1).latent_dist
        mean, std = posterior.mean.float(), posterior.std.float()
        latents = mean + std * normal(rng, mean)
        predicted = self.predictor(poor * 2 - 1, start - 1)
        noise = predicted.mean.float() + predicted.std.float() * normal(rng, latents)
        latents = self.denoiser.clean(latents + self.denoiser.sigma(start - 1) * noise, start - 1)
        pictures = (decoded(self.autoencoder, latents) + 1) / 2
        return latents, guarded(pictures, enlarged, poor, self.guard)

    def losses(
        self,
        poor: Tensor,
        wanted: Tensor,
        sharp: Tensor,
        start: Tensor,
        weights: Weights,
        rng: np.random.Generator,
    ) -> dict[str, Tensor]:
        """Weighted: pictures shall be as `wanted`, latents as those of `sharp`."""
        latents, pictures = self.restored(poor, start, rng)
        pixel = functional.l1_loss(pictures, wanted)
        found = {"pixel": weights.pixel * pixel, "slope": weights.slope * slope_distance(pictures, wanted)}
        if weights.kept_on:
            some = slice(0, weights.kept_on)
            target = encoded(self.autoencoder, sharp[some] * 2 - 1)
            found["latent"] = weights.latent * functional.mse_loss(latents[some], target)
            found["epsilon"] = weights.epsilon * self.denoiser.loss(target, 300, rng)
        return found

    def save(self, folder: Path) -> None:
        """A model directory, without added detail: the teacher's is in the weights."""
        self.autoencoder.save_pretrained(folder / "vae")
        self.denoiser.unet.save_pretrained(folder / "unet")
        self.predictor.save_pretrained(folder / "noise_predictor")
        self.scheduler.save_pretrained(folder / "scheduler")
        settings = {**COMPACT_SETTINGS, "detail": {}, "guard": asdict(self.guard)}
        (folder / SETTINGS).write_text(json.dumps(settings) + "\n", encoding="utf-8")


def slope_distance(a: Tensor, b: Tensor) -> Tensor:
    """How far luma's differences between neighbours are apart, on the mean: a scalar."""
    weights = torch.tensor(BT601_LUMA, device=a.device)[None, :, None, None]
    apart = ((a - b) * weights).sum(1, keepdim=True)
    across, down = apart.diff(dim=-1), apart.diff(dim=-2)
    return (across.abs().mean() + down.abs().mean()) / 2
