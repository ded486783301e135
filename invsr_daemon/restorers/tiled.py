"""Pictures of any size through a restorer of tiles: cut, batched, blended, coloured, resized.

Nothing here knows which restorer it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from ..records import SMALLEST_SIDE
from .batches import Canvas, TileBatches
from .blending import Blend, reflect_pad
from .color_fix import FIXES, ColorFix
from .detail import add_detail
from .noise import CanvasNoise, NoiseSource
from .options import Options, Unit
from .protocol import Restorer
from .tiling import TilePlan, Tiling, plan_tiles

# Beyond this many output pixels the canvas stays in main memory: it would crowd out the networks.
LARGEST_DEVICE_CANVAS = 64_000_000


class PictureRestorer:
    """Restores pictures with a restorer of tiles."""

    def __init__(self, restorer: Restorer) -> None:
        """Raises ValueError if the restorer does not bear the precision it was loaded in."""
        if restorer.dtype not in restorer.precisions:
            borne = ", ".join(str(dtype) for dtype in restorer.precisions)
            raise ValueError(f"{restorer.dtype} is not borne, only {borne}")
        self.restorer = restorer
        self._batches = TileBatches(restorer)

    @property
    def device(self) -> torch.device:
        return self.restorer.device

    @property
    def dtype(self) -> torch.dtype:
        return self.restorer.dtype

    @property
    def scale(self) -> int:
        return self.restorer.scale

    @property
    def tiling(self) -> Tiling:
        """The restorer's own tiling: what it was trained for, and which sizes it can take."""
        return self.restorer.tiling

    def tiling_for(self, tile: int | None) -> Tiling:
        """The restorer's tiling at another tile size, with the same share of overlap.

        Raises ValueError if the size does not fit.
        """
        own = self.tiling
        if tile is None or tile == own.tile:
            return own
        if tile % own.multiple or tile < 2 * own.multiple:
            fitting = f"a multiple of {own.multiple} from {2 * own.multiple} up"
            raise ValueError(f"tile must be {fitting}, not {tile}")
        overlap = tile * own.overlap // own.tile // own.step * own.step
        return replace(own, tile=tile, overlap=max(own.step, overlap))

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
            size: (height, width) of the result, resampled from `scale` times the input; that if not given.

        Returns:
            [B,3,scale*H,scale*W], or of `size`: float32 in [0,1], on the model's device (in main memory if
            huge).

        Raises:
            ValueError: the shape, the timesteps, the tile or another argument does not fit.
        """
        self.forget_shortage()
        options = Options(tuple(timesteps), tile, tile_batch, color_fix, guidance_scale, size)
        return self.restored(frames, [noise or CanvasNoise(0)] * frames.shape[0], options)

    @property
    def is_short(self) -> bool:
        """Whether fewer tiles at once were computed than asked for, since `forget_shortage`."""
        return self._batches.is_short

    def forget_shortage(self) -> None:
        """Compute as many tiles at once as are asked for again, after memory did not suffice for them."""
        self._batches.forget()

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
        """Every tile restored and blended: [B,3,H,W] -> [B,3,scale*H,scale*W] of its own."""
        shape = (frames.shape[0], plan.height * self.scale, plan.width * self.scale)
        huge = shape[0] * shape[1] * shape[2] > LARGEST_DEVICE_CANVAS
        device = options.canvas_device or (torch.device("cpu") if huge else self.device)
        blend = Blend(shape, plan, self.scale, device)
        units = [Unit(frame, tile) for frame in range(frames.shape[0]) for tile in plan.tiles]
        for unit, output in self.sampled(reflect_pad(frames, plan), units, plan, noises, options):
            blend.add(unit.frame, unit.tile, output.to(blend.device))
            alive()
        return picture_of(blend.result(), plan, frames.shape[-2:], self.scale)

    def sampled(
        self,
        padded: Tensor,
        units: Sequence[Unit],
        plan: TilePlan,
        noises: Sequence[NoiseSource],
        options: Options,
    ) -> Iterator[tuple[Unit, Tensor]]:
        """Tiles of the frames [B,3,H,W] in [0,1], padded as in `plan`, each with its [3,s*h,s*w] in [0,1].

        Units of one size are computed together, as many as are in a row. `noises`: one for each frame.
        Neither detail nor the colour fix are in it: see `finish`. Raises ValueError for options that the
        restorer does not take.
        """
        self.restorer.check(options)
        return self._batches.run(units, Canvas(padded, plan, noises), options)

    def finish(
        self,
        restored: Tensor,
        frames: Tensor,
        plan: TilePlan,
        noises: Sequence[NoiseSource],
        options: Options,
        removed: Tensor | None = None,
    ) -> Tensor:
        """Detail, colour and size for [B,3,s*H,s*W] (used up), restored from `frames` [B,3,H,W].

        `removed` [B,1,s*H,s*W]: luma that has been averaged away: see `add_detail`.
        """
        detail = self.restorer.detail(options)
        if detail:
            for number, noise in enumerate(noises):
                grain = picture_of(noise.grain(plan, self.scale), plan, frames.shape[-2:], self.scale)
                part = slice(number, number + 1)
                lost = None if removed is None else removed[part]
                add_detail(restored[part], grain.to(restored.device)[None, None], detail, lost)
            restored.clamp_(0, 1)
        if options.color_fix != "none":
            _fix_color(restored, frames.to(restored.device), options.color_fix)
        return _resized(restored, options.size).clamp_(0, 1)


def picture_of(canvas: Tensor, plan: TilePlan, size: Sequence[int], scale: int) -> Tensor:
    """The picture of `size` (LR height, width) on a padded canvas [...,scale*H,scale*W]: a view of it."""
    top, left = plan.top * scale, plan.left * scale
    return canvas[..., top : top + size[0] * scale, left : left + size[1] * scale]


def _check_frames(frames: Tensor) -> None:
    if frames.ndim != 4 or frames.shape[1] != 3 or not frames.is_floating_point():
        raise ValueError(f"frames must be float [B,3,H,W], not {frames.dtype} {tuple(frames.shape)}")
    if min(frames.shape[-2:]) < SMALLEST_SIDE:
        raise ValueError(f"pictures must be at least 8 by 8, not {tuple(frames.shape[-2:])}")


def _fix_color(restored: Tensor, frames: Tensor, kind: ColorFix) -> None:
    """Colour from [B,3,H,W] into [B,3,s*H,s*W], in place: few channels at a time need little memory."""
    fix, channels = FIXES[kind]
    for frame, source in zip(restored, frames, strict=True):
        for piece, low in zip(frame.split(channels), source.split(channels), strict=True):
            reference = functional.interpolate(low[None], piece.shape[-2:], mode="bicubic", antialias=True)
            piece.copy_(fix(piece.clamp_(0, 1)[None], reference)[0])


def _resized(restored: Tensor, size: tuple[int, int] | None) -> Tensor:
    if size is None or size == tuple(restored.shape[-2:]):
        return restored
    return functional.interpolate(restored, size, mode="bicubic", antialias=True)
