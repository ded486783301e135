"""InvSR: arbitrary-steps super-resolution by diffusion inversion (Yue et al., CVPR 2025).

A low-resolution picture is upsampled and encoded to latents z0. The noise predictor looks at the
picture and predicts the noise map from which the diffusion model reaches the sharp picture
("partial noise prediction", section 3.2). z0 plus that noise is denoised in 1 to 5 steps and
decoded.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from ...timesteps import check_timesteps
from ..detail import Detail
from ..guard import guarded
from ..noise import Draw
from ..options import Options
from ..protocol import Restorer
from .loading import Parts
from .sampling import denoise, scheduler_at


class InvSRNetworks(Restorer):
    """The three networks on one device: tiles in, tiles four times as large out."""

    scale = 4
    precisions = (torch.float32, torch.float16, torch.bfloat16)

    def __init__(self, parts: Parts, device: torch.device, dtype: torch.dtype) -> None:
        self.parts = parts
        self.device = device
        self.dtype = dtype
        self.tiling = parts.tiling
        channels = parts.vae.config.latent_channels
        self.draws = (Draw("noise_predictor", channels), Draw("vae", channels))
        self.networks = {"vae": parts.vae, "unet": parts.unet, "noise_predictor": parts.noise_predictor}

    def check(self, options: Options) -> None:
        """Raise ValueError if the timesteps are beyond the model's."""
        check_timesteps(options.timesteps, self.parts.scheduler.config.num_train_timesteps)

    def detail(self, options: Options) -> Detail:
        return self.parts.detail.at(options.timesteps[0])

    def restore_tiles(
        self, tiles: Tensor, draws: Mapping[str, Tensor], options: Options, dtype: torch.dtype
    ) -> Tensor:
        vae = self.parts.vae
        scheduler = scheduler_at(self.parts.scheduler, options.timesteps, self.device)
        scaling = vae.config.scaling_factor
        upsampled = functional.interpolate(tiles, scale_factor=self.scale, mode="bicubic")
        posterior = vae.encode((upsampled * 2 - 1).to(dtype)).latent_dist
        latents = (posterior.mean + posterior.std * draws["vae"].to(posterior.mean)) * scaling
        predicted = self.parts.noise_predictor((tiles * 2 - 1).to(dtype), scheduler.timesteps[0])
        noise = predicted.mean + predicted.std * draws["noise_predictor"].to(predicted.mean)

        def predict(latents: Tensor, timestep: Tensor) -> Tensor:
            return self._predict(latents, timestep, options.guidance_scale)

        latents = denoise(scheduler, predict, latents, noise)
        decoded = vae.decode(latents.to(dtype) / scaling).sample.float()
        pictures = (decoded + 1) / 2
        guard = self.parts.guard
        return pictures if guard is None else guarded(pictures, upsampled, tiles, guard)

    def _predict(self, latents: Tensor, timestep: Tensor, guidance_scale: float) -> Tensor:
        """The UNet's output, guided away from the negative prompt if the scale is above one."""
        unet, prompt = self.parts.unet, self.parts.prompt
        if prompt is None:
            return unet(latents, timestep).sample
        positive = prompt.positive.to(latents.dtype).expand(latents.shape[0], -1, -1)
        wanted = unet(latents, timestep, encoder_hidden_states=positive).sample
        if guidance_scale <= 1.0:
            return wanted
        negative = prompt.negative.to(latents.dtype).expand(latents.shape[0], -1, -1)
        unwanted = unet(latents, timestep, encoder_hidden_states=negative).sample
        return unwanted + guidance_scale * (wanted - unwanted)
