"""How much cheaper the embedded model is than InvSR's full size: one tile of 128 -> 512 pixels by both.

    python benchmarks/full_size.py [--model default] [--runs 3] [--threads N]

The full-size networks have the shapes of SD-Turbo and of the released noise predictor, with random
weights, which cost the same. Both run in this process, single precision, one step, one after the other,
so whatever else the machine does disturbs both. Needs about 10 GB of memory and some minutes. Operations
are multiplications and additions of convolutions, matrix products and attention, counted by torch.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

from invsr_daemon import InvSR
from invsr_daemon.hub import resolve
from invsr_daemon.restorers.detail import Detail
from invsr_daemon.restorers.invsr.loading import Parts, Prompt, load_parts
from invsr_daemon.restorers.invsr.model import InvSRNetworks
from invsr_daemon.restorers.invsr.noise_predictor import NoisePredictor
from invsr_daemon.restorers.tiling import Tiling

CPU = torch.device("cpu")
TILE = 128
GOAL = 25


@dataclass(frozen=True)
class Cost:
    """Seconds of each run, and floating-point operations of one."""

    seconds: tuple[float, ...]
    operations: int

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def full_size(scheduler: EulerDiscreteScheduler) -> InvSR:
    """InvSR in its published shapes, single precision, random weights."""
    unet = UNet2DConditionModel(
        sample_size=64,
        block_out_channels=(320, 640, 1280, 1280),
        attention_head_dim=(5, 10, 20, 20),
        cross_attention_dim=1024,
        use_linear_projection=True,
    )
    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        sample_size=768,
    )
    predictor = NoisePredictor()
    for network in (unet, vae, predictor):
        network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    prompt = Prompt(torch.randn(1, 77, 1024), torch.randn(1, 77, 1024))
    tiling = Tiling(tile=TILE, overlap=TILE // 2, multiple=16)
    return model_of(Parts(vae, unet, predictor, scheduler, prompt, tiling, Detail()))


def model_of(parts: Parts) -> InvSR:
    return InvSR(InvSRNetworks(parts, CPU, torch.float32))


def parameters(parts: Parts) -> int:
    networks = (parts.vae, parts.unet, parts.noise_predictor)
    return sum(p.numel() for network in networks for p in network.parameters())


def measure(models: dict[str, InvSR], runs: int) -> dict[str, Cost]:
    """Each model once to warm up (there operations are counted), then in turns."""
    picture = torch.rand(1, 3, TILE, TILE)
    operations = {name: _operations(model, picture) for name, model in models.items()}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(runs):
        for name, model in models.items():
            began = time.perf_counter()
            model.restore(picture)
            seconds[name].append(time.perf_counter() - began)
    return {name: Cost(tuple(seconds[name]), operations[name]) for name in models}


def _operations(model: InvSR, picture: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        model.restore(picture)
    return int(counter.get_total_flops())


def report(costs: dict[str, Cost], sizes: dict[str, int]) -> str:
    """A Markdown table, the full size first."""
    full, small = costs.values()
    lines = ["| | parameters | TFLOP | seconds (median) | of |", "|---|---|---|---|---|"]
    for name, cost in costs.items():
        numbers = f"{sizes[name] / 1e6:.1f} M | {cost.operations / 1e12:.3f} | {cost.median:.3f}"
        lines.append(f"| {name} | {numbers} | {len(cost.seconds)} |")
    in_time, in_operations = full.median / small.median, full.operations / small.operations
    lines.append("")
    lines.append(f"The small one takes 1/{in_time:.1f} of the time (goal: 1/{GOAL} or less)")
    lines.append(f"and 1/{in_operations:.1f} of the operations.")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="default", help="the small model: a name or a folder")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, help="torch's; its own choice if not given")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    small = load_parts(resolve(arguments.model), CPU, torch.float32)
    models = {
        "full size": full_size(small.scheduler),
        arguments.model: model_of(small),
    }
    sizes = {name: parameters(model.restorer.parts) for name, model in models.items()}
    costs = measure(models, arguments.runs)
    print(f"{TILE} -> {4 * TILE} pixels, one step, float32, {torch.get_num_threads()} threads\n")
    print(report(costs, sizes))


if __name__ == "__main__":
    main()
