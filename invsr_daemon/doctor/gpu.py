"""`doctor --gpu`: whether each device computes what it should, and survives a fault. A line for each."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from ..errors import ConfigError
from ..pool.devices import choose_devices, named_by_torch
from ..records import VideoSettings
from ..settings.settings import Settings
from .encoders import TRIED_ENCODERS
from .findings import Finding, Level
from .machine import Answers, ask_probe

ELSEWHERE = "name the other devices in `devices`"
WRONG = (
    f"look for Xid in the kernel's log (dmesg) and test the card (dcgmi diag -r 3); until then {ELSEWHERE}"
)
MENDS = {
    "architecture": "install the build of torch for this GPU: https://pytorch.org/get-started/locally/",
    "memory": f"see who uses it (nvidia-smi, rocm-smi) and end that, or {ELSEWHERE}",
    "products": WRONG,
    "convolutions": WRONG,
    "film": f"resumed films would not be bit-identical; {WRONG}",
    "loss": f"reset it (nvidia-smi --gpu-reset) or restart the machine; until then {ELSEWHERE}",
    "probe": f"update the driver, or install the build of torch for it; until then {ELSEWHERE}",
}
# Too little memory may only be so now; all else is broken.
LEVELS: dict[str, Level] = {"memory": "WARN"}


@dataclass(frozen=True)
class Sight:
    """One thing that a device was asked about, as `workers.device_trial.Seen` has it."""

    subject: str
    text: str
    problem: bool = False


def check_gpus(settings: Settings) -> Iterator[Finding]:
    """All devices that are set, at once: each has processes of its own."""
    try:
        devices = list(dict.fromkeys(choose_devices(settings.devices, settings.workers)))
    except ConfigError:
        yield Finding("INFO", "device", "none was tried: see `devices`")
        return
    with ThreadPoolExecutor(len(devices)) as pool:
        yield from pool.map(check_device, devices)
    if any(name != "cpu" for name in devices):
        yield check_nvenc()


def check_device(name: str) -> Finding:
    """One line: what was seen, or only what is wrong."""
    seen = list(_computing(name))
    if all(each.subject != "probe" for each in seen):
        seen.append(_losing(name))
    problems = [each for each in seen if each.problem]
    told = "; ".join(each.text for each in problems or seen)
    if not problems:
        return Finding("OK", f"device {name}", told)
    levels = {LEVELS.get(each.subject, "FAIL") for each in problems}
    mend = "; ".join(dict.fromkeys(MENDS[each.subject] for each in problems))
    return Finding("FAIL" if "FAIL" in levels else "WARN", f"device {name}", told, mend)


def _computing(name: str) -> Iterator[Sight]:
    answers = _ask("device", name)
    for line in answers.lines:
        yield Sight(**line)
    if answers.problem:
        when = f"after {answers.lines[-1]['subject']}" if answers.lines else "at once"
        yield Sight("probe", f"the process that tried it ended {when}: {answers.problem}", problem=True)


def _ask(question: str, name: str) -> Answers:
    torchs, seen = named_by_torch(name)
    return ask_probe(question, torchs, environment=seen)


def _losing(name: str) -> Sight:
    """A failed assertion loses a device for the process it happens in, and must for that one only."""
    if _shares_faults():
        return Sight("loss", "not lost for a trial: under MPS others would lose it, too")
    lost = _ask("lose", name)
    if any(line["raised"] is None for line in lost.lines):
        return Sight("loss", "not lost for a trial: assertions do not fail on it")
    after = _ask("products", name)
    if after.problem:
        return Sight("loss", f"after a failed assertion no process can use it: {after.problem}", problem=True)
    if any(line["problem"] for line in after.lines):
        return Sight("loss", "after a failed assertion it computes wrongly", problem=True)
    return Sight("loss", "well again after a failed assertion")


def _shares_faults() -> bool:
    """Whether CUDA's multi-process service runs: a fault in one of its processes ends them all."""
    pipes = os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps")
    return (Path(pipes) / "control").exists()


def check_nvenc() -> Finding:
    """Whether the GPU's encoder works; some cards (A100, H100) have none."""
    tried = {name: kind for name, kind in TRIED_ENCODERS.items() if name.endswith("_nvenc")}
    settings = [VideoSettings(name, 30, "", kind, "auto", 2, ()) for name, kind in tried.items()]
    answers = ask_probe("encoders", json.dumps([asdict(each) for each in settings]))
    problems = [answer["problem"] for answer in answers.lines]
    problems += [str(answers.problem)] * (len(tried) - len(problems))
    told = [
        f"{name}: {problem.rpartition(': ')[2] if problem else 'encodes'}"
        for name, problem in zip(tried, problems, strict=True)
    ]
    if all(problems):
        mend = "some GPUs have no encoder (A100, H100): then use libx264; else install libnvidia-encode"
        return Finding("INFO", "NVENC", ", ".join(told), mend)
    return Finding("OK", "NVENC", ", ".join(told))
