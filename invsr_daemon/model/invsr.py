"""InvSR: arbitrary-steps super-resolution by diffusion inversion (Yue et al., CVPR 2025).

A low-resolution picture is upsampled and encoded to latents z0. The noise predictor looks at the
picture and predicts the noise map from which the diffusion model reaches the sharp picture
("partial noise prediction", section 3.2). z0 plus that noise is denoised in 1 to 5 steps and
decoded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from ..timesteps import check_timesteps
from . import color_fix as fixes
from . import detail
from .hub import resolve
from .loading import Parts, cast, load_parts
from .noise import CanvasNoise, NoiseSource, stacked
from .sampling import denoise, scheduler_at
from .tiling import Blend, Tile, TilePlan, Tiling, plan_tiles, reflect_pad

log = logging.getLogger(__name__)

SCALE = 4
ColorFix = Literal["none", "wavelet", "ycbcr"]
# Each with the number of channels that it needs at once.
_FIXES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], int]] = {
    "wavelet": (fixes.wavelet, 1),
    "ycbcr": (fixes.ycbcr, 3),
}
# Beyond this many output pixels the canvas stays in main memory: it would crowd out the networks.
LARGEST_DEVICE_CANVAS = 64_000_000


@dataclass(frozen=True)
class _Unit:
    """One tile of one frame of the batch."""

    frame: int
    tile: Tile


class InvSR:
    """A loaded model on one device. Use `InvSR.load`."""

    def __init__(self, parts: Parts, device: torch.device, dtype: torch.dtype) -> None:
        self._parts = parts
        self.device = device
        self.dtype = dtype
        # How many tiles of a size (height, width) fit into memory at once, where it is known.
        self._most_tiles: dict[tuple[int, int], int] = {}

    @classmethod
    def load(
        cls,
        name_or_dir: str | Path = "default",
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> InvSR:
        """A named model (see `invsr-daemon models list`) or a directory.

        Raises ModelError if there is none, or it is incomplete or damaged.
        """
        device = torch.device(device)
        return cls(load_parts(resolve(name_or_dir), device, dtype), device, dtype)

    @property
    def tiling(self) -> Tiling:
        """The model's own tiling: what it was trained for, and which sizes it can take."""
        return self._parts.tiling

    def tiling_for(self, tile: int | None) -> Tiling:
        """The model's tiling at another tile size; ValueError if the size does not fit."""
        own = self.tiling
        if tile is None or tile == own.tile:
            return own
        if tile % own.multiple or tile < 2 * own.multiple:
            fitting = f"a multiple of {own.multiple} from {2 * own.multiple} up"
            raise ValueError(f"tile must be {fitting}, not {tile}")
        overlap = tile * own.overlap // own.tile // own.multiple * own.multiple
        return replace(own, tile=tile, overlap=max(own.multiple, overlap))

    @torch.inference_mode()
    def restore(
        self,
        frames: Tensor,
        *,
        timesteps: Sequence[int] = (200,),
        noise: NoiseSource | None = None,
        tile: int | None = None,
        tile_batch: int = 4,
        color_fix: ColorFix = "none",
        guidance_scale: float = 1.0,
        size: tuple[int, int] | None = None,
    ) -> Tensor:
        """Restore a batch of pictures of one size.

        Args:
            frames: [B,3,H,W] RGB in [0,1], any float dtype, H and W from 8 up.
            timesteps: published timesteps, strictly descending; the first is where it starts.
            noise: where normal draws come from; a canvas fixed by seed 0 if not given. The same
                place of every frame gets the same noise.
            tile: side of a tile in LR pixels; the model's own if not given.
            tile_batch: tiles computed at once.
            color_fix: "none", "wavelet" or "ycbcr".
            guidance_scale: above 1 a second, negative branch is computed.
            size: (height, width) of the result, resampled from four times the input; that if not given.

        Returns:
            [B,3,4*H,4*W], or of `size`: float32 in [0,1], on the model's device (in main memory if huge).

        Raises:
            ValueError: the shape, the timesteps, the tile or another argument does not fit.
        """
        _check_frames(frames)
        if color_fix not in ("none", *_FIXES):
            raise ValueError(f"color_fix must be none, wavelet or ycbcr, not {color_fix!r}")
        if tile_batch < 1:
            raise ValueError(f"tile_batch must be at least 1, not {tile_batch}")
        if size is not None and min(size) < 1:
            raise ValueError(f"size must be (height, width) of at least 1, not {size}")
        check_timesteps(timesteps, self._parts.scheduler.config.num_train_timesteps)
        height, width = frames.shape[-2:]
        plan = plan_tiles(height, width, self.tiling_for(tile))
        frames = frames.to(self.device, torch.float32)
        sampler = _Sampler(self, timesteps, noise or CanvasNoise(0), guidance_scale)
        restored = self._blended(sampler, frames, plan, tile_batch)
        if color_fix != "none":
            _fix_color(restored, frames.to(restored.device), color_fix)
        return _resized(restored, size).clamp_(0, 1)

    def _blended(self, sampler: _Sampler, frames: Tensor, plan: TilePlan, tile_batch: int) -> Tensor:
        """Every tile restored and blended: [B,3,H,W] -> [B,3,4H,4W] of its own."""
        shape = (frames.shape[0], plan.height * SCALE, plan.width * SCALE)
        huge = shape[0] * shape[1] * shape[2] > LARGEST_DEVICE_CANVAS
        blend = Blend(shape, plan, SCALE, torch.device("cpu") if huge else self.device)
        for unit, output in sampler.run(reflect_pad(frames, plan), plan, tile_batch):
            blend.add(unit.frame, unit.tile, output.to(blend.device))
        top, left = plan.top * SCALE, plan.left * SCALE
        height, width = (side * SCALE for side in frames.shape[-2:])
        return blend.result()[..., top : top + height, left : left + width]


