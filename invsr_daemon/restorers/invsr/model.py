"""InvSR: arbitrary-steps super-resolution by diffusion inversion (Yue et al., CVPR 2025).

A low-resolution picture is upsampled and encoded to latents z0. The noise predictor looks at the
picture and predicts the noise map from which the diffusion model reaches the sharp picture
("partial noise prediction", section 3.2). z0 plus that noise is denoised in 1 to 5 steps and
decoded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from ...hub import resolve
from ...timesteps import check_timesteps
from .. import detail
from ..blending import Blend, cut, reflect_pad
from ..color_fix import FIXES, ColorFix
from ..noise import CanvasNoise, Draw, NoiseSource, stacked
from ..options import SCALE, Options, Unit
from ..precision import cast
from ..tiling import TilePlan, Tiling, plan_tiles
from .loading import Parts, load_parts
from .sampling import denoise, scheduler_at

log = logging.getLogger(__name__)

# Beyond this many output pixels the canvas stays in main memory: it would crowd out the networks.
LARGEST_DEVICE_CANVAS = 64_000_000


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
        options = Options(tuple(timesteps), tile, tile_batch, color_fix, guidance_scale, size)
        return self.restored(frames, [noise or CanvasNoise(0)] * frames.shape[0], options)

    @torch.inference_mode()
    def restored(
        self,
        frames: Tensor,
        noises: Sequence[NoiseSource],
        options: Options,
        alive: Callable[[], None] = lambda: None,
    ) -> Tensor:
        """`restore`, with noise of its own for each frame; `alive` is called after each tile."""
        _check_frames(frames)
        plan = plan_tiles(frames.shape[-2], frames.shape[-1], self.tiling_for(options.tile))
        frames = frames.to(self.device, torch.float32)
        restored = self._blended(frames, plan, noises, options, alive)
        return self.finish(restored, frames, plan, noises, options)

    def _blended(
        self,
        frames: Tensor,
        plan: TilePlan,
        noises: Sequence[NoiseSource],
        options: Options,
        alive: Callable[[], None],
    ) -> Tensor:
        """Every tile restored and blended: [B,3,H,W] -> [B,3,4H,4W] of its own."""
        shape = (frames.shape[0], plan.height * SCALE, plan.width * SCALE)
        huge = shape[0] * shape[1] * shape[2] > LARGEST_DEVICE_CANVAS
        device = options.canvas_device or (torch.device("cpu") if huge else self.device)
        blend = Blend(shape, plan, SCALE, device)
        units = [Unit(frame, tile) for frame in range(frames.shape[0]) for tile in plan.tiles]
        for unit, output in self.sampled(reflect_pad(frames, plan), units, plan, noises, options):
            blend.add(unit.frame, unit.tile, output.to(blend.device))
            alive()
        return picture_of(blend.result(), plan, frames.shape[-2:])

    def sampled(
        self,
        padded: Tensor,
        units: Sequence[Unit],
        plan: TilePlan,
        noises: Sequence[NoiseSource],
        options: Options,
    ) -> Iterator[tuple[Unit, Tensor]]:
        """Tiles of the frames [B,3,H,W] in [0,1], padded as in `plan`, each with its [3,4h,4w] in [0,1].

        `noises`: one for each frame. Neither detail nor the colour fix are in it: see `finish`. Raises
        ValueError if the timesteps are beyond the model's.
        """
        check_timesteps(options.timesteps, self._parts.scheduler.config.num_train_timesteps)
        return _Sampler(self, options).run(padded, units, plan, noises)

    def finish(
        self,
        restored: Tensor,
        frames: Tensor,
        plan: TilePlan,
        noises: Sequence[NoiseSource],
        options: Options,
        removed: Tensor | None = None,
    ) -> Tensor:
        """Detail, colour and size for [B,3,4H,4W] (used up), restored from `frames` [B,3,H,W].

        `removed` [B,1,4H,4W]: luma that has been averaged away: see `add_detail`.
        """
        amount = self._parts.detail.at(options.timesteps[0])
        if amount:
            for number, noise in enumerate(noises):
                grain = picture_of(noise.grain(plan), plan, frames.shape[-2:]).to(restored.device)
                part = slice(number, number + 1)
                lost = None if removed is None else removed[part]
                detail.add_detail(restored[part], grain[None, None], amount, lost)
            restored.clamp_(0, 1)
        if options.color_fix != "none":
            _fix_color(restored, frames.to(restored.device), options.color_fix)
        return _resized(restored, options.size).clamp_(0, 1)


def picture_of(canvas: Tensor, plan: TilePlan, size: Sequence[int]) -> Tensor:
    """The picture of `size` (LR height, width) on a padded canvas [...,4H,4W]: a view of it."""
    top, left = plan.top * SCALE, plan.left * SCALE
    return canvas[..., top : top + size[0] * SCALE, left : left + size[1] * SCALE]


class _Sampler:
    """Runs units in batches through the three networks, with smaller batches when memory is short."""

    def __init__(self, model: InvSR, options: Options) -> None:
        self._model = model
        self._parts = model._parts
        self._options = options

    def run(
        self, padded: Tensor, units: Sequence[Unit], plan: TilePlan, noises: Sequence[NoiseSource]
    ) -> Iterator[tuple[Unit, Tensor]]:
        """Units with their restored [3,4h,4w], those of one size together, as many as are in a row."""
        for size, alike in groupby(units, key=lambda unit: (unit.tile.height, unit.tile.width)):
            yield from self._of_one_size(padded, list(alike), size, plan, noises)

    def _of_one_size(
        self,
        padded: Tensor,
        units: Sequence[Unit],
        size: tuple[int, int],
        plan: TilePlan,
        noises: Sequence[NoiseSource],
    ) -> Iterator[tuple[Unit, Tensor]]:
        batch = self._options.tile_batch
        batch = min(batch, self._model._most_tiles.get(size, batch))
        done = 0
        while done < len(units):
            current = units[done : done + batch]
            outputs = None
            try:
                tiles = torch.stack([cut(padded[unit.frame], unit.tile) for unit in current])
                outputs = self._finite(tiles, plan, current, [noises[unit.frame] for unit in current])
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

    def _finite(
        self, lr: Tensor, plan: TilePlan, units: Sequence[Unit], noises: Sequence[NoiseSource]
    ) -> Tensor:
        """Half precision overflows in some autoencoders: such a batch is computed again in float32."""

        def normal(draw: Draw, like: Tensor) -> Tensor:
            return stacked(noises, draw, plan, [unit.tile for unit in units], like.shape[1]).to(like)

        outputs = self._restored(lr, normal, self._model.dtype)
        # Before the clamp, which would make white of what is infinite.
        if self._model.dtype != torch.float32 and not outputs.isfinite().all():
            log.warning("values beyond %s: computing this batch in float32", self._model.dtype)
            networks = (self._parts.vae, self._parts.unet, self._parts.noise_predictor)
            for network in networks:
                cast(network, torch.float32)
            try:
                outputs = self._restored(lr, normal, torch.float32)
            finally:
                for network in networks:
                    cast(network, self._model.dtype)
        return outputs.clamp_(0, 1)

    def _restored(self, lr: Tensor, normal: Callable[[Draw, Tensor], Tensor], dtype: torch.dtype) -> Tensor:
        """LR tiles [N,3,h,w] in [0,1] -> [N,3,4h,4w] float32, about [0,1]."""
        vae, device = self._parts.vae, self._model.device
        scheduler = scheduler_at(self._parts.scheduler, self._options.timesteps, device)
        scaling = vae.config.scaling_factor
        upsampled = functional.interpolate(lr, scale_factor=SCALE, mode="bicubic")
        posterior = vae.encode((upsampled * 2 - 1).to(dtype)).latent_dist
        latents = (posterior.mean + posterior.std * normal("vae", posterior.mean)) * scaling
        predicted = self._parts.noise_predictor((lr * 2 - 1).to(dtype), scheduler.timesteps[0])
        noise = predicted.mean + predicted.std * normal("noise_predictor", predicted.mean)
        latents = denoise(scheduler, self._predict, latents, noise)
        decoded = vae.decode(latents.to(dtype) / scaling).sample.float()
        return (decoded + 1) / 2

    def _predict(self, latents: Tensor, timestep: Tensor) -> Tensor:
        """The UNet's output, guided away from the negative prompt if the scale is above one."""
        unet, prompt = self._parts.unet, self._parts.prompt
        if prompt is None:
            return unet(latents, timestep).sample
        positive = prompt.positive.to(latents.dtype).expand(latents.shape[0], -1, -1)
        wanted = unet(latents, timestep, encoder_hidden_states=positive).sample
        if self._options.guidance_scale <= 1.0:
            return wanted
        negative = prompt.negative.to(latents.dtype).expand(latents.shape[0], -1, -1)
        unwanted = unet(latents, timestep, encoder_hidden_states=negative).sample
        return unwanted + self._options.guidance_scale * (wanted - unwanted)


def _check_frames(frames: Tensor) -> None:
    if frames.ndim != 4 or frames.shape[1] != 3 or not frames.is_floating_point():
        raise ValueError(f"frames must be float [B,3,H,W], not {frames.dtype} {tuple(frames.shape)}")
    if min(frames.shape[-2:]) < 8:
        raise ValueError(f"pictures must be at least 8 by 8, not {tuple(frames.shape[-2:])}")


def _fix_color(restored: Tensor, frames: Tensor, kind: ColorFix) -> None:
    """Colour from [B,3,H,W] into [B,3,4H,4W], in place: few channels at a time need little memory."""
    fix, channels = FIXES[kind]
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
