"""InvSR's noise predictor, assembled from diffusers' public blocks.

Module names and shapes are those of the released checkpoint (33,837,576 parameters in the published
configuration), so that its state dict loads as it is.
"""

from __future__ import annotations

from collections.abc import Sequence

from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d_blocks import UNetMidBlock2D, get_down_block
from torch import Tensor, nn

NORM_EPS = 1e-6
SMALLEST_TIME_PROJECTION = 128


class NoiseEncoder(nn.Module):
    """Down blocks, middle and output convolution over the LR picture, conditioned on the timestep."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        down_block_types: Sequence[str],
        block_out_channels: Sequence[int],
        layers_per_block: Sequence[int],
        *,
        norm_num_groups: int,
        act_fn: str,
        temb_channels: int,
        attention_head_dim: int,
        resnet_time_scale_shift: str,
        mid_block_add_attention: bool,
        flip_sin_to_cos: bool,
        freq_shift: int,
    ) -> None:
        super().__init__()
        first, last = block_out_channels[0], block_out_channels[-1]
        sinusoids = max(SMALLEST_TIME_PROJECTION, first)
        self.time_proj = Timesteps(sinusoids, flip_sin_to_cos, freq_shift)
        self.time_embedding = TimestepEmbedding(sinusoids, temb_channels, act_fn)
        self.conv_in = nn.Conv2d(in_channels, first, 3, padding=1)
        inputs = (first, *block_out_channels[:-1])
        final = len(block_out_channels) - 1
        self.down_blocks = nn.ModuleList(
            get_down_block(
                kind,
                num_layers=layers,
                in_channels=channels_in,
                out_channels=channels_out,
                temb_channels=temb_channels,
                add_downsample=index != final,
                resnet_eps=NORM_EPS,
                resnet_act_fn=act_fn,
                resnet_groups=norm_num_groups,
                resnet_time_scale_shift=resnet_time_scale_shift,
                attention_head_dim=attention_head_dim,
                downsample_padding=0,  # as autoencoders do: pad right and bottom only
            )
            for index, (kind, layers, channels_in, channels_out) in enumerate(
                zip(down_block_types, layers_per_block, inputs, block_out_channels, strict=True)
            )
        )
        self.mid_block = UNetMidBlock2D(
            in_channels=last,
            temb_channels=temb_channels,
            resnet_eps=NORM_EPS,
            resnet_act_fn=act_fn,
            resnet_groups=norm_num_groups,
            resnet_time_scale_shift=resnet_time_scale_shift,
            attention_head_dim=attention_head_dim,
            add_attention=mid_block_add_attention,
        )
        self.conv_norm_out = nn.GroupNorm(norm_num_groups, last, eps=NORM_EPS)
        self.conv_out = nn.Conv2d(last, out_channels, 3, padding=1)

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        embedding = self.time_embedding(self.time_proj(timesteps).to(x.dtype))
        h = self.conv_in(x)
        for block in self.down_blocks:
            h, _ = block(h, embedding)
        h = self.mid_block(h, embedding)
        return self.conv_out(nn.functional.silu(self.conv_norm_out(h)))


class NoisePredictor(ModelMixin, ConfigMixin):
    """LR pictures [B,3,h,w] in [-1,1] and a timestep -> the noise map's Gaussian, [B,C,h/2,w/2].

    InvSR, section 3.2: mean and log-variance (clamped to [-30, 20]) of the noise that leads the
    frozen diffusion model from the LR latents to the sharp picture.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 3,
        latent_channels: int = 4,
        down_block_types: tuple[str, ...] = ("AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types: tuple[str, ...] = ("AttnUpBlock2D", "AttnUpBlock2D"),
        block_out_channels: tuple[int, ...] = (256, 512),
        layers_per_block: tuple[int, ...] = (3, 3),
        act_fn: str = "silu",
        norm_num_groups: int = 32,
        sample_size: int = 128,
        mid_block_add_attention: bool = True,
        resnet_time_scale_shift: str = "default",
        temb_channels: int = 512,
        attention_head_dim: int = 64,
        freq_shift: int = 0,
        flip_sin_to_cos: bool = True,
        double_z: bool = True,
    ) -> None:
        super().__init__()
        if act_fn != "silu":
            raise ValueError(f"act_fn must be 'silu', not {act_fn!r}")
        self.encoder = NoiseEncoder(
            in_channels,
            2 * latent_channels if double_z else latent_channels,
            down_block_types,
            block_out_channels,
            layers_per_block,
            norm_num_groups=norm_num_groups,
            act_fn=act_fn,
            temb_channels=temb_channels,
            attention_head_dim=attention_head_dim,
            resnet_time_scale_shift=resnet_time_scale_shift,
            mid_block_add_attention=mid_block_add_attention,
            flip_sin_to_cos=flip_sin_to_cos,
            freq_shift=freq_shift,
        )

    def forward(self, x: Tensor, timestep: Tensor) -> DiagonalGaussianDistribution:
        timesteps = timestep.expand(x.shape[0]) if timestep.ndim == 0 else timestep
        return DiagonalGaussianDistribution(self.encoder(x, timesteps.to(x.device)))
