"""What a CUDA device does with this program: one run of under five minutes, one JSON, one table.

    python benchmarks/gpu.py --out DIR [--budget 270] [--device cuda:0] [--dry] [--skip NAME,...]
    python benchmarks/gpu.py --table gpu.json

Needs no network, and neither av nor cv2: what they are needed for is left out. Full-size networks get random
weights. `DIR/gpu.json` is written after each stage, so that whatever ends the run leaves what was found;
`DIR/gpu.md` at the end. docs/performance.md describes both. `--dry` tries everything on the CPU in miniature.
Exit codes: 0 all checks passed, 1 one failed.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# Threads that wait must not spin, here and in other processes: on a busy machine that costs much.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
from gpu_children import Children, Parent
from gpu_device import Setting, machine, prepare
from gpu_faults import Questions, compiled, memory_stage, poisoned, two_processes, worker_memory
from gpu_results import Findings, Report, Result, Value
from gpu_stages import ceilings, embedded_model, film_stage, full_stage

DRY_SHARE = 0.1


@dataclass(frozen=True)
class Stage:
    """One part of a run. `seconds`: it is not begun with less left.

    `needs`: packages, none as a rule. `asks`: children, by their names.
    """

    name: str
    seconds: float
    run: Callable[[Parent, Findings], None]
    needs: tuple[str, ...] = ()
    asks: tuple[str, ...] = ()


def _encoders(setting: Setting, found: Findings) -> None:
    from gpu_encoders import encode_stage

    encode_stage(setting, found)


STAGES = (  # the most telling first
    Stage("ceilings", 10, ceilings),
    Stage("embedded", 15, embedded_model),
    Stage("film", 50, film_stage),
    Stage("full-fp16", 30, partial(full_stage, dtype_name="fp16")),
    Stage("full-bf16", 30, partial(full_stage, dtype_name="bf16")),
    Stage("memory", 20, memory_stage),
    Stage("worker-memory", 5, worker_memory),
    Stage("two-processes", 25, two_processes, asks=("one", "other")),
    Stage("poisoned", 25, poisoned, asks=("one", "fresh")),
    Stage("compiled", 60, compiled, asks=("other", "fresh")),
    Stage("encoders", 15, _encoders, needs=("av",)),
)


def performed(stage: Stage, setting: Parent, skipped: frozenset[str]) -> Result:
    """A stage's result, whatever happens in it."""
    found = Findings()
    reason = _reason_to_skip(stage, setting, skipped)
    if reason:
        found.note(reason)
        return found.result(stage.name, "skipped", 0.0)
    began = time.monotonic()
    try:
        stage.run(setting, found)
        status: Any = "ran"
    except Exception as error:
        traceback.print_exc()
        found.check("it ran to its end", False, f"{type(error).__name__}: {error}"[-500:], "no exception")
        status = "failed"
    result = found.result(stage.name, status, time.monotonic() - began)
    setting.release()
    return result


def _reason_to_skip(stage: Stage, setting: Setting, skipped: frozenset[str]) -> str:
    if stage.name in skipped:
        return "skipped as asked"
    missing = [name for name in stage.needs if find_spec(name) is None]
    if missing:
        return f"{', '.join(missing)} is not there"
    needed = stage.seconds * (DRY_SHARE if setting.dry else 1)
    if setting.left() < needed:
        return f"does not fit the budget: {needed:g} s are needed, {max(0.0, setting.left()):.0f} s are left"
    return ""


def _asked(setting: Setting, skipped: frozenset[str]) -> list[str]:
    """The children that there will be questions for."""
    stages = [stage for stage in STAGES if not _reason_to_skip(stage, setting, skipped)]
    return list(dict.fromkeys(name for stage in stages for name in stage.asks))


def run(setting: Parent, out: Path, arguments: dict[str, Value], skipped: frozenset[str]) -> Report:
    """All stages in turn; the report is on disk after each."""
    out.mkdir(parents=True, exist_ok=True)
    gc.freeze()  # what is loaded stays: nobody need look for garbage in it
    if setting.dry:  # elsewhere nobody may be at work beside what is measured
        setting.children.begin(_asked(setting, skipped))
    try:
        prepare(setting)
        return _run(setting, out, Report(machine(setting), arguments, ()), skipped)
    finally:
        setting.children.close()


def _run(setting: Parent, out: Path, report: Report, skipped: frozenset[str]) -> Report:
    for stage in STAGES:
        print(f"{stage.name} ...", flush=True)
        result = performed(stage, setting, skipped)
        report = Report(report.machine, report.arguments, (*report.stages, result))
        report.write(out / "gpu.json")
        print(f"  {result.status} in {result.seconds:.1f} s {result.note}", flush=True)
        for check in result.checks:
            if not check.passed:
                print(f"  FAILED {check.name}: {check.value} (must be {check.limit})", flush=True)
    (out / "gpu.md").write_text(report.table())
    return report


def parent_of(setting: Setting) -> Parent:
    """In a dry run children are copies of this process, which has loaded torch: that takes seconds."""
    children = Children(partial(Questions, setting), "fork" if setting.dry else "spawn")
    return Parent(setting.device, setting.dry, setting.ends, children)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, help="the folder for gpu.json and gpu.md")
    parser.add_argument(
        "--budget", type=float, default=270, help="seconds; no stage begins that does not fit"
    )
    parser.add_argument("--device", help="cuda:0, in a dry run cpu, if not given")
    parser.add_argument("--dry", action="store_true", help="in miniature, on the CPU")
    parser.add_argument(
        "--skip", default="", metavar="NAME,...", help=", ".join(each.name for each in STAGES)
    )
    parser.add_argument("--table", type=Path, metavar="JSON", help="print a run's table and end")
    arguments = parser.parse_args()
    unknown = skipped_names(arguments.skip) - {stage.name for stage in STAGES}
    if unknown:
        parser.error(f"no such stage: {', '.join(sorted(unknown))}")
    if not (arguments.out or arguments.table):
        parser.error("--out is wanted")
    return arguments


def skipped_names(listed: str) -> frozenset[str]:
    return frozenset(name.strip() for name in listed.split(",") if name.strip())


def main() -> None:
    arguments = parsed()
    if arguments.table:
        print(Report.read(arguments.table).table(), end="")
        return
    device = torch.device(arguments.device or ("cpu" if arguments.dry else "cuda:0"))
    setting = Setting(device, arguments.dry, time.monotonic() + arguments.budget)
    asked: dict[str, Value] = {
        "budget": arguments.budget,
        "device": str(device),
        "dry": arguments.dry,
        "skip": arguments.skip,
    }
    report = run(parent_of(setting), arguments.out, asked, skipped_names(arguments.skip))
    print(f"{'all checks passed' if report.passed else 'a check FAILED'}: {arguments.out / 'gpu.md'}")
    sys.exit(0 if report.passed else 1)


if __name__ == "__main__":
    main()
