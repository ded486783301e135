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
from torch import Tensor, nn

from .config import TrainConfig
from .critics import discriminator_loss
from .photographs import Photographs
from .stages import Stage

log = logging.getLogger(__name__)

REPORT_STEPS = 100
# A discriminator chases a moving target: little momentum.
BETAS = {"trained": (0.9, 0.99), "discriminator": (0.5, 0.99)}


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
    run = _Run(config, stage)
    first = run.resume(checkpoint)
    saved = reported = time.monotonic()
    sums: dict[str, float] = {}
    for step in range(first, config.steps):
        sharp = photographs.crops(config.data.batch, config.data.crop, config.seed, step)
        for name, value in run.step(sharp.contiguous(memory_format=torch.channels_last), step).items():
            sums[name] = sums.get(name, 0.0) + value
        if (step + 1) % REPORT_STEPS == 0:
            now = time.monotonic()
            shown = " ".join(f"{name} {value / REPORT_STEPS:.5f}" for name, value in sums.items())
            pace = (now - reported) / REPORT_STEPS
            log.info("step %d/%d  %s  %.2f s/step", step + 1, config.steps, shown, pace)
            reported, sums = now, {}
        if time.monotonic() - saved > config.checkpoint_seconds:
            run.checkpoint(checkpoint, step + 1)
            saved = time.monotonic()
    run.checkpoint(checkpoint, config.steps)
    stage.save(out, run.averaged)


class _Run:
    """A stage with its optimizers and averaged weights: everything that a checkpoint holds."""

    def __init__(self, config: TrainConfig, stage: Stage) -> None:
        self._config = config
        self._stage = stage
        self._networks: dict[str, nn.Module] = {"trained": stage.trained}
        if stage.discriminator is not None:
            self._networks["discriminator"] = stage.discriminator
        self._optimizers = {
            name: torch.optim.AdamW(
                _channels_last(network).parameters(), betas=BETAS[name], weight_decay=1e-4
            )
            for name, network in self._networks.items()
        }
        self.averaged = {name: value.detach().clone() for name, value in stage.trained.state_dict().items()}

    def step(self, sharp: Tensor, step: int) -> dict[str, float]:
        """One step of every optimizer; the losses."""
        rate = learning_rate(self._config, step)
        with torch.autocast("cpu", torch.bfloat16):
            outcome = self._stage.step(sharp, step)
        self._descend("trained", torch.stack(list(outcome.losses.values())).sum(), rate)
        losses = {name: value.item() for name, value in outcome.losses.items()}
        if self._stage.discriminator is not None and outcome.restored is not None:
            with torch.autocast("cpu", torch.bfloat16):
                real = self._stage.discriminator(sharp * 2 - 1)
                fake = self._stage.discriminator(outcome.restored.detach())
            told_apart = discriminator_loss(real, fake)
            self._descend("discriminator", told_apart, rate)
            losses["discriminator"] = told_apart.item()
        decay = min(self._config.ema, (step + 1) / (step + 10))
        for name, value in self._stage.trained.state_dict().items():
            self.averaged[name].lerp_(value, 1 - decay)
        return losses

    def _descend(self, name: str, loss: Tensor, rate: float) -> None:
        optimizer = self._optimizers[name]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._networks[name].parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()

    def checkpoint(self, path: Path, step: int) -> None:
        partial = path.with_suffix(".partial")
        state = {
            "step": step,
            "networks": {name: network.state_dict() for name, network in self._networks.items()},
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self._optimizers.items()},
            "averaged": self.averaged,
        }
        torch.save(state, partial)
        os.replace(partial, path)

    def resume(self, path: Path) -> int:
        """The step to go on with: 0 without a checkpoint."""
        if not path.exists():
            return 0
        state = torch.load(path, weights_only=True)
        for name, network in self._networks.items():
            network.load_state_dict(state["networks"][name])
            self._optimizers[name].load_state_dict(state["optimizers"][name])
        self.averaged.update(state["averaged"])
        log.info("resuming at step %d", state["step"])
        return int(state["step"])


def _channels_last(network: nn.Module) -> nn.Module:
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # torch's stub lacks it