class _Sampler:
    """Runs units in batches through the three networks, with smaller batches when memory is short."""

    def __init__(self, model: InvSR, timesteps: Sequence[int], noise: NoiseSource, guidance: float) -> None:
        self._model = model
        self._parts = model._parts
        self._timesteps = timesteps
        self._detail = model._parts.detail.at(timesteps[0])
        self._noise = noise
        self._guidance = guidance

    def run(self, padded: Tensor, plan: TilePlan, batch: int) -> Iterator[tuple[_Unit, Tensor]]:
        """Every tile of every frame of [B,3,H,W], with its restored [3,4h,4w] in [0,1]."""
        units = [_Unit(frame, tile) for frame in range(padded.shape[0]) for tile in plan.tiles]
        size = plan.tiles[0].height, plan.tiles[0].width
        batch = min(batch, self._model._most_tiles.get(size, batch))
        done = 0
        while done < len(units):
            current = units[done : done + batch]
            outputs = None
            try:
                outputs = self._finite(_cut(padded, current), plan, [unit.tile for unit in current])
            except torch.OutOfMemoryError:
                if len(current) == 1:
                    raise
            if outputs is None:  # the exception is gone by now, and with it the tensors of its frames
                batch = self._model._most_tiles[size] = len(current) // 2
                log.warning("out of memory on %s: going on with %d tiles at once", self._model.device, batch)
                _release(self._model.device)
                continue
            yield from zip(current, outputs, strict=True)
            done += len(current)

    def _finite(self, lr: Tensor, plan: TilePlan, tiles: list[Tile]) -> Tensor:
        """Half precision overflows in some autoencoders: such a batch is computed again in float32."""
        outputs = self._restored(lr, plan, tiles, self._model.dtype)
        if self._model.dtype != torch.float32 and not outputs.isfinite().all():
            log.warning("values beyond %s: computing this batch in float32", self._model.dtype)
            networks = (self._parts.vae, self._parts.unet, self._parts.noise_predictor)
            for network in networks:
                cast(network, torch.float32)
            try:
                outputs = self._restored(lr, plan, tiles, torch.float32)
            finally:
                for network in networks:
                    cast(network, self._model.dtype)
        return outputs

    def _restored(self, lr: Tensor, plan: TilePlan, tiles: list[Tile], dtype: torch.dtype) -> Tensor:
        """LR tiles [N,3,h,w] in [0,1] -> [N,3,4h,4w] float32 in [0,1]."""
        vae, device = self._parts.vae, self._model.device
        scheduler = scheduler_at(self._parts.scheduler, self._timesteps, device)
        scaling = vae.config.scaling_factor

        def normal(draw: Literal["noise_predictor", "vae"], like: Tensor) -> Tensor:
            return stacked(self._noise, draw, plan, tiles, like.shape[1]).to(like)

        upsampled = functional.interpolate(lr, scale_factor=SCALE, mode="bicubic")
        posterior = vae.encode((upsampled * 2 - 1).to(dtype)).latent_dist
        latents = (posterior.mean + posterior.std * normal("vae", posterior.mean)) * scaling
        predicted = self._parts.noise_predictor((lr * 2 - 1).to(dtype), scheduler.timesteps[0])
        noise = predicted.mean + predicted.std * normal("noise_predictor", predicted.mean)
        latents = denoise(scheduler, self._predict, latents, noise)
        decoded = (vae.decode(latents.to(dtype) / scaling).sample.float() + 1) / 2
        if self._detail:
            grain = stacked(self._noise, "detail", plan, tiles, detail.CHANNELS).to(decoded)
            decoded = detail.add_detail(decoded, grain, self._detail)
        return decoded.clamp_(0, 1)

    def _predict(self, latents: Tensor, timestep: Tensor) -> Tensor:
        """The UNet's output, guided away from the negative prompt if the scale is above one."""
        unet, prompt = self._parts.unet, self._parts.prompt
        if prompt is None:
            return unet(latents, timestep).sample
        positive = prompt.positive.to(latents.dtype).expand(latents.shape[0], -1, -1)
        wanted = unet(latents, timestep, encoder_hidden_states=positive).sample
        if self._guidance <= 1.0:
            return wanted
        negative = prompt.negative.to(latents.dtype).expand(latents.shape[0], -1, -1)
        unwanted = unet(latents, timestep, encoder_hidden_states=negative).sample
        return unwanted + self._guidance * (wanted - unwanted)


