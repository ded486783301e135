"""`invsr-daemon doctor --gpu`: real processes on the CPU, and what devices might answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from invsr_daemon.doctor import gpu
from invsr_daemon.doctor.findings import Finding
from invsr_daemon.doctor.machine import Answers
from invsr_daemon.settings.settings import Settings
from tests.support.command import Home

WELL = {"problem": False}
ARCHITECTURE = {"subject": "architecture", "text": "sm_90", **WELL}
MEMORY = {"subject": "memory", "text": "70.0 of 80.0 GiB free", **WELL}
PRODUCTS = {"subject": "products", "text": "products as the CPU's", **WELL}
LOST = {"raised": "AcceleratorError: CUDA error: device-side assert triggered"}


class Telling:
    """Answers in place of probes on a GPU; keeps what was asked."""

    def __init__(self, **answers: Answers) -> None:
        well = {
            "device": Answers((ARCHITECTURE, MEMORY, PRODUCTS), None),
            "lose": Answers((LOST,), None),
            "products": Answers((PRODUCTS,), None),
            "encoders": Answers(
                ({"problem": None}, {"problem": None}, {"problem": "av1: no such chip"}), None
            ),
        }
        self._answers = {**well, **answers}
        self.asked: list[str] = []

    def __call__(self, question: str, *details: str, environment: Mapping[str, str] | None = None) -> Answers:
        self.asked.append(question)
        self.environment = environment
        return self._answers[question]


def said(monkeypatch: pytest.MonkeyPatch, **answers: Any) -> Finding:
    monkeypatch.setattr(gpu, "ask_probe", Telling(**answers))
    return gpu.check_device("cuda:0")


@pytest.fixture(autouse=True)
def without_mps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pipes = tmp_path / "mps"
    pipes.mkdir()
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(pipes))
    return pipes


@pytest.mark.slow
def test_the_cpu_is_tried_by_processes_of_its_own(tmp_path: Path) -> None:
    finished = Home(tmp_path).run("doctor", "--gpu", "--json")
    findings = [Finding(**json.loads(line)) for line in finished.out.splitlines()]
    (device,) = [each for each in findings if each.name.startswith("device ")]
    assert (device.level, device.name, device.mend) == ("OK", "device cpu", None)
    for told in ("products as", "convolutions as", "same bits twice", "well again after a failed assertion"):
        assert told in device.text


@pytest.mark.slow
def test_a_device_that_torch_cannot_use_fails_with_its_words() -> None:
    finding = gpu.check_device("cuda:0")
    assert finding.level == "FAIL"
    assert "not compiled with CUDA" in finding.text
    assert finding.mend is not None
    assert "devices" in finding.mend


def test_a_device_that_is_well_has_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    finding = said(monkeypatch)
    text = "sm_90; 70.0 of 80.0 GiB free; products as the CPU's; well again after a failed assertion"
    assert finding == Finding("OK", "device cuda:0", text)


def test_only_what_is_wrong_is_told_and_each_has_its_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    old = {"subject": "architecture", "text": "this torch has no code for sm_50", "problem": True}
    full = {"subject": "memory", "text": "0.1 of 8.0 GiB free", "problem": True}
    finding = said(monkeypatch, device=Answers((old, full, PRODUCTS), None))
    assert (finding.level, finding.text) == ("FAIL", f"{old['text']}; {full['text']}")
    assert finding.mend == f"{gpu.MENDS['architecture']}; {gpu.MENDS['memory']}"


def test_little_memory_alone_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    full = {"subject": "memory", "text": "0.1 of 8.0 GiB free", "problem": True}
    assert said(monkeypatch, device=Answers((full,), None)).level == "WARN"


def test_a_probe_that_crashes_is_told_with_how_far_it_came(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that cannot even be tried is not lost for a trial on top."""
    telling = Telling(device=Answers((ARCHITECTURE,), "killed by signal 11"))
    monkeypatch.setattr(gpu, "ask_probe", telling)
    finding = gpu.check_device("cuda:0")
    assert finding.level == "FAIL"
    assert finding.text == "the process that tried it ended after architecture: killed by signal 11"
    assert telling.asked == ["device"]


@pytest.mark.parametrize(
    "after",
    [Answers((), "no answer for 300 s"), Answers(({**PRODUCTS, "problem": True},), None)],
    ids=["hangs", "wrong"],
)
def test_a_device_that_stays_lost_fails(monkeypatch: pytest.MonkeyPatch, after: Answers) -> None:
    finding = said(monkeypatch, products=after)
    assert finding.level == "FAIL"
    assert finding.text.startswith("after a failed assertion")
    assert finding.mend == gpu.MENDS["loss"]


def test_a_worker_may_end_by_the_lost_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert said(monkeypatch, lose=Answers((), "killed by signal 6")).level == "OK"


def test_nothing_is_lost_under_mps(monkeypatch: pytest.MonkeyPatch, without_mps: Path) -> None:
    (without_mps / "control").touch()
    telling = Telling()
    monkeypatch.setattr(gpu, "ask_probe", telling)
    assert "under MPS" in gpu.check_device("cuda:0").text
    assert telling.asked == ["device"]


def test_every_device_and_the_encoder_have_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "ask_probe", Telling())
    monkeypatch.setattr(gpu, "choose_devices", lambda names, workers: ("cuda:0", "cuda:1", "cuda:0"))
    first, second, nvenc = gpu.check_gpus(Settings(devices="auto"))
    assert [first.name, second.name] == ["device cuda:0", "device cuda:1"]
    text = "h264_nvenc: encodes, hevc_nvenc: encodes, av1_nvenc: no such chip"
    assert nvenc == Finding("OK", "NVENC", text)


def test_a_part_of_a_card_is_asked_by_its_uuid(monkeypatch: pytest.MonkeyPatch) -> None:
    telling = Telling()
    monkeypatch.setattr(gpu, "ask_probe", telling)
    assert gpu.check_device("MIG-0a1b").name == "device MIG-0a1b"
    assert telling.environment == {"CUDA_VISIBLE_DEVICES": "MIG-0a1b"}


def test_a_card_without_nvenc_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "ask_probe", Telling(encoders=Answers((), "killed by signal 11")))
    nvenc = gpu.check_nvenc()
    assert (nvenc.level, nvenc.text.count("killed by signal 11")) == ("INFO", 3)
    assert nvenc.mend is not None


def test_a_wrong_choice_of_devices_is_left_to_its_own_check() -> None:
    (finding,) = gpu.check_gpus(Settings(devices="cuda:7"))
    assert finding.level == "INFO"
