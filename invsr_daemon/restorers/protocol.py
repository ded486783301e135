"""What a restorer is. Whoever implements this gets pictures of any size and films for free.

A restorer states its own limits; callers never guess. It knows tiles alone: `tiled` cuts pictures, batches
tiles, blends them and finishes the result; `film` does the same for films.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

import torch
from torch import Tensor, nn

from .detail import Detail
from .noise import Draw
from .options import Options
from .tiling import Tiling


class Restorer(Protocol):
    """Restores tiles on one device. Inherit from it for the defaults of what is optional."""

    # Required

    device: torch.device
    """Where tiles are restored."""

    dtype: torch.dtype
    """What the networks compute in: one of `precisions`."""

    scale: int
    """A result's side is so many times its input's."""

    tiling: Tiling
    """The tile that it was made for, and which sizes it can take."""

    def restore_tiles(
        self, tiles: Tensor, draws: Mapping[str, Tensor], options: Options, dtype: torch.dtype
    ) -> Tensor:
        """Restore tiles of one size, each as if it were alone.

        Args:
            tiles: float32 [N,3,h,w] RGB in [0,1], on the device; sides are as `tiling` has them.
            draws: for each of `self.draws`, by name, float32 [N,channels,rows,columns] on the device.
            options: those that `check` has let pass.
            dtype: what to compute in: `self.dtype`, or float32 if values have overflowed; `networks` have it.

        Returns:
            float32 [N,3,scale*h,scale*w], about [0,1], not clamped.

        Raises:
            torch.OutOfMemoryError: the batch is too large; the caller tries a smaller one.
        """
        ...

    # Optional

    draws: tuple[Draw, ...] = ()
    """The normal draws that a tile needs; none for a restorer without noise."""

    precisions: tuple[torch.dtype, ...] = (torch.float32,)
    """What it bears computing in."""

    networks: Mapping[str, nn.Module] = MappingProxyType({})
    """Its networks by name: what is cast to another precision, and counted."""

    def check(self, options: Options) -> None:
        """Raise ValueError for options that it cannot take."""
        return

    def detail(self, options: Options) -> Detail:
        """The detail that is added to its results."""
        return Detail()
