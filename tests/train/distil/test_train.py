"""Training on samples: it learns, resumes at the same weights, and its model loads and restores."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from invsr_daemon.errors import ConfigError
from invsr_daemon.restorers.guard import Guard
from invsr_daemon.restorers.invsr.compact import CompactAutoencoder, CompactNoisePredictor, CompactUNet
from invsr_daemon.restorers.invsr.loading import load_parts
from invsr_daemon.train.distil.pool import Pool, Sample
from invsr_daemon.train.distil.student import Student
from invsr_daemon.train.distil.train import Plan, Run, batch_of, train

PLAN = Plan(steps=4, batch=2, warmup=1, falling=1, refresh_steps=2, report_steps=2)
CPU = torch.device("cpu")


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
def pool(tmp_path: Path) -> Pool:
    pool, rng = Pool(tmp_path / "pool"), np.random.default_rng(0)
    for number in range(6):
        poor = rng.integers(0, 256, (16, 16, 3), np.uint8)
        large = poor.repeat(4, 0).repeat(4, 1)
        pool.write(number, Sample(poor, large, 255 - large))
    return pool


def student(base: Path) -> Student:
    return Student([base], {}, Guard(), CPU)


def test_a_killed_training_ends_at_the_same_weights(base: Path, pool: Pool, tmp_path: Path) -> None:
    train(PLAN, student(base), pool, tmp_path / "whole", None)
    train(replace(PLAN, steps=2, falling=0), student(base), pool, tmp_path / "cut", None)
    run = Run(PLAN, student(base))
    run.read(tmp_path / "cut")
    assert run.step == 2
    first = torch.load(tmp_path / "whole" / "checkpoint.pt", weights_only=True)
    train(replace(PLAN, falling=1), student(base), pool, tmp_path / "cut", None)
    second = torch.load(tmp_path / "cut" / "checkpoint.pt", weights_only=True)
    for name, value in first["averaged"].items():
        assert torch.equal(value, second["averaged"][name]), name


def test_the_model_can_be_loaded(base: Path, pool: Pool, tmp_path: Path) -> None:
    train(PLAN, student(base), pool, tmp_path / "out", None)
    parts = load_parts(tmp_path / "out" / "model", CPU, torch.float32)
    assert parts.guard == Guard()


def test_the_start_says_whose_picture_is_wanted(pool: Pool) -> None:
    plan = replace(PLAN, batch=1, shares={"taught": 1.0, "plain": 0.0, "drawn": 0.0}, starts={250: 1.0})
    batch = batch_of(replace(plan, teacher={250: 1.0}), pool, 6, 0)
    assert torch.allclose(batch.wanted, 1 - batch.sharp, atol=1e-6)
    batch = batch_of(replace(plan, teacher={250: 0.0}), pool, 6, 0)
    assert torch.equal(batch.wanted, batch.sharp)


def test_photographs_without_a_teacher_have_the_lowest_start(pool: Pool) -> None:
    plan = replace(PLAN, batch=8, shares={"taught": 0.0, "plain": 1.0, "drawn": 0.0})
    assert (batch_of(plan, pool, 6, 0).start == 100).all()


def test_another_network_s_checkpoint_is_refused(base: Path, pool: Pool, tmp_path: Path) -> None:
    train(PLAN, student(base), pool, tmp_path / "out", None)
    other = Student([base], {"vae": {"decoder_blocks": (1, 2)}}, Guard(), CPU)
    with pytest.raises(ConfigError, match="not made by this plan"):
        Run(PLAN, other).read(tmp_path / "out")
