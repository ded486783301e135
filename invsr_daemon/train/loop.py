"""The loop around a stage: AdamW, cosine schedule, averaged weights, checkpoints that resume.

Batches and noise are functions of (seed, step), so a run killed and resumed takes the same steps.
"""

from __future__ import annotations

import logging
import math
import os
import time
from pathlib import Path

import torch

from .config import TrainConfig
from .photographs import Photographs
from .stages import Stage

log = logging.getLogger(__name__)


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up, then half a cosine down to `final_learning_rate`."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    swing = 0.5 * (1 + math.cos(math.pi * done))
    return config.final_learning_rate + (config.learning_rate - config.final_learning_rate) * swing


def train(config: TrainConfig, stage: Stage, photographs: Photographs, out: Path) -> None:
    """Train to the end, from `out/checkpoint.pt` if there is one; save the averaged part in `out`."""
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = out / "checkpoint.pt"
    stage.trained.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # torch's stub lacks it
    optimizer = torch.optim.AdamW(stage.trained.parameters(), betas=(0.9, 0.99), weight_decay=1e-4)
    averaged = {name: value.detach().clone() for name, value in stage.trained.state_dict().items()}
    first = _resume(checkpoint, stage, optimizer, averaged)
    saved = reported = time.monotonic()
    sums: dict[str, float] = {}
    for step in range(first, config.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
        sharp = photographs.crops(config.data.batch, config.data.crop, config.seed, step)
        with torch.autocast("cpu", torch.bfloat16):
            losses = stage.losses(sharp.contiguous(memory_format=torch.channels_last), step)
        torch.stack(list(losses.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(stage.trained.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        _average(stage, averaged, min(config.ema, (step + 1) / (step + 10)))
        for name, value in losses.items():
            sums[name] = sums.get(name, 0.0) + value.item()
        if (step + 1) % 100 == 0:
            now = time.monotonic()
            shown = " ".join(f"{name} {value / 100:.5f}" for name, value in sums.items())
            log.info("step %d/%d  %s  %.2f s/step", step + 1, config.steps, shown, (now - reported) / 100)
            reported, sums = now, {}
        if time.monotonic() - saved > config.checkpoint_seconds:
            _checkpoint(checkpoint, step + 1, stage, optimizer, averaged)
            saved = time.monotonic()
    _checkpoint(checkpoint, config.steps, stage, optimizer, averaged)
    stage.save(out, averaged)


def _average(stage: Stage, averaged: dict[str, torch.Tensor], decay: float) -> None:
    for name, value in stage.trained.state_dict().items():
        averaged[name].lerp_(value, 1 - decay)


def _checkpoint(
    path: Path, step: int, stage: Stage, optimizer: torch.optim.Optimizer, averaged: dict[str, torch.Tensor]
) -> None:
    partial = path.with_suffix(".partial")
    state = {"step": step, "weights": stage.trained.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save({**state, "averaged": averaged}, partial)
    os.replace(partial, path)


def _resume(
    path: Path, stage: Stage, optimizer: torch.optim.Optimizer, averaged: dict[str, torch.Tensor]
) -> int:
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    stage.trained.load_state_dict(state["weights"])
    optimizer.load_state_dict(state["optimizer"])
    averaged.update(state["averaged"])
    log.info("resuming at step %d", state["step"])
    return int(state["step"])
