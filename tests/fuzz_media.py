"""Damaged pictures and films through the code that plans and reads them, as many as wanted.

    python -m tests.fuzz_media --inputs 100000 --seed 1 [--keep FOLDER]

Each input must end as a plan whose pixels can be read, or as a plain refusal (InputError, ConfigError).
They are read by processes that can open nothing else (Landlock). What is none of that is told of, kept if
wanted, and makes the exit code 1: other errors, a process that dies, one that is silent for too long, and
files left open.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import select
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from invsr_daemon.confinement import Allowed, Limits, confine, limit
from invsr_daemon.errors import ConfigError, InputError
from invsr_daemon.files.inputs import opened
from invsr_daemon.files.publishing import PublishPolicy
from invsr_daemon.media.decode import decode_chunk
from invsr_daemon.media.image import read_image
from invsr_daemon.media.source import OpenFile
from invsr_daemon.records import ImageTask
from invsr_daemon.settings.sections import VideoSection
from invsr_daemon.settings.settings import Settings
from invsr_daemon.wire.plans import Job, Target
from invsr_daemon.workers.media import plan_job
from tests.support.seeds import damaged, make_seeds

SILENT_SECONDS = 30
BATCH = 200  # inputs for one process
CHUNK_FRAMES = 8


@dataclass(frozen=True)
class Finding:
    """An input that ended as none should."""

    number: int
    name: str
    what: str


@dataclass(frozen=True)
class Outcome:
    """How many inputs ended how, and those that ended badly."""

    ends: Counter[str]
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Inputs:
    """Damaged copies of seeds: the n-th is a function of the seed and n."""

    seeds: tuple[tuple[str, bytes], ...]
    seed: int

    @classmethod
    def make(cls, folder: Path, seed: int) -> Inputs:
        return cls(tuple((path.name, path.read_bytes()) for path in make_seeds(folder)), seed)

    def of(self, number: int) -> tuple[str, bytes]:
        """Name and content."""
        rng = random.Random(f"{self.seed} {number}")
        name, data = rng.choice(self.seeds)
        others = tuple(content for _, content in self.seeds)
        return name, damaged(data, others, rng)


def fuzz(inputs: Inputs, numbers: range, folder: Path, keep: Path | None = None) -> Outcome:
    """Read these inputs, in processes that may die."""
    ends: Counter[str] = Counter()
    findings: list[Finding] = []
    for first in range(numbers.start, numbers.stop, BATCH):
        batch = range(first, min(first + BATCH, numbers.stop))
        while batch:
            for number, end, what in _in_a_process(inputs, batch, folder):
                ends[end] += 1
                batch = range(number + 1, batch.stop)
                if end not in ("read", "refused"):
                    name, data = inputs.of(number)
                    findings.append(Finding(number, name, what))
                    if keep is not None:
                        (keep / f"{number}-{name}").write_bytes(data)
    return Outcome(ends, tuple(findings))


def _in_a_process(inputs: Inputs, batch: range, folder: Path) -> Iterator[tuple[int, str, str]]:
    """Number, end and details of each input that a process came to; of the last one also if it died of it."""
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(reading)
        with os.fdopen(writing, "w", buffering=1) as report:
            _read_all(inputs, batch, folder, report)
        os._exit(0)
    os.close(writing)
    waiting = iter(batch)
    with os.fdopen(reading) as report:
        while (heard := select.select([report], [], [], SILENT_SECONDS)[0]) and (line := report.readline()):
            end, what = json.loads(line)
            yield next(waiting), end, what
        left = next(waiting, None)
        if not heard:
            os.kill(process, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        if left is not None:
            yield left, "died" if heard else "silent", f"exit code {status}"


def _read_all(inputs: Inputs, batch: range, folder: Path, report: IO[str]) -> None:
    logging.disable()
    warnings.simplefilter("ignore")
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    limit(Limits(memory=4 * 2**30, file_size=2**24, cpu_seconds=3600))
    confine(Allowed(reads=(Path("/proc/self/fd"),), changes=(folder,)))
    for number in batch:
        name, data = inputs.of(number)
        path = folder / f"{number}-{name}"
        path.write_bytes(data)
        report.write(json.dumps(_end_of(path)) + "\n")
        path.unlink()


def _end_of(path: Path) -> tuple[str, str]:
    before = len(os.listdir("/proc/self/fd"))
    try:
        read(path)
        end = "read", ""
    except (InputError, ConfigError) as error:
        end = "refused", str(error)
    except BaseException as error:
        end = "unexpected", "".join(traceback.format_exception(error))
    if len(os.listdir("/proc/self/fd")) > before:
        return "left open", str(end)
    return end


def read(path: Path) -> None:
    """Plan a file's job, and read its pixels as a worker does. Raises what those raise."""
    video = VideoSection(chunk_frames=CHUNK_FRAMES)
    settings = Settings(state_dir=path.parent / "state", video=video, temporal="off")
    model = settings.model_settings(Path("/model"))
    target = Target(path.parent / "out", path.stem)
    job = Job(path, target, settings, model, "name", PublishPolicy())
    with opened(path) as source:
        file = OpenFile(path, source)
        task = plan_job(job, file).tasks[-1]  # of a film, what comes after a seek
        if isinstance(task, ImageTask):
            read_image(task.info, file)
            return
        for _ in decode_chunk(task.info, task.chunk, file):
            pass


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first one")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="a folder for inputs that ended badly")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        inputs = Inputs.make(Path(folder), arguments.seed)
        numbers = range(arguments.first, arguments.first + arguments.inputs)
        outcome = fuzz(inputs, numbers, Path(folder), arguments.keep)
    for finding in outcome.findings:
        print(f"{finding.number} {finding.name}: {finding.what}")
    print(f"{arguments.inputs} inputs: {dict(outcome.ends)}")
    return 1 if outcome.findings else 0


if __name__ == "__main__":
    sys.exit(main())
