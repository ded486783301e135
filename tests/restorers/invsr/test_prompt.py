"""The one text condition: encoded once per model, by a text encoder that is not kept."""

from __future__ import annotations

import gc
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from invsr_daemon import InvSR
from invsr_daemon.errors import ModelError
from tests.support.hubserver import write_text_encoder


@pytest.fixture
def with_text_encoder(tiny_model_dir: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_dir, folder)
    (folder / "prompt_embeds.safetensors").unlink()
    write_text_encoder(folder)
    return folder


def test_the_prompt_is_encoded_once_and_kept(with_text_encoder: Path) -> None:
    picture = torch.rand(1, 3, 16, 16)
    first = InvSR.load(with_text_encoder).restore(picture, tile=32)
    embeds = load_file(with_text_encoder / "prompt_embeds.safetensors")
    assert embeds["positive"].shape == embeds["negative"].shape == (1, 77, 32)
    assert not torch.equal(embeds["positive"], embeds["negative"])
    shutil.rmtree(with_text_encoder / "text_encoder")
    assert torch.equal(InvSR.load(with_text_encoder).restore(picture, tile=32), first)


def test_no_text_encoder_stays_in_memory(with_text_encoder: Path) -> None:
    model = InvSR.load(with_text_encoder)
    gc.collect()
    assert not [each for each in gc.get_objects() if type(each).__name__ == "CLIPTextModel"]
    assert model.tiling.tile == 128


def test_without_either_the_model_is_incomplete(with_text_encoder: Path) -> None:
    shutil.rmtree(with_text_encoder / "text_encoder")
    with pytest.raises(ModelError, match="prompt_embeds"):
        InvSR.load(with_text_encoder)
