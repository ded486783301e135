"""What the tests of training share: photographs of 128x96 pixels, and a model of tiny networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from invsr_daemon.train.photographs import Photographs
from tests.train.tiny import config, trained


@pytest.fixture(scope="session")
def photographs_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        coarse = Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8))
        coarse.resize((128, 96), Image.Resampling.BICUBIC).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="session")
def photographs(photographs_folder: Path) -> Photographs:
    return Photographs.load(photographs_folder, longest_sides=(96,))


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory, photographs: Photographs) -> Path:
    """A whole model of tiny networks, trained for a few steps each."""
    folder = tmp_path_factory.mktemp("base")
    for stage in ("autoencoder", "diffusion", "noise_predictor"):
        torch.manual_seed(0)
        trained(config(stage, sample_steps=0), [folder], photographs, folder)
        (folder / "checkpoint.pt").unlink()
    return folder
