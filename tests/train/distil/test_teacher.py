"""The teacher's file: read in the order of the network, refused where it does not fit."""

import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from invsr_daemon.train.distil import teacher


def wheel(folder: Path, content: bytes) -> Path:
    path = folder / "some.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("models/realesrgan-x4plus.bin", content)
    return path


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> teacher.X4Plus:
    monkeypatch.setattr(teacher, "BLOCKS", 1)
    torch.manual_seed(0)
    return teacher.X4Plus().eval().requires_grad_(False)


def stored(network: nn.Module, tag: int) -> bytes:
    kind = "<f2" if tag == teacher.HALF else "<f4"
    parts = []
    for each in network.modules():
        if isinstance(each, nn.Conv2d):
            assert each.bias is not None
            parts += [struct.pack("<I", tag), each.weight.numpy().astype(kind).tobytes()]
            parts += [each.bias.numpy().tobytes()]
    return b"".join(parts)


@pytest.mark.parametrize("tag", [teacher.HALF, teacher.SINGLE])
def test_what_was_stored_is_read(tmp_path: Path, small: teacher.X4Plus, tag: int) -> None:
    read = teacher.load_teacher(wheel(tmp_path, stored(small, tag)))
    poor = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    ours, theirs = teacher.taught(read, poor), teacher.taught(small, poor)
    assert ours.shape == (48, 64, 3)
    assert np.abs(ours.astype(int) - theirs).max() <= 1


def test_a_file_that_is_too_long_is_refused(tmp_path: Path, small: teacher.X4Plus) -> None:
    with pytest.raises(ValueError, match="left over"):
        teacher.load_teacher(wheel(tmp_path, stored(small, teacher.HALF) + b"more"))
