"""The simplest restorer there is: bicubic enlargement, without networks or noise."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from invsr_daemon.restorers.options import Options
from invsr_daemon.restorers.protocol import Restorer
from invsr_daemon.restorers.tiling import Tiling


class Bicubic(Restorer):
    """Tiles enlarged `scale` times. It keeps count of the tiles that it is given."""

    precisions = (torch.float32, torch.float16, torch.bfloat16)

    def __init__(self, scale: int, dtype: torch.dtype = torch.float32) -> None:
        self.scale = scale
        self.device = torch.device("cpu")
        self.dtype = dtype
        self.tiling = Tiling(tile=48, overlap=16, multiple=1, fill_tile=False)
        self.tiles = 0

    def restore_tiles(
        self, tiles: Tensor, draws: Mapping[str, Tensor], options: Options, dtype: torch.dtype
    ) -> Tensor:
        assert not draws
        self.tiles += len(tiles)
        return functional.interpolate(tiles.to(dtype), scale_factor=self.scale, mode="bicubic").float()
