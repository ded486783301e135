"""Trainings of a few steps, on networks of a few thousand weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from invsr_daemon.train.batches import Batch, Draw, generator
from invsr_daemon.train.config import TrainConfig
from invsr_daemon.train.loop import train
from invsr_daemon.train.photographs import Photographs
from invsr_daemon.train.processes import Alone
from invsr_daemon.train.stages import Stage, make_stage

CPU = Alone(torch.device("cpu"))
NETWORKS: dict[str, dict[str, Any]] = {
    "autoencoder": {
        "latent_channels": 4,
        "width": 8,
        "width_quarter": 8,
        "encoder_blocks": (1, 1),
        "decoder_blocks": (1, 1),
    },
    "diffusion": {"in_channels": 4, "width": 8, "depth": 1},
    "noise_predictor": {"latent_channels": 4, "width": 8, "depth": 1},
}
LOSSES: dict[str, dict[str, float]] = {
    "autoencoder": {"pixel": 1.0, "prior": 0.001},
    "diffusion": {},
    "noise_predictor": {"pixel": 1.0, "latent": 0.1, "perceptual": 2.0, "adversarial": 0.1},
}
# InvSR's own kind, small: a base like Stable Diffusion takes it.
INVSR = {
    "block_out_channels": (16, 16),
    "layers_per_block": (1, 1),
    "norm_num_groups": 8,
    "temb_channels": 16,
    "attention_head_dim": 8,
}


def settings(stage: str, **changes: Any) -> dict[str, Any]:
    """A configuration as a file would hold it."""
    return {
        "stage": stage,
        "steps": 5,
        "warmup": 2,
        "learning_rate": 1e-3,
        "network": NETWORKS[stage],
        "data": {"crop": 32, "batch": 3, "longest_sides": (96,)},
        "loss": LOSSES[stage],
        **changes,
    }


def config(stage: str, **changes: Any) -> TrainConfig:
    return TrainConfig.model_validate(settings(stage, **changes))


def stage_of(config: TrainConfig, base: Sequence[Path]) -> Any:
    """A stage with all that is in it, whatever its kind."""
    return make_stage(config, base, CPU.device)


def trained(config: TrainConfig, base: Sequence[Path], photographs: Photographs, out: Path) -> Stage:
    """A stage that was trained to its end."""
    stage: Stage = stage_of(config, base)
    train(config, stage, photographs, out, CPU)
    return stage


def batch_for(stage: Stage, photographs: Photographs, count: int = 3, size: int = 32) -> Batch:
    """The first batch of seed 0."""
    sharp = photographs.crops(count, size, generator(0, 0, Draw.CROPS))
    rng = generator(0, 0, Draw.STEP)
    return Batch(sharp, stage.poor(sharp, rng), rng)
