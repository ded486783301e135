"""Train the embedded model for a given time, on a machine to and from which little can be carried.

    python benchmarks/gpu_train.py pack --photographs DIR [DIR ...] --to photographs.zip
    python benchmarks/gpu_train.py train --photographs photographs.zip --out DIR --seconds 240
        [--plan PLAN.yaml] [--base default] [--wheel WHEEL] [--device cuda:0] [--workers 8] [--sheet-of 6]
    python benchmarks/gpu_train.py join --out DIR --to DIR

An archive has at most 50 MB, and every file below `--out` at most 16 MB. `--out` gets, at each checkpoint, a
folder `step-N` with checkpoint, model and a sheet of samples; larger files are in parts. The same command
goes on from the last one; `join` puts its files together. `gpu_train.json` tells what was done. `--wheel` is
the teacher's (see `invsr_daemon.train.distil.make`); without it the truth is wanted at every start.
docs/training.md describes it.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import shutil
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

# Threads that wait must not spin: on a busy machine that costs much.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
from PIL import Image

from invsr_daemon import hub
from invsr_daemon.errors import ConfigError, InvsrError
from invsr_daemon.restorers.guard import Guard
from invsr_daemon.train.distil.make import Made, Maker
from invsr_daemon.train.distil.precision import quick_precision
from invsr_daemon.train.distil.sharp import HERE, names_in, photographs
from invsr_daemon.train.distil.student import Student
from invsr_daemon.train.distil.teacher import load_teacher
from invsr_daemon.train.distil.train import Plan, Run, batch_of, train
from invsr_daemon.train.samples import write_sheet
from invsr_daemon.train.stages import upsampled

MB = 1_000_000
MOST_PACKED = 50 * MB
MOST_OF_A_FILE = 16 * MB
LONGEST_SIDES = (2048, 1600, 1280, 1024, 720)  # of a packed photograph: the first with which all fit
QUALITY = 92  # of JPEG
SAMPLES = 1_000_000  # each is made when it is needed
SHEET_SEED = 1_000_003  # samples that stay the same throughout, and are not a step's
MANIFEST, SUMMARY = "manifest.json", "gpu_train.json"
ALL = ("",)  # part of every name


# Photographs in an archive


def packed(folders: Iterable[Path], archive: Path, most: int) -> int:
    """Write every photograph, reduced as far as is needed; how many there are.

    Raises ConfigError if one is measured on, or if they do not fit.
    """
    sources = photographs(folders, ALL, names_in(HERE / "held_out.txt"))
    paths = list(dict.fromkeys(source.path for source in sources))
    for longest in LONGEST_SIDES:
        _write(paths, archive, longest)
        if archive.stat().st_size <= most:
            return len(paths)
    archive.unlink()
    raise ConfigError(f"{len(paths)} photographs do not fit into {most / MB:g} MB: give fewer folders")


def _write(paths: Iterable[Path], archive: Path, longest: int) -> None:
    with zipfile.ZipFile(archive, "w") as file:
        for number, path in enumerate(paths):
            file.writestr(f"{number:04d}-{path.stem}.jpg", _jpeg(path, longest))


def _jpeg(path: Path, longest: int) -> bytes:
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    picture.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    written = io.BytesIO()
    picture.save(written, "JPEG", quality=QUALITY)
    return written.getvalue()


# What is carried away, and back


def carried(folder: Path, to: Path, most: int) -> None:
    """Copy all files so that none is larger than `most` bytes; `to` is there whole or not at all."""
    partial_folder = to.with_name(f".{to.name}.partial")
    shutil.rmtree(partial_folder, ignore_errors=True)
    partial_folder.mkdir(parents=True)
    manifest = {}
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        name, content = path.relative_to(folder).as_posix(), path.read_bytes()
        parts = [content[start : start + most] for start in range(0, len(content), most)] or [b""]
        names = [name] if len(parts) == 1 else [f"{name}.{number:03d}" for number in range(len(parts))]
        for part_name, part in zip(names, parts, strict=True):
            target = partial_folder / part_name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(part)
        manifest[name] = {"parts": names, "sha256": hashlib.sha256(content).hexdigest()}
    (partial_folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    partial_folder.replace(to)


def joined(carried_folder: Path, to: Path) -> None:
    """The reverse of `carried`. Raises ConfigError if a part is missing or damaged."""
    manifest = json.loads((carried_folder / MANIFEST).read_text())
    for name, described in manifest.items():
        try:
            content = b"".join((carried_folder / part).read_bytes() for part in described["parts"])
        except OSError as error:
            raise ConfigError(f"{error.filename} cannot be read: {error.strerror}") from error
        if hashlib.sha256(content).hexdigest() != described["sha256"]:
            raise ConfigError(f"{carried_folder / name} is damaged: carry it over once more")
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        (to / name).write_bytes(content)


def latest(out: Path) -> Path | None:
    """The folder of the last checkpoint."""
    folders = sorted(out.glob("step-*"), key=lambda path: int(path.name.partition("-")[2]))
    return folders[-1] if folders else None


# Training


@dataclass(frozen=True)
class Training:
    """What was asked for. `sheet_of`: how many samples a sheet shows; `most`: bytes of a file in `out`."""

    photographs: Path
    out: Path
    seconds: float
    plan: Plan
    base: str
    wheel: Path | None
    device: torch.device
    workers: int
    sheet_of: int
    most: int


def trained(training: Training) -> Run:
    """Go on from the last checkpoint in `out`. Raises ConfigError or InputError."""
    with tempfile.TemporaryDirectory() as folder:
        work, unpacked = Path(folder) / "run", Path(folder) / "photographs"
        with zipfile.ZipFile(training.photographs) as archive:
            archive.extractall(unpacked)
        last = latest(training.out)
        if last is not None:
            joined(last, work)
        samples = Made(_maker(training, unpacked), SAMPLES)
        plan = training.plan
        base = [hub.resolve(training.base)]
        student = Student(base, plan.changes, Guard(**plan.guard), training.device)
        return train(
            plan,
            student,
            samples,
            work,
            seconds=training.seconds,
            workers=training.workers,
            saved=partial(_saved, training, samples, work),
        )


def _maker(training: Training, unpacked: Path) -> Maker:
    dtype = quick_precision() if training.device.type == "cuda" else torch.float32
    teacher = None
    if training.wheel is not None:
        teacher = load_teacher(training.wheel).to(training.device, dtype)
    return Maker(training.plan.seed, photographs([unpacked], ALL, ()), (), teacher, dtype)


def _saved(training: Training, samples: Made, work: Path, run: Run) -> None:
    """After a checkpoint: the sheet, then everything to `out`; what was there before goes last."""
    write_sheet(_shown(training, samples, run), work / "samples.png")
    before = list(training.out.glob("step-*"))
    target = training.out / f"step-{run.step}"
    if target in before:
        return
    training.out.mkdir(parents=True, exist_ok=True)
    carried(work, target, training.most)
    for folder in before:
        shutil.rmtree(folder)


@torch.no_grad()
def _shown(training: Training, samples: Made, run: Run) -> tuple[torch.Tensor, ...]:
    """Enlarged, restored with averaged weights, wanted."""
    plan = replace(training.plan, seed=SHEET_SEED, batch=training.sheet_of)
    batch = batch_of(plan, samples, samples.size(), 0).to(training.device)
    with run.averaged_weights() as student:
        _, restored = student.restored(batch.poor, batch.start, batch.rng)
    return upsampled(batch.poor), restored, batch.wanted


def summary(training: Training, run: Run, first: int, seconds: float) -> dict[str, object]:
    steps = run.step - first
    cuda = training.device.type == "cuda"
    return {
        "schema": 1,
        "device": torch.cuda.get_device_name(training.device) if cuda else "CPU",
        "torch": torch.__version__,
        "first_step": first,
        "last_step": run.step,
        "seconds": round(seconds, 1),
        "seconds_per_step": round(seconds / steps, 4) if steps else None,
        "batch": training.plan.batch,
        "teacher": training.wheel is not None,
    }


def first_step(out: Path) -> int:
    last = latest(out)
    return 0 if last is None else int(last.name.partition("-")[2])


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    pack = commands.add_parser("pack")
    pack.add_argument("--photographs", type=Path, nargs="+", required=True)
    pack.add_argument("--to", type=Path, required=True)
    pack.add_argument("--megabytes", type=float, default=MOST_PACKED / MB)
    join = commands.add_parser("join")
    join.add_argument("--out", type=Path, required=True)
    join.add_argument("--to", type=Path, required=True)
    training = commands.add_parser("train")
    training.add_argument("--photographs", type=Path, required=True, help="what `pack` has written")
    training.add_argument("--out", type=Path, required=True)
    training.add_argument("--seconds", type=float, required=True, help="without loading, and the last save")
    training.add_argument("--plan", type=Path, default=HERE / "plan.yaml")
    training.add_argument("--base", default="default")
    training.add_argument("--wheel", type=Path)
    training.add_argument("--device", default="cuda:0" if torch.cuda.is_available() else "cpu")
    training.add_argument("--workers", type=int, default=min(8, len(os.sched_getaffinity(0))))
    training.add_argument("--sheet-of", type=int, default=6)
    training.add_argument("--megabytes", type=float, default=MOST_OF_A_FILE / MB, help="of a file in --out")
    return parser.parse_args()


def pack(given: argparse.Namespace) -> None:
    count = packed(given.photographs, given.to, int(given.megabytes * MB))
    print(f"{count} photographs, {given.to.stat().st_size / MB:.1f} MB")


def join(given: argparse.Namespace) -> None:
    last = latest(given.out)
    if last is None:
        raise ConfigError(f"{given.out} has no step-N: nothing was trained there")
    joined(last, given.to)


def go_on(given: argparse.Namespace) -> None:
    training = Training(
        given.photographs,
        given.out,
        given.seconds,
        Plan.read(given.plan),
        given.base,
        given.wheel,
        torch.device(given.device),
        given.workers,
        given.sheet_of,
        int(given.megabytes * MB),
    )
    first, began = first_step(given.out), time.monotonic()
    run = trained(training)
    told = summary(training, run, first, time.monotonic() - began)
    (given.out / SUMMARY).write_text(json.dumps(told, indent=1) + "\n")
    print(json.dumps(told))


def main() -> None:
    given = parsed()
    try:
        {"pack": pack, "train": go_on, "join": join}[given.command](given)
    except InvsrError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
