"""Train the embedded model on prepared samples.

    python -m invsr_daemon.train.distil.train CONFIG.yaml --base MODEL --pool DIR --out DIR
        [--threads 1] [--paused FILE] [--pid FILE]

Goes on from OUT/checkpoint.pt. A step's samples, starts and noise are a function of the seed, the step and
how many samples the pool had when it was last looked at, which the checkpoint knows: a killed training
takes the same steps. OUT/model holds the averaged weights of the last checkpoint, ready to be loaded.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from ...errors import ConfigError, InvsrError
from ...files.durable import sync_rename
from ...restorers.guard import Guard
from ..batches import ahead
from .pausing import wait_while, write_pid
from .pool import Kind, Pool, Sample, Samples, drawn_numbers, kind_of
from .precision import quick_precision
from .student import Student, Weights

CHECKPOINT = "checkpoint.pt"
FEWEST_SAMPLES = 3


@dataclass(frozen=True)
class Plan:
    """What a training is. `changes` to the base's networks; see `Student`.

    `teacher` says for a start timestep how much of the wanted picture is the teacher's, the rest is the
    truth. `starts` says how often each is drawn; photographs without a teacher's picture always have the
    lowest.
    """

    steps: int = 20_000
    batch: int = 4
    learning_rate: float = 2e-4
    final_learning_rate: float = 2e-6
    warmup: int = 50
    falling: int = 1000  # steps at the end in which the rate falls
    ema: float = 0.998
    seed: int = 0
    refresh_steps: int = 50
    checkpoint_seconds: float = 240
    report_steps: int = 20
    shares: dict[str, float] = field(default_factory=lambda: {"taught": 0.45, "plain": 0.2, "drawn": 0.35})
    starts: dict[int, float] = field(default_factory=lambda: {100: 0.3, 150: 0.1, 200: 0.4, 250: 0.2})
    teacher: dict[int, float] = field(default_factory=lambda: {100: 0.0, 150: 0.3, 200: 0.6, 250: 0.85})
    weights: dict[str, Any] = field(default_factory=dict)
    guard: dict[str, float] = field(default_factory=dict)
    changes: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Plan:
        """Raises ConfigError."""
        try:
            return cls(**(yaml.safe_load(path.read_text(encoding="utf-8")) or {}))
        except (OSError, yaml.YAMLError, TypeError) as error:
            raise ConfigError(f"{path}: {error}") from error

    def rate(self, step: int) -> float:
        """Linear warm-up, constant, then half a cosine down."""
        done = max(0, step - (self.steps - self.falling)) / max(1, self.falling)
        swing = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        level = self.final_learning_rate + (self.learning_rate - self.final_learning_rate) * swing
        return min(1.0, (step + 1) / max(1, self.warmup)) * level


@dataclass(frozen=True)
class Batch:
    """[B,3,...] in [0,1]; `start` [B]; and what draws next."""

    poor: Tensor
    wanted: Tensor
    sharp: Tensor
    start: Tensor
    rng: np.random.Generator

    def to(self, device: torch.device) -> Batch:
        """The same on a device, laid out for convolutions."""
        poor, wanted, sharp = (
            each.to(device, memory_format=torch.channels_last)
            for each in (self.poor, self.wanted, self.sharp)
        )
        return Batch(poor, wanted, sharp, self.start.to(device), self.rng)


def batch_of(plan: Plan, pool: Samples, size: int, step: int) -> Batch:
    """A step's batch out of the pool's first `size` samples."""
    rng = np.random.default_rng([plan.seed, step])
    shares = {kind: plan.shares[kind.value] for kind in Kind}
    numbers = drawn_numbers(rng, size, shares, plan.batch)
    starts = [_start(plan, kind_of(number), rng) for number in numbers]
    samples = [_turned(pool.read(number), rng) for number in numbers]
    poor, sharp, taught = (
        _stacked([getattr(sample, name) for sample in samples]) for name in ("poor", "sharp", "taught")
    )
    share = torch.tensor([plan.teacher[start] for start in starts])[:, None, None, None]
    wanted = torch.lerp(sharp, taught, share).contiguous(memory_format=torch.channels_last)
    return Batch(poor, wanted, sharp, torch.tensor(starts), rng)


def _start(plan: Plan, kind: Kind, rng: np.random.Generator) -> int:
    if kind is Kind.PLAIN:
        return min(plan.starts)
    return int(rng.choice(list(plan.starts), p=list(plan.starts.values())))


def _turned(sample: Sample, rng: np.random.Generator) -> Sample:
    quarters, mirrored = int(rng.integers(4)), rng.random() < 0.5
    turned = (np.rot90(each, quarters) for each in (sample.poor, sample.sharp, sample.taught))
    return Sample(*(each[:, ::-1] if mirrored else each for each in turned))


def _stacked(pictures: list[np.ndarray]) -> Tensor:
    tensor = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float().div(255)
    return tensor.contiguous(memory_format=torch.channels_last)


class Run:
    """The student with optimizer and averaged weights: all that a checkpoint holds."""

    def __init__(self, plan: Plan, student: Student) -> None:
        self.plan, self.student = plan, student
        self.parameters = [each for each in student.trained.parameters() if each.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, betas=(0.9, 0.99), weight_decay=1e-5)
        self.averaged = {name: value.detach().clone() for name, value in student.trained.state_dict().items()}
        self.step = 0
        self.pool_size = 0
        self._bf16 = quick_precision() == torch.bfloat16

    def take_step(self, batch: Batch) -> dict[str, float]:
        """Weighted losses. Raises InvsrError where the gradient is not finite."""
        batch = batch.to(self.student.device)
        with torch.autocast(self.student.device.type, torch.bfloat16, enabled=self._bf16):
            losses = self.student.losses(
                batch.poor, batch.wanted, batch.sharp, batch.start, Weights(**self.plan.weights), batch.rng
            )
        self.optimizer.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, 0.5)
        if not norm.isfinite():
            raise InvsrError(f"the gradient is not finite at step {self.step}; the last checkpoint is sound")
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.rate(self.step)
        self.optimizer.step()
        decay = min(self.plan.ema, (self.step + 1) / (self.step + 10))
        for name, value in self.student.trained.state_dict().items():
            self.averaged[name].lerp_(value, 1 - decay)
        self.step += 1
        return {name: float(value.detach()) for name, value in losses.items()} | {"norm": float(norm)}

    def write(self, out: Path) -> None:
        """Checkpoint, then the averaged model; each whole or not at all."""
        out.mkdir(parents=True, exist_ok=True)
        partial = out / "checkpoint.partial"
        state = {
            "step": self.step,
            "pool_size": self.pool_size,
            "trained": self.student.trained.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "averaged": self.averaged,
        }
        torch.save(state, partial)
        sync_rename(partial, out / CHECKPOINT)
        with self.averaged_weights() as student:
            student.save(out / "model")

    @contextmanager
    def averaged_weights(self) -> Iterator[Student]:
        """The student with averaged weights, as long as this lasts."""
        trained = self.student.trained
        kept = {name: value.clone() for name, value in trained.state_dict().items()}
        trained.load_state_dict(self.averaged)
        try:
            yield self.student
        finally:
            trained.load_state_dict(kept)

    def read(self, out: Path) -> None:
        """From a checkpoint if there is one. Raises ConfigError if it is another training's."""
        path = out / CHECKPOINT
        if not path.exists():
            return
        state = torch.load(path, map_location="cpu", weights_only=True)
        try:
            self.student.trained.load_state_dict(state["trained"])
            self.optimizer.load_state_dict(state["optimizer"])
            for name, value in self.averaged.items():
                value.copy_(state["averaged"][name])
            self.step, self.pool_size = state["step"], state["pool_size"]
        except (LookupError, RuntimeError, ValueError) as error:
            raise ConfigError(f"{path} was not made by this plan: {error}") from error


