"""The loop around a stage: AdamW, cosine schedule, averaged weights, checkpoints that resume.

Batches and noise are functions of (seed, step, rank), so a run killed and resumed takes the same steps.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import ConfigError, InvsrError
from ..files.durable import sync_rename
from .batches import Batch, Draw, ahead, generator
from .config import TrainConfig
from .critics import Discriminator, discriminator_loss
from .photographs import Photographs
from .processes import Processes
from .samples import write_sheet
from .stages import Stage

log = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.pt"
SAMPLES = 6
# A discriminator chases a moving target: little momentum.
BETAS = {"trained": (0.9, 0.99), "discriminator": (0.5, 0.99)}


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up, then half a cosine down to `final_learning_rate`."""
    done = max(0, step - config.warmup) / max(1, config.steps - config.warmup)
    swing = 0.5 * (1 + math.cos(math.pi * done))
    falling = config.final_learning_rate + (config.learning_rate - config.final_learning_rate) * swing
    return _warmth(config, step) * falling


def discriminator_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up, then constant."""
    return _warmth(config, step) * config.loss.discriminator_rate


def _warmth(config: TrainConfig, step: int) -> float:
    return min(1.0, (step + 1) / max(1, config.warmup))


def train(
    config: TrainConfig, stage: Stage, photographs: Photographs, out: Path, processes: Processes
) -> None:
    """Train to the end, from the checkpoint in `out` if there is one, and save the averaged part there.

    In the end `stage.trained` has the averaged weights, in every process; the first one writes files.
    Raises ConfigError if the checkpoint is another training's, InvsrError if the training diverges.
    """
    source = _Source(config, stage, photographs, processes)
    run = _Run(config, stage, processes)
    first = run.resume(out / CHECKPOINT)
    with closing(ahead(source.batch, range(first, config.steps), config.data.workers)) as batches:
        if processes.rank == 0:
            out.mkdir(parents=True, exist_ok=True)
            _lead(config, run, source, batches, first, out)
        else:
            for step, batch in enumerate(batches, first):
                run.step(batch.to(processes.device), step)
    stage.trained.load_state_dict(run.averaged)
    if processes.rank == 0:
        stage.save(out)


def _lead(
    config: TrainConfig, run: _Run, source: _Source, batches: Iterator[Batch], first: int, out: Path
) -> None:
    """Every step, with what only one process does: progress, samples, checkpoints."""
    progress = _Progress(config.steps)
    saved = time.monotonic()
    for step, batch in enumerate(batches, first):
        progress.add(run.step(batch.to(source.processes.device), step))
        done = step + 1
        if _due(done, config.report_steps):
            log.info(progress.line(done))
            progress = _Progress(config.steps)
        if _due(done, config.sample_steps):
            write_sheet(run.shown(source.samples()), out / "samples" / f"step-{done}.png")
        if time.monotonic() - saved > config.checkpoint_seconds:
            run.checkpoint(out / CHECKPOINT, done)
            saved = time.monotonic()
    run.checkpoint(out / CHECKPOINT, max(first, config.steps))


def _due(done: int, every: int) -> bool:
    return every > 0 and done % every == 0


class _Source:
    """Batches by step, for one process; and the crops for samples."""

    def __init__(
        self, config: TrainConfig, stage: Stage, photographs: Photographs, processes: Processes
    ) -> None:
        self.processes = processes
        self._config = config
        self._stage = stage
        self._photographs = photographs

    def batch(self, step: int) -> Batch:
        return self._made(self._config.data.batch, step, Draw.CROPS, Draw.STEP)

    def samples(self) -> Batch:
        return self._made(SAMPLES, 0, Draw.SAMPLE_CROPS, Draw.SAMPLE).to(self.processes.device)

    def _made(self, count: int, step: int, crops: Draw, others: Draw) -> Batch:
        seed, rank = self._config.seed, self.processes.rank
        sharp = self._photographs.crops(count, self._config.data.crop, generator(seed, step, crops, rank))
        rng = generator(seed, step, others, rank)
        return Batch(sharp, self._stage.poor(sharp, rng), rng)


class _Progress:
    """Sums of losses since the last report."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._sums: dict[str, Tensor] = {}
        self._count = 0
        self._since = time.monotonic()

    def add(self, losses: dict[str, Tensor]) -> None:
        self._sums = {name: self._sums.get(name, 0.0) + value for name, value in losses.items()}
        self._count += 1

    def line(self, done: int) -> str:
        """Mean losses, seconds per step, and the time that is left."""
        means = " ".join(f"{name} {float(value) / self._count:.5f}" for name, value in self._sums.items())
        pace = (time.monotonic() - self._since) / self._count
        minutes = round(pace * (self._steps - done) / 60)
        left = f"{minutes // 60} h {minutes % 60} min left"
        return f"step {done}/{self._steps}  {means}  {pace:.2f} s/step  {left}"


