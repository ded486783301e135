"""Sheets of samples: what a network makes of a few fixed crops, for eyes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor


def write_sheet(columns: Sequence[Tensor], path: Path) -> None:
    """A PNG with a column per tensor and a row per picture. Tensors: [N,3,H,W], clamped to [0,1]."""
    sheet = torch.cat([torch.cat(list(column), dim=1) for column in columns], dim=2)
    pixels = sheet.float().clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).cpu().numpy()
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(path)
