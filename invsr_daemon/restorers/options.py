"""How pictures are restored: the options of one call."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .color_fix import FIXES, ColorFix
from .tiling import Tile


@dataclass(frozen=True)
class Options:
    """How pictures are restored: see `PictureRestorer.restore`. Raises ValueError if something does not fit.

    `canvas_device`: where tiles are put together and finished; where the model is, if not given. In main
    memory that is slower, and leaves a GPU's to the networks.
    """

    timesteps: tuple[int, ...] = (200,)
    tile: int | None = None
    tile_batch: int = 4
    color_fix: ColorFix = "none"
    guidance_scale: float = 1.0
    size: tuple[int, int] | None = None
    canvas_device: torch.device | None = None

    def __post_init__(self) -> None:
        if self.color_fix not in ("none", *FIXES):
            raise ValueError(f"color_fix must be none, wavelet or ycbcr, not {self.color_fix!r}")
        if self.tile_batch < 1:
            raise ValueError(f"tile_batch must be at least 1, not {self.tile_batch}")
        if self.size is not None and min(self.size) < 1:
            raise ValueError(f"size must be (height, width) of at least 1, not {self.size}")


@dataclass(frozen=True)
class Unit:
    """One tile of one frame of the batch."""

    frame: int
    tile: Tile