class _Run:
    """A stage with its optimizers and averaged weights: everything that a checkpoint holds."""

    def __init__(self, config: TrainConfig, stage: Stage, processes: Processes) -> None:
        self._config = config
        self._stage = stage
        self._processes = processes
        self._networks: dict[str, nn.Module] = {"trained": stage.trained}
        if stage.discriminator is not None:
            self._networks["discriminator"] = stage.discriminator
        self._optimizers = {
            name: torch.optim.AdamW(network.parameters(), betas=BETAS[name], weight_decay=1e-4)
            for name, network in self._networks.items()
        }
        self.averaged = {name: value.detach().clone() for name, value in stage.trained.state_dict().items()}

    def step(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """One step of every optimizer; the losses, and the discriminator's mean logits."""
        with self._autocast():
            outcome = self._stage.step(batch)
        self._descend("trained", torch.stack(list(outcome.losses.values())).sum(), step)
        found = {name: value.detach() for name, value in outcome.losses.items()}
        if self._stage.discriminator is not None and outcome.restored is not None:
            found |= self._told_apart(self._stage.discriminator, batch.sharp, outcome.restored.detach(), step)
        decay = min(self._config.ema, (step + 1) / (step + 10))
        for name, value in self._stage.trained.state_dict().items():
            self.averaged[name].lerp_(value, 1 - decay)
        return found

    def _told_apart(
        self, discriminator: Discriminator, sharp: Tensor, restored: Tensor, step: int
    ) -> dict[str, Tensor]:
        with self._autocast():
            real, fake = discriminator(sharp * 2 - 1), discriminator(restored)
        loss = discriminator_loss(real, fake)
        self._descend("discriminator", loss, step)
        return {"discriminator": loss.detach(), "real": real.detach().mean(), "fake": fake.detach().mean()}

    def _descend(self, name: str, loss: Tensor, step: int) -> None:
        parameters = list(self._networks[name].parameters())
        optimizer = self._optimizers[name]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._processes.average([each.grad for each in parameters if each.grad is not None])
        norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        if not norm.isfinite():
            reason = "its gradient is not finite; a lower rate may help, and the last checkpoint is sound"
            raise InvsrError(f"{name} diverges at step {step + 1}: {reason}")
        rate = learning_rate if name == "trained" else discriminator_rate
        for group in optimizer.param_groups:
            group["lr"] = rate(self._config, step)
        optimizer.step()

    @torch.no_grad()
    def shown(self, batch: Batch) -> tuple[Tensor, ...]:
        """The stage's pictures of a batch, made with the averaged weights."""
        with self._averaged_weights(), self._autocast():
            return self._stage.shown(batch)

    @contextmanager
    def _averaged_weights(self) -> Iterator[None]:
        network = self._stage.trained
        kept = {name: value.clone() for name, value in network.state_dict().items()}
        network.load_state_dict(self.averaged)
        try:
            yield
        finally:
            network.load_state_dict(kept)

    def _autocast(self) -> torch.autocast:
        enabled = self._config.precision == "bf16"
        return torch.autocast(self._processes.device.type, torch.bfloat16, enabled=enabled)

    def checkpoint(self, path: Path, step: int) -> None:
        """Whole or not at all, and durable."""
        partial = path.with_suffix(".partial")
        state = {
            "step": step,
            "networks": {name: network.state_dict() for name, network in self._networks.items()},
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self._optimizers.items()},
            "averaged": self.averaged,
        }
        torch.save(state, partial)
        sync_rename(partial, path)

    def resume(self, path: Path) -> int:
        """The step to go on with: 0 without a checkpoint. Raises ConfigError if it is another training's."""
        if not path.exists():
            return 0
        state = torch.load(path, map_location="cpu", weights_only=True)
        try:
            for name, network in self._networks.items():
                network.load_state_dict(state["networks"][name])
                self._optimizers[name].load_state_dict(state["optimizers"][name])
            for name, value in self.averaged.items():
                value.copy_(state["averaged"][name])
        except (LookupError, RuntimeError, ValueError) as error:
            raise ConfigError(f"{path} was not made by this configuration: {error}") from error
        log.info("resuming at step %d", state["step"])
        return int(state["step"])
