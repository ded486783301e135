"""`benchmarks/gpu_train.py` on the CPU: photographs are packed, training goes on, and little is carried."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from invsr_daemon.restorers.invsr.compact import CompactAutoencoder, CompactNoisePredictor, CompactUNet
from invsr_daemon.restorers.invsr.loading import load_parts

pytestmark = pytest.mark.slow  # trains for seconds

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu_train.py"
LIMIT = 20_000  # bytes of a carried file: less than a checkpoint has


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the script in this process, which has loaded torch."""

    def run(*arguments: str | Path | float) -> None:
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
        runpy.run_path(str(SCRIPT), run_name="__main__")

    return run


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Networks of a few channels."""
    torch.manual_seed(0)
    folder = tmp_path / "base"
    CompactAutoencoder(4, 8, 8, (1, 1), (1, 1)).save_pretrained(folder / "vae")
    CompactUNet(4, 8, 1).save_pretrained(folder / "unet")
    CompactNoisePredictor(4, 8, 1).save_pretrained(folder / "noise_predictor")
    return folder


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder, rng = tmp_path / "photographs", np.random.default_rng(0)
    folder.mkdir()
    for number in range(3):
        coarse = Image.fromarray(rng.integers(0, 256, (90, 120, 3), np.uint8))
        coarse.resize((1200, 900), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return folder


def plan(folder: Path, steps: int) -> Path:
    path = folder / f"plan-{steps}.yaml"
    path.write_text(yaml.safe_dump({"steps": steps, "batch": 1, "warmup": 1, "falling": 0, "seed": 3}))
    return path


def test_a_training_goes_on_from_what_was_carried(
    command: Any, base: Path, photographs: Path, tmp_path: Path
) -> None:
    """In two pieces as in one: the same weights, out of files that are small enough."""
    archive = tmp_path / "photographs.zip"
    command("pack", "--photographs", photographs, "--to", archive)

    def train(out: Path, steps: int, seconds: float = 600) -> dict[str, Any]:
        options = ("--base", base, "--device", "cpu", "--workers", 2, "--sheet-of", 2)
        limits = ("--seconds", seconds, "--megabytes", LIMIT / 1e6)
        told = ("--photographs", archive, "--out", out, "--plan", plan(tmp_path, steps))
        command("train", *told, *options, *limits)
        found: dict[str, Any] = json.loads((out / "gpu_train.json").read_text())
        return found

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(whole, 4)
    assert train(cut, 2)["last_step"] == 2
    told = train(cut, 4)
    assert (told["first_step"], told["last_step"], told["device"], told["teacher"]) == (2, 4, "CPU", False)
    assert train(cut, 100, seconds=0)["last_step"] == 4  # no time, no step
    assert [path.name for path in cut.iterdir() if path.is_dir()] == ["step-4"]
    assert all(path.stat().st_size <= LIMIT for path in cut.rglob("*") if path.is_file())
    assert (cut / "step-4" / "checkpoint.pt.001").exists()
    states = []
    for out in (whole, cut):
        command("join", "--out", out, "--to", out / "joined")
        states.append(torch.load(out / "joined" / "checkpoint.pt", weights_only=True)["averaged"])
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert load_parts(cut / "joined" / "model", torch.device("cpu"), torch.float32).guard is not None
    with Image.open(cut / "joined" / "samples.png") as sheet:
        assert sheet.size == (3 * 192, 2 * 192)


def test_a_damaged_part_is_refused(command: Any, tmp_path: Path) -> None:
    step = tmp_path / "out" / "step-1"
    step.mkdir(parents=True)
    (step / "a").write_bytes(b"b")
    manifest = {"a": {"parts": ["a"], "sha256": "0"}, "c": {"parts": ["c"], "sha256": "0"}}
    (step / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(SystemExit, match="is damaged: carry it over once more"):
        command("join", "--out", tmp_path / "out", "--to", tmp_path / "joined")
    (step / "a").unlink()
    with pytest.raises(SystemExit, match="cannot be read"):
        command("join", "--out", tmp_path / "out", "--to", tmp_path / "joined")


def test_photographs_that_do_not_fit_are_refused(command: Any, photographs: Path, tmp_path: Path) -> None:
    archive = tmp_path / "small.zip"
    with pytest.raises(SystemExit, match=r"3 photographs do not fit into 0\.05 MB"):
        command("pack", "--photographs", photographs, "--to", archive, "--megabytes", "0.05")
    assert not archive.exists()
