"""The embedded model does what it is there for, on photographs that it was never trained on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage import data
from torch import Tensor
from torch.nn import functional

from invsr_daemon import InvSR
from invsr_daemon.hub import resolve, verify
from invsr_daemon.train import degrade

LARGEST_BYTES = 12_000_000


@pytest.fixture(scope="module")
def default() -> InvSR:
    return InvSR.load("default")


def photograph(name: str) -> Tensor:
    pixels = torch.from_numpy(np.array(getattr(data, name)())).permute(2, 0, 1)[None].float() / 255
    height, width = (side // 4 * 4 for side in pixels.shape[-2:])
    return pixels[..., :height, :width]


def psnr(found: Tensor, truth: Tensor) -> float:
    return -10 * torch.log10((found.cpu() - truth).square().mean()).item()


@pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea"])
def test_it_is_no_worse_than_bicubic_after_a_bicubic_reduction(default: InvSR, name: str) -> None:
    truth = photograph(name)
    reduced = degrade.bicubic(truth)
    bicubic = functional.interpolate(reduced, truth.shape[-2:], mode="bicubic").clamp(0, 1)
    assert psnr(default.restore(reduced), truth) > psnr(bicubic, truth) - 0.3


def test_its_weights_are_small_and_unchanged() -> None:
    folder = resolve("default")
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) <= LARGEST_BYTES
    assert verify("default") == []
