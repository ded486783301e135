"""Tiles in batches through a restorer, as many at once as memory allows.

Out of memory means smaller batches, never smaller tiles: for a restorer that is bound to its tile those
would be another picture. Values that overflow in half precision are computed again in float32.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from .blending import cut
from .noise import NoiseSource, stacked
from .options import Options, Unit
from .precision import cast
from .protocol import Restorer
from .tiling import TilePlan

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Canvas:
    """What tiles are cut from: frames [B,3,H,W] in [0,1], padded as in `plan`, and each frame's noise."""

    padded: Tensor
    plan: TilePlan
    noises: Sequence[NoiseSource]


class TileBatches:
    """Runs units through a restorer. It remembers how many fit into memory at once, until `forget`."""

    def __init__(self, restorer: Restorer) -> None:
        self._restorer = restorer
        # How many tiles of a size (height, width) fit into memory at once, where it is known.
        self._most_tiles: dict[tuple[int, int], int] = {}

    def forget(self) -> None:
        """Try again as many at once as are asked for: there may be more memory by now."""
        self._most_tiles.clear()

    @property
    def is_short(self) -> bool:
        """Whether fewer fitted into memory than were asked for."""
        return bool(self._most_tiles)

    def run(self, units: Sequence[Unit], canvas: Canvas, options: Options) -> Iterator[tuple[Unit, Tensor]]:
        """Units with their [3,s*h,s*w] in [0,1]; those of one size together, as many as are in a row."""
        for size, alike in groupby(units, key=lambda unit: (unit.tile.height, unit.tile.width)):
            yield from self._of_one_size(list(alike), size, canvas, options)

    def _of_one_size(
        self, units: Sequence[Unit], size: tuple[int, int], canvas: Canvas, options: Options
    ) -> Iterator[tuple[Unit, Tensor]]:
        batch = min(options.tile_batch, self._most_tiles.get(size, options.tile_batch))
        done = 0
        while done < len(units):
            current = units[done : done + batch]
            outputs = None
            try:
                outputs = self._restored(current, canvas, options)
            except torch.OutOfMemoryError:
                if len(current) == 1:
                    raise
            if outputs is None:  # the exception is gone by now, and with it the tensors of its frames
                batch = self._most_tiles[size] = len(current) // 2
                device = self._restorer.device
                log.warning("out of memory on %s: going on with %d tiles at once", device, batch)
                release(device)
                continue
            yield from zip(current, outputs, strict=True)
            done += len(current)

    def _restored(self, units: Sequence[Unit], canvas: Canvas, options: Options) -> Tensor:
        """A batch of units: [N,3,s*h,s*w] in [0,1]."""
        restorer = self._restorer
        tiles = torch.stack([cut(canvas.padded[unit.frame], unit.tile) for unit in units])
        sources, places = [canvas.noises[unit.frame] for unit in units], [unit.tile for unit in units]
        draws = {
            draw.name: stacked(sources, draw, canvas.plan, places).to(restorer.device)
            for draw in restorer.draws
        }
        outputs = restorer.restore_tiles(tiles, draws, options, restorer.dtype)
        # Before the clamp, which would make white of what is infinite.
        if restorer.dtype != torch.float32 and not outputs.isfinite().all():
            log.warning("values beyond %s: computing this batch in float32", restorer.dtype)
            with self._in_float32():
                outputs = restorer.restore_tiles(tiles, draws, options, torch.float32)
        return outputs.clamp_(0, 1)

    @contextmanager
    def _in_float32(self) -> Iterator[None]:
        networks = self._restorer.networks.values()
        for network in networks:
            cast(network, torch.float32)
        try:
            yield
        finally:
            for network in networks:
                cast(network, self._restorer.dtype)


def release(device: torch.device) -> None:
    """Give back memory that nobody needs: what garbage holds, and what torch keeps for the next tensor."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
