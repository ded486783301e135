"""Model directories from strangers: each is loaded, or refused with ModelError."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from invsr_daemon.errors import ModelError
from invsr_daemon.hub.installed import PACKAGED_MODELS
from invsr_daemon.restorers.opening import InvSR

MUTANTS = 60
HUGE = 10**9


@pytest.fixture
def tiny(tiny_model_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model_dir, tmp_path / "tiny"))


@pytest.fixture
def default(tmp_path: Path) -> Path:
    return Path(shutil.copytree(PACKAGED_MODELS / "default", tmp_path / "default"))


def changed(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    ("file", "values", "why"),
    [
        ("unet/config.json", {"_class_name": "StableDiffusionPipeline"}, "unknown class"),
        ("unet/config.json", {"_class_name": ["UNet2DConditionModel"]}, "cannot be loaded"),
        ("unet/config.json", {"block_out_channels": [HUGE] * 4}, "larger than"),
        ("unet/config.json", {"block_out_channels": [60_000] * 4}, "cannot hold"),
        ("unet/config.json", {"layers_per_block": 60_000}, "larger than"),
        ("unet/config.json", {"quantization_config": {"quant_method": "bitsandbytes"}}, "not supported"),
        ("vae/config.json", {"norm_num_groups": 0}, "cannot be loaded"),
        ("vae/config.json", {"latent_channels": -1}, "cannot be loaded"),
        (
            "noise_predictor_config.json",
            {"temb_channels": 65_000, "block_out_channels": [8192, 8192]},
            "hold",
        ),
        ("noise_predictor_config.json", {"down_block_types": ["os.system"] * 2}, "cannot be loaded"),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": HUGE}, "larger than"),
    ],
)
def test_absurd_descriptions_are_refused(tiny: Path, file: str, values: dict[str, Any], why: str) -> None:
    changed(tiny / file, **values)
    with pytest.raises(ModelError, match=why):
        InvSR.load(tiny)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"tile": HUGE}, "larger than"),
        ({"tile": 8192}, "up to 4096"),
        ({"tile": 16.5}, "whole number"),
        ({"tile": "../../etc/passwd"}, "whole number"),
        ({"multiple": 0}, "cannot be loaded"),
        ({"fill_tile": "yes"}, "true or false"),
        ({"weights": "/etc/passwd"}, "not known"),
        ({"detail": {"grain": "much"}}, "numbers"),
        ({"detail": {"path": 1}}, "cannot be loaded"),
        ({"guard": {"peak": float("inf")}}, "finite"),
    ],
)
def test_absurd_settings_are_refused(default: Path, values: dict[str, Any], why: str) -> None:
    changed(default / "invsr.json", **values)
    with pytest.raises(ModelError, match=why):
        InvSR.load(default)


def _with_header(path: Path, header: bytes, length: int | None = None) -> None:
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + bytes(64))


@pytest.mark.parametrize(
    ("header", "length"),
    [
        (b"{}", 2**63),
        (b"{}", 2**40),
        (b'{"a":{"dtype":"F32","shape":[1000000000,1000000000],"data_offsets":[0,64]}}', None),
        (b'{"a":{"dtype":"F32","shape":[16],"data_offsets":[0,18446744073709551615]}}', None),
        (b'{"a":{"dtype":"F32","shape":[16],"data_offsets":[64,0]}}', None),
        (b"[" * 100_000, None),
        (b'{"a":{"dtype":"F32","shape":[16],"data_offsets":[0,64]}}', None),
    ],
)
@pytest.mark.parametrize("part", ["vae/diffusion_pytorch_model.safetensors", "prompt_embeds.safetensors"])
def test_absurd_headers_are_refused(tiny: Path, part: str, header: bytes, length: int | None) -> None:
    _with_header(tiny / part, header, length)
    with pytest.raises(ModelError):
        InvSR.load(tiny)


def test_an_index_names_no_files_elsewhere(tiny: Path) -> None:
    folder = tiny / "vae"
    weights = folder / "diffusion_pytorch_model.safetensors"
    shutil.move(weights, tiny / "elsewhere.safetensors")
    index = {"metadata": {}, "weight_map": {"encoder.conv_in.weight": "../elsewhere.safetensors"}}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="other folders"):
        InvSR.load(tiny)


class _Runs:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch ran",)


def test_a_pickle_runs_nothing(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": _Runs(), "padding": torch.zeros(200_000)}, tiny / "noise_predictor.pth")
    with pytest.raises(ModelError, match="plain tensors"):
        InvSR.load(tiny)
    (tiny / "noise_predictor.pth").write_bytes(pickle.dumps((_Runs(), bytes(600_000))))
    with pytest.raises(ModelError, match="plain tensors"):
        InvSR.load(tiny)
    assert not (tmp_path / "ran").exists()


def _mutate(path: Path, rng: random.Random) -> None:
    """A few mistakes, near the beginning of what is long."""
    data = bytearray(path.read_bytes())
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(min(len(data), 4096))
        match rng.randrange(4):
            case 0:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                del data[at : at + rng.randint(1, 16)]
            case 2:
                data[at:at] = rng.choice([b"9999999", b"-", b"null", b'"', b"[[[[", b"1e400", b"\0"])
            case 3:
                del data[at + 1 :]
    path.write_bytes(data)


@pytest.mark.slow  # computes for long
def test_damaged_ones_load_or_are_refused(tiny: Path, default: Path) -> None:
    ends = {"loaded": 0, "refused": 0}
    for number in range(MUTANTS):
        rng = random.Random(number)
        model = rng.choice([tiny, default])
        files = sorted(path for path in model.rglob("*") if path.is_file())
        path = rng.choice(files)
        whole = path.read_bytes()
        _mutate(path, rng)
        try:
            InvSR.load(model)
            ends["loaded"] += 1
        except ModelError:
            ends["refused"] += 1
        path.write_bytes(whole)
    assert ends["refused"] > MUTANTS / 4, ends