def _cut(padded: Tensor, units: Sequence[_Unit]) -> Tensor:
    def cut(frame: int, tile: Tile) -> Tensor:
        return padded[frame, :, tile.top : tile.top + tile.height, tile.left : tile.left + tile.width]

    return torch.stack([cut(unit.frame, unit.tile) for unit in units])


def _check_frames(frames: Tensor) -> None:
    if frames.ndim != 4 or frames.shape[1] != 3 or not frames.is_floating_point():
        raise ValueError(f"frames must be float [B,3,H,W], not {frames.dtype} {tuple(frames.shape)}")
    if min(frames.shape[-2:]) < 8:
        raise ValueError(f"pictures must be at least 8 by 8, not {tuple(frames.shape[-2:])}")


def _fix_color(restored: Tensor, frames: Tensor, kind: ColorFix) -> None:
    """Colour from [B,3,H,W] into [B,3,4H,4W], in place: few channels at a time need little memory."""
    fix, channels = _FIXES[kind]
    for frame, source in zip(restored, frames, strict=True):
        for piece, low in zip(frame.split(channels), source.split(channels), strict=True):
            reference = functional.interpolate(low[None], piece.shape[-2:], mode="bicubic", antialias=True)
            piece.copy_(fix(piece.clamp_(0, 1)[None], reference)[0])


def _resized(restored: Tensor, size: tuple[int, int] | None) -> Tensor:
    if size is None or size == tuple(restored.shape[-2:]):
        return restored
    return functional.interpolate(restored, size, mode="bicubic", antialias=True)


def _release(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
