"""From a model's name or directory to a restorer that is ready for pictures and films."""

from __future__ import annotations

from pathlib import Path

import torch

from ..hub import resolve
from .invsr.loading import load_parts
from .invsr.model import InvSRNetworks
from .tiled import PictureRestorer


class InvSR(PictureRestorer):
    """InvSR, loaded on one device. Use `InvSR.load`.

    model = InvSR.load("default", device="cpu", dtype=torch.float32)
    restored = model.restore(frames, timesteps=(200,))  # [B,3,H,W] in [0,1] -> [B,3,4H,4W]
    """

    restorer: InvSRNetworks

    def __init__(self, networks: InvSRNetworks) -> None:
        super().__init__(networks)

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
        return cls(InvSRNetworks(load_parts(resolve(name_or_dir), device, dtype), device, dtype))
