"""What `gpu.py` computes: InvSR in its published shapes with random weights, pictures, a film that pans."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
from gpu_device import Setting
from torch import Tensor, nn
from torch.nn import functional

from invsr_daemon import InvSR
from invsr_daemon.restorers.detail import Detail
from invsr_daemon.restorers.film.averaging import FilmFrame
from invsr_daemon.restorers.film.traces import Motion
from invsr_daemon.restorers.invsr.loading import Parts, Prompt
from invsr_daemon.restorers.invsr.model import InvSRNetworks
from invsr_daemon.restorers.invsr.noise_predictor import NoisePredictor
from invsr_daemon.restorers.precision import cast
from invsr_daemon.restorers.tiling import Tiling

NARROWER = 16  # in a dry run
PAN_STEP = 2  # LR pixels from frame to frame
EMBEDDED = "default"


@dataclass(frozen=True)
class Size:
    """A film's, in pixels and frames; `interval` frames from one anchor to the next."""

    name: str
    height: int
    width: int
    frames: int
    interval: int


def embedded(setting: Setting, dtype: torch.dtype) -> InvSR:
    return InvSR.load(EMBEDDED, setting.device, dtype)


def full_tile(setting: Setting) -> int:
    """Side of a full-size tile in LR pixels."""
    return 16 if setting.dry else 128


def full_size(setting: Setting, dtype: torch.dtype) -> InvSR:
    """InvSR in the shapes of SD-Turbo and the released predictor; weights are drawn on the device.

    In float32 in a dry run: many CPUs take ages for half precision.
    """
    dtype = torch.float32 if setting.dry else dtype
    generator = torch.Generator(setting.device).manual_seed(0)
    vae, unet, predictor = (
        _drawn(setting, make, dtype, generator) for make in (_autoencoder, _unet, _predictor)
    )
    prompts = torch.randn(2, 1, 77, 1024, device=setting.device, generator=generator).to(dtype)
    tile = full_tile(setting)
    parts = Parts(
        vae,
        unet,
        predictor,
        _scheduler(),
        Prompt(prompts[0], prompts[1]),
        Tiling(tile, tile // 2, 16),
        Detail(),
    )
    return InvSR(InvSRNetworks(parts, setting.device, dtype))


def full_autoencoder(setting: Setting, dtype: torch.dtype) -> Any:
    """That of `full_size`, alone."""
    generator = torch.Generator(setting.device).manual_seed(0)
    return _drawn(setting, _autoencoder, torch.float32 if setting.dry else dtype, generator)


def _drawn(
    setting: Setting, make: Callable[[int], Any], dtype: torch.dtype, generator: torch.Generator
) -> Any:
    """A network whose weights are made on the device."""
    with torch.device("meta"):
        network = make(NARROWER if setting.dry else 1)
    network.to_empty(device=setting.device)
    cast(network, dtype)
    _draw_weights(network, generator)
    network.eval().requires_grad_(False)
    set_layout((network,), torch.channels_last)
    return network


def set_layout(networks: tuple[Any, ...], layout: torch.memory_format) -> None:
    for network in networks:
        nn.Module.to(network, memory_format=layout)  # type: ignore[call-overload]


def _autoencoder(narrower: int) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=tuple(channels // narrower for channels in (128, 256, 512, 512)),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        sample_size=768,
        norm_num_groups=32 // narrower,
    )


def _unet(narrower: int) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=64,
        block_out_channels=tuple(channels // narrower for channels in (320, 640, 1280, 1280)),
        attention_head_dim=(5, 10, 20, 20),
        cross_attention_dim=1024,
        use_linear_projection=True,
        norm_num_groups=32 // narrower,
    )


def _predictor(narrower: int) -> Any:
    return NoisePredictor(
        block_out_channels=(256 // narrower, 512 // narrower),
        norm_num_groups=32 // narrower,
        attention_head_dim=64 // narrower,
    )


def _draw_weights(network: nn.Module, generator: torch.Generator) -> None:
    """Small enough that nothing grows from layer to layer."""
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if weight.ndim > 1:
                weight.normal_(0, (0.5 / weight[0].numel()) ** 0.5, generator=generator)
            else:
                weight.fill_(1.0 if name.endswith("weight") else 0.0)


def _scheduler() -> EulerDiscreteScheduler:
    return EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        timestep_spacing="trailing",
        prediction_type="epsilon",
    )


def picture(height: int, width: int) -> Tensor:
    """[1,3,H,W] in [0,1]: soft shapes under fine texture, the same on every machine of one torch."""
    generator = torch.Generator().manual_seed(3)
    shapes = torch.rand(1, 3, -(-height // 16), -(-width // 16), generator=generator)
    soft = functional.interpolate(shapes, (height, width), mode="bicubic")
    return (soft + 0.05 * torch.randn(1, 3, height, width, generator=generator)).clamp(0, 1)


def pan(size: Size) -> list[FilmFrame]:
    """A camera that pans over a picture: content goes PAN_STEP pixels to the left in each frame."""
    wide = (picture(size.height, size.width + PAN_STEP * size.frames)[0] * 255).round().byte()
    motion = _moving(size.height, size.width, -PAN_STEP)
    return [
        FilmFrame(
            index,
            wide[..., PAN_STEP * index : PAN_STEP * index + size.width].clone(),
            motion if index else None,
        )
        for index in range(size.frames)
    ]


def _moving(height: int, width: int, x: int) -> Motion:
    """All content goes `x` pixels to the right from one frame to the next."""
    forward = torch.zeros(2, height, width, dtype=torch.float16)
    forward[0] = x
    columns = torch.arange(width).expand(height, width)
    leads = (columns + x >= 0) & (columns + x < width)
    stems = (columns - x >= 0) & (columns - x < width)
    return Motion(forward, -forward, leads, stems, torch.zeros(height, width, dtype=torch.bool))


def psnr(one: Tensor, other: Tensor) -> float:
    """Of two tensors in [0,1], in dB; equal ones have 120."""
    error = (one.cpu().double() - other.cpu().double()).square().mean()
    return float(-10 * torch.log10(error.clamp_min(1e-12)))


def worst(one: Tensor, other: Tensor) -> float:
    return float((one.cpu().float() - other.cpu().float()).abs().max())
