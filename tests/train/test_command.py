"""`invsr-daemon train`, in processes of its own: one, and two that train together."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from invsr_daemon.errors import ConfigError
from invsr_daemon.train import TrainOptions, train_files
from invsr_daemon.train.batches import Batch, Draw, generator
from invsr_daemon.train.loop import train
from invsr_daemon.train.photographs import Photographs
from invsr_daemon.train.stages import Outcome, Stage, make_stage
from tests.support.command import PATIENCE_SECONDS, Home
from tests.train.tiny import CPU, config, settings

WEIGHTS = Path("noise_predictor") / "diffusion_pytorch_model.safetensors"


def configuration(folder: Path, **changes: Any) -> Path:
    """A file for the tiny noise predictor."""
    given = settings("noise_predictor", **changes)
    path = folder / "train.yaml"
    path.write_text(yaml.safe_dump({**given, "data": {**given["data"], "longest_sides": [96]}}))
    return path


@pytest.mark.slow
def test_the_command_trains_and_goes_on(base: Path, photographs_folder: Path, tmp_path: Path) -> None:
    data = {"crop": 32, "batch": 3, "workers": 2}
    path = configuration(tmp_path, report_steps=2, sample_steps=2, data=data)
    out = tmp_path / "new" / "out"
    finished = Home(tmp_path).run(
        "train", path, "--photographs", photographs_folder, "--out", out, "--base", base, "--device", "cpu"
    )
    assert (finished.code, finished.out) == (0, "")
    assert "step 4/5" in finished.err
    assert (out / "samples" / "step-4.png").is_file()
    learnt = load_file(out / WEIGHTS)
    train_files(TrainOptions(str(path), photographs_folder, out, (str(base),)))
    assert all(torch.equal(learnt[name], value) for name, value in load_file(out / WEIGHTS).items())


@pytest.mark.slow
def test_every_error_is_told_at_once(tmp_path: Path) -> None:
    path = configuration(tmp_path, steps=0, learning_rat=1)
    finished = Home(tmp_path).run(
        "train", path, "--photographs", tmp_path / "none", "--out", tmp_path / "out", "--base", "nothing"
    )
    assert finished.code == 2
    (line,) = finished.err.splitlines()
    for part in (str(path), "steps: ", "learning_rat: ", "none: it is not a directory", "'nothing'"):
        assert part in line
    assert not (tmp_path / "out").exists()


def test_a_base_without_the_parts_is_told(photographs_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no vae in no folder: name one with --base"):
        train_files(TrainOptions("diffusion", photographs_folder, tmp_path / "out"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_device_that_is_not_there_is_told(photographs_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no CUDA device"):
        train_files(TrainOptions("autoencoder", photographs_folder, tmp_path / "out", device="cuda"))


class BothRanks:
    """A stage that sees two processes' batches of a step, and so has the mean of their gradients."""

    def __init__(self, stage: Stage, photographs: Photographs, seed: int) -> None:
        self.trained, self.discriminator, self.save = stage.trained, stage.discriminator, stage.save
        self._stage = stage
        self._photographs = photographs
        self._seed = seed
        self._steps = itertools.count()

    def poor(self, sharp: Tensor, rng: np.random.Generator) -> Tensor:
        return sharp[:0]

    def shown(self, batch: Batch) -> tuple[Tensor, ...]:
        return ()

    def step(self, batch: Batch) -> Outcome:
        step = next(self._steps)
        first, second = (self._stage.step(self._batch(step, rank)).losses for rank in (0, 1))
        return Outcome({name: (first[name] + second[name]) / 2 for name in first})

    def _batch(self, step: int, rank: int) -> Batch:
        sharp = self._photographs.crops(3, 32, generator(self._seed, step, Draw.CROPS, rank))
        rng = generator(self._seed, step, Draw.STEP, rank)
        return Batch(sharp, self._stage.poor(sharp, rng), rng)


@pytest.fixture
def together(tmp_path: Path) -> Callable[..., None]:
    """Runs a script in two processes, as `accelerate launch` does for two devices."""

    def run(*arguments: str | Path) -> None:
        launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
        finished = subprocess.run(
            [*launcher, *map(str, arguments)],
            env=Home(tmp_path).environment() | {"OMP_NUM_THREADS": "1"},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        assert finished.returncode == 0, finished.stderr

    return run


@pytest.mark.slow
def test_two_processes_train_one_network(
    base: Path,
    photographs: Photographs,
    photographs_folder: Path,
    tmp_path: Path,
    together: Callable[..., None],
) -> None:
    changes = {"loss": {"pixel": 1.0, "latent": 0.1}, "precision": "fp32", "sample_steps": 0}
    path = configuration(tmp_path, **changes)
    out = tmp_path / "out"
    together(Path(__file__).with_name("rank.py"), path, photographs_folder, out, base)
    first, second = (torch.load(out / f"rank-{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    # As if one process had seen both batches of every step; and not as if it had seen its own alone.
    chosen = config("noise_predictor", **changes)
    wanted = {}
    for name in ("both", "alone"):
        torch.manual_seed(chosen.seed)
        stage = make_stage(chosen, [base], CPU.device)
        seen = BothRanks(stage, photographs, chosen.seed) if name == "both" else stage
        train(chosen, seen, photographs, tmp_path / name, CPU)
        wanted[name] = load_file(tmp_path / name / WEIGHTS)
    found = load_file(out / WEIGHTS)
    assert _farthest(found, wanted["both"]) < 1e-5
    assert _farthest(found, wanted["alone"]) > 1e-4


def _farthest(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return max(float((one[name] - other[name]).abs().max()) for name in one)
