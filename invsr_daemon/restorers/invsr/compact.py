"""The networks of the embedded model: small, convolutional, at home at 1/8 resolution.

They take the places of Stable Diffusion's autoencoder, UNet and InvSR's noise predictor and keep
their call signatures, so that `InvSR` runs both kinds through the same code. Every convolution
works at a quarter of the picture's resolution or below, which is what makes them quick on a CPU.
"""

from __future__ import annotations

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """x + conv(silu(conv(silu(x)) · (1 + scale) + shift)); scale and shift come from the time embedding.

    Unnormalised, as in EDSR (Lim et al. 2017): normalisation costs restoration networks contrast.
    """

    def __init__(self, channels: int, time_channels: int = 0) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]
        self.time = nn.Linear(time_channels, 2 * channels) if time_channels else None
        if self.time is not None:
            nn.init.zeros_(self.time.weight)
            nn.init.zeros_(self.time.bias)

    def forward(self, x: Tensor, time_embedding: Tensor | None = None) -> Tensor:
        h = self.conv1(nn.functional.silu(x))
        if self.time is not None:
            scale, shift = self.time(time_embedding)[:, :, None, None].chunk(2, dim=1)
            h = torch.addcmul(shift, h, 1 + scale)
        h = self.conv2(nn.functional.silu(h, inplace=True))
        return h.add_(x)  # in place: fresh memory for every sum costs more than the sum


class TimeEmbedding(nn.Module):
    """Sinusoidal features of the timestep, then two linear layers: [B] -> [B, channels]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(channels, channels)
        self.linear2 = nn.Linear(channels, channels)
        self.channels = channels

    def forward(self, timesteps: Tensor, like: Tensor) -> Tensor:
        if timesteps.ndim == 0:
            timesteps = timesteps.expand(like.shape[0])
        features = get_timestep_embedding(timesteps.to(like.device), self.channels).to(like.dtype)
        return nn.functional.silu(self.linear2(nn.functional.silu(self.linear1(features))))


class CompactDecoder(nn.Module):
    """Latents [B,C,h,w] -> pictures [B,3,8h,8w]: residual blocks at 1/8, then at 1/4 of the size."""

    def __init__(self, latent_channels: int, width: int, width_quarter: int, blocks: tuple[int, int]) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(latent_channels, width, 3, padding=1)
        self.eighth = nn.Sequential(*(ResidualBlock(width) for _ in range(blocks[0])))
        self.widen = nn.Conv2d(width, 4 * width_quarter, 1)
        self.quarter = nn.Sequential(*(ResidualBlock(width_quarter) for _ in range(blocks[1])))
        self.conv_out = nn.Conv2d(width_quarter, 48, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        h = self.widen(self.eighth(self.conv_in(latents)))
        h = self.quarter(nn.functional.pixel_shuffle(h, 2))
        return nn.functional.pixel_shuffle(self.conv_out(h), 4)


class CompactAutoencoder(ModelMixin, ConfigMixin):
    """Pictures [B,3,H,W] in [-1,1] <-> latents [B,latent_channels,H/8,W/8]; H and W multiples of 8.

    The posterior's deviation is one constant, `posterior_std` (before `scaling_factor`): training
    adds that much noise, so that the decoder bears what the denoiser leaves.
    """

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 16,
        width: int = 128,
        width_quarter: int = 64,
        encoder_blocks: tuple[int, int] = (2, 2),
        decoder_blocks: tuple[int, int] = (4, 3),
        posterior_std: float = 0.05,
        scaling_factor: float = 1.0,
    ) -> None:
        super().__init__()
        quarter, eighth = encoder_blocks
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(4),
            nn.Conv2d(48, width_quarter, 3, padding=1),
            *(ResidualBlock(width_quarter) for _ in range(quarter)),
            nn.PixelUnshuffle(2),
            nn.Conv2d(4 * width_quarter, width, 1),
            *(ResidualBlock(width) for _ in range(eighth)),
            nn.Conv2d(width, latent_channels, 3, padding=1),
        )
        self.decoder = CompactDecoder(latent_channels, width, width_quarter, decoder_blocks)

    def encode(self, x: Tensor) -> AutoencoderKLOutput:
        """The latents' distribution, unscaled, as diffusers' autoencoders give it."""
        mean = self.encoder(x)
        log_variance = torch.full_like(mean, self.config.posterior_std).log() * 2
        posterior = DiagonalGaussianDistribution(torch.cat([mean, log_variance], dim=1))
        return AutoencoderKLOutput(latent_dist=posterior)

    def decode(self, latents: Tensor) -> DecoderOutput:
        """Pictures from unscaled latents."""
        return DecoderOutput(sample=self.decoder(latents))


class CompactUNet(ModelMixin, ConfigMixin):
    """Epsilon prediction in latent space: [B,C,h,w] and a timestep -> [B,C,h,w]; unconditional.

    `in_channels` latents pass through residual blocks at one resolution; the shallow stack has no
    skips to make, and the name stays because the place in the pipeline is the UNet's.
    """

    @register_to_config
    def __init__(self, in_channels: int = 16, width: int = 128, depth: int = 4) -> None:
        super().__init__()
        self.time_embedding = TimeEmbedding(width)
        self.conv_in = nn.Conv2d(in_channels, width, 3, padding=1)
        self.blocks = nn.ModuleList(ResidualBlock(width, time_channels=width) for _ in range(depth))
        self.conv_out = nn.Conv2d(width, in_channels, 3, padding=1)

    def forward(
        self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor | None = None
    ) -> UNet2DConditionOutput:
        embedding = self.time_embedding(timestep, sample)
        h = self.conv_in(sample)
        for block in self.blocks:
            h = block(h, embedding)
        return UNet2DConditionOutput(sample=self.conv_out(h))


class CompactNoisePredictor(ModelMixin, ConfigMixin):
    """LR pictures [B,3,h,w] in [-1,1] and a timestep -> the noise map's distribution, [B,C,h/2,w/2].

    Residual blocks see the picture at half its resolution; `full_depth` more, `full_width` wide, see
    every pixel first, and their findings are added before the others begin.
    """

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 16,
        width: int = 128,
        depth: int = 6,
        full_width: int = 64,
        full_depth: int = 0,
    ) -> None:
        super().__init__()
        self.time_embedding = TimeEmbedding(width)
        self.unshuffle = nn.PixelUnshuffle(2)
        self.conv_in = nn.Conv2d(12, width, 3, padding=1)
        self.full = _full_resolution(full_width, full_depth, width) if full_depth else None
        self.blocks = nn.ModuleList(ResidualBlock(width, time_channels=width) for _ in range(depth))
        self.conv_out = nn.Conv2d(width, 2 * latent_channels, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, timestep: Tensor) -> DiagonalGaussianDistribution:
        embedding = self.time_embedding(timestep, x)
        h = self.conv_in(self.unshuffle(x))
        if self.full is not None:
            h = h + self.full(x)
        for block in self.blocks:
            h = block(h, embedding)
        return DiagonalGaussianDistribution(self.conv_out(h))


def _full_resolution(width: int, depth: int, channels_out: int) -> nn.Sequential:
    """[B,3,h,w] -> [B,channels_out,h/2,w/2], zero at first."""
    last = nn.Conv2d(4 * width, channels_out, 1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)  # type: ignore[arg-type]
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1),
        *(ResidualBlock(width) for _ in range(depth)),
        nn.PixelUnshuffle(2),
        last,
    )
