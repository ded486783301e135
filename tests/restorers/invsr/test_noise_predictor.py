"""The noise predictor: the released checkpoint's shapes, and files that are not to be trusted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from invsr_daemon.errors import ModelError
from invsr_daemon.restorers.invsr.loading import load_parts, read_state
from invsr_daemon.restorers.invsr.noise_predictor import NoisePredictor
from tests.conftest import DATA

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def published() -> NoisePredictor:
    with torch.device("meta"):
        network: NoisePredictor = NoisePredictor()
    return network


def test_names_and_shapes_are_those_of_the_released_checkpoint(published: NoisePredictor) -> None:
    manifest = json.loads((DATA / "noise_predictor_sd_turbo_manifest.json").read_text())
    assert {name: list(t.shape) for name, t in published.state_dict().items()} == manifest["tensors"]


def test_has_the_published_number_of_parameters(published: NoisePredictor) -> None:
    assert sum(p.numel() for p in published.parameters()) == 33_837_576


def test_safetensors_and_pth_are_the_same_network(tiny_model_dir: Path, tmp_path: Path) -> None:
    converted = shutil.copytree(tiny_model_dir, tmp_path / "model")
    save_file(read_state(converted / "noise_predictor.pth"), converted / "noise_predictor.safetensors")
    (converted / "noise_predictor.pth").unlink()
    pictures = torch.rand(2, 3, 16, 24) * 2 - 1
    with torch.inference_mode():
        one, other = (
            load_parts(folder, CPU, torch.float32).noise_predictor(pictures, torch.tensor(199))
            for folder in (tiny_model_dir, converted)
        )
    assert torch.equal(one.parameters, other.parameters)


def test_a_nested_state_dict_is_found(tmp_path: Path) -> None:
    torch.save({"state_dict": {"weight": torch.ones(2)}}, tmp_path / "nested.pth")
    assert torch.equal(read_state(tmp_path / "nested.pth")["weight"], torch.ones(2))


def test_gives_a_gaussian_at_half_the_size(tiny_model_dir: Path) -> None:
    predictor = load_parts(tiny_model_dir, CPU, torch.float32).noise_predictor
    with torch.inference_mode():
        noise = predictor(torch.rand(2, 3, 16, 24), torch.tensor(199))
    assert noise.mean.shape == noise.std.shape == (2, 4, 8, 12)
    assert (noise.std > 0).all()


def test_looks_at_the_timestep(tiny_model_dir: Path) -> None:
    predictor = load_parts(tiny_model_dir, CPU, torch.float32).noise_predictor
    pictures = torch.rand(1, 3, 16, 16)
    with torch.inference_mode():
        means = [predictor(pictures, torch.tensor(t)).mean for t in (199, 99)]
    assert not torch.allclose(*means)


class Malicious:
    """Creates a directory when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.mkdir, (self.path,)


def test_a_pickle_with_code_is_refused_and_not_run(tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model_dir, tmp_path / "model")
    proof = tmp_path / "it-ran"
    torch.save({"weight": torch.ones(1), "more": Malicious(proof)}, folder / "noise_predictor.pth")
    with pytest.raises(ModelError, match=r"noise_predictor\.pth"):
        load_parts(folder, CPU, torch.float32)
    assert not proof.exists()


def test_that_pickle_would_run_if_it_were_trusted(tmp_path: Path) -> None:
    proof = tmp_path / "it-ran"
    torch.save(Malicious(proof), tmp_path / "bad.pth")
    torch.load(tmp_path / "bad.pth", weights_only=False)
    assert proof.exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut short"])
def test_a_damaged_pth_is_a_model_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "damaged.pth").write_bytes(content)
    with pytest.raises(ModelError, match=r"damaged\.pth"):
        read_state(tmp_path / "damaged.pth")


def test_a_pth_that_is_no_dict_is_a_model_error(tmp_path: Path) -> None:
    torch.save([torch.ones(1)], tmp_path / "list.pth")
    with pytest.raises(ModelError, match=r"list\.pth"):
        read_state(tmp_path / "list.pth")
