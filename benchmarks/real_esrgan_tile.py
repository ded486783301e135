"""The embedded model beside Real-ESRGAN x4plus in processor seconds, for one tile of 128 -> 512 pixels.

    python benchmarks/real_esrgan_tile.py --python SCRATCH/bin/python [--runs 3]

One thread each, in turns, and seconds that the processor worked, not that passed: what else the machine does
disturbs this little. SCRATCH is the environment that `real_esrgan.py` describes. Ours is measured in single
precision, as Real-ESRGAN is, and in bfloat16 (`precision: bf16`), which processors with AMX multiply faster.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from real_esrgan import open_real_esrgan

from invsr_daemon import InvSR

TILE = 128
TICKS = 100  # of a second, in /proc


def worked(process: int) -> float:
    """Seconds that a process has kept the processor busy."""
    numbers = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(numbers[11]) + int(numbers[12])) / TICKS


def seconds(clock: Callable[[], float], run: Callable[[], object], runs: int) -> float:
    """The median run by a clock, after one that does not count."""
    run()
    times = []
    for _ in range(runs):
        began = clock()
        run()
        times.append(clock() - began)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--python", type=Path, required=True, help="the other environment's")
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    poor = torch.rand(1, 3, TILE, TILE).mul(255).round().div(255)
    with open_real_esrgan(given.python, threads=1) as theirs:
        pid = theirs.process.pid
        whole = seconds(lambda: worked(pid), lambda: theirs.restore(poor), given.runs)
    print(f"Real-ESRGAN x4plus  {whole:.2f} s")
    for dtype in (torch.float32, torch.bfloat16):
        model = InvSR.load("default", dtype=dtype)
        ours = seconds(time.process_time, lambda model=model: model.restore(poor), given.runs)  # type: ignore[misc]
        print(f"default, {str(dtype).removeprefix('torch.')}  {ours:.3f} s  1/{whole / ours:.1f}")


if __name__ == "__main__":
    main()