def train(
    plan: Plan,
    student: Student,
    pool: Samples,
    out: Path,
    paused: Path | None = None,
    *,
    seconds: float = math.inf,
    workers: int = 0,
    saved: Callable[[Run], None] = lambda run: None,
) -> Run:
    """To the plan's last step, or for so many seconds, or until killed.

    `workers`: threads that prepare batches ahead. `saved` is called after each checkpoint. Raises ConfigError
    if the checkpoint does not fit.
    """
    run = Run(plan, student)
    run.read(out)
    if pool.size() < run.pool_size:
        raise ConfigError(f"the pool has fewer than the {run.pool_size} samples of the checkpoint")
    say(
        f"step {run.step} of {plan.steps}, {sum(each.numel() for each in run.parameters) / 1e6:.2f} M trained"
    )
    sums: dict[str, float] = {}
    ends = time.monotonic() + seconds
    began = written = time.monotonic()
    with closing(_batches(run, pool, workers)) as batches:
        while time.monotonic() < ends and (batch := next(batches, None)) is not None:
            wait_while(paused, say=say)
            found = run.take_step(batch)
            sums = {name: sums.get(name, 0.0) + value for name, value in found.items()}
            if run.step % plan.report_steps == 0:
                means = " ".join(f"{name} {value / plan.report_steps:.5f}" for name, value in sums.items())
                pace = (time.monotonic() - began) / plan.report_steps
                say(f"step {run.step} {means} pool {run.pool_size} {pace:.2f} s/step")
                sums, began = {}, time.monotonic()
            if time.monotonic() - written > plan.checkpoint_seconds:
                run.write(out)
                saved(run)
                written = time.monotonic()
    run.write(out)
    saved(run)
    return run


def _batches(run: Run, pool: Samples, workers: int) -> Generator[Batch, None, None]:
    """Those of the steps that are left. The pool's size is looked at every `refresh_steps`."""
    plan = run.plan
    while run.step < plan.steps:
        if run.step % plan.refresh_steps == 0 or run.pool_size < FEWEST_SAMPLES:
            run.pool_size = _filled(pool, run.pool_size)
        until = min(plan.steps, (run.step // plan.refresh_steps + 1) * plan.refresh_steps)
        make = partial(batch_of, plan, pool, run.pool_size)
        with closing(ahead(make, range(run.step, until), workers)) as batches:
            yield from batches


def _filled(pool: Samples, known: int) -> int:
    """The pool's size, once there is anything in it."""
    while (size := pool.size(known)) < FEWEST_SAMPLES:
        time.sleep(2)
    return size


def say(line: str) -> None:
    print(time.strftime("%H:%M:%S"), line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("plan", type=Path)
    parser.add_argument("--base", type=Path, action="append", required=True)
    parser.add_argument("--pool", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--paused", type=Path)
    parser.add_argument("--pid", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.pid:
        write_pid(given.pid)
    plan = Plan.read(given.plan)
    student = Student(given.base, plan.changes, Guard(**plan.guard), torch.device("cpu"))
    train(plan, student, Pool(given.pool), given.out, given.paused)


if __name__ == "__main__":
    main()
