"""What `precision: auto` and `cpu_threads: 0` stand for, found without torch and as torch finds it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from invsr_daemon.pool.numerics import common_precision, cores, numerics_of, quickest_precision
from invsr_daemon.records import Precision


@pytest.fixture
def cpuinfo(tmp_path: Path) -> Path:
    return tmp_path / "cpuinfo"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("fpu amx_bf16 amx_tile", "bf16"), ("fpu avx512_bf16", "fp32"), ("", "fp32")],
)
def test_a_cpu_computes_in_bfloat16_where_it_has_matrix_units(
    cpuinfo: Path, flags: str, expected: Precision
) -> None:
    cpuinfo.write_text(f"processor\t: 0\nflags\t\t: {flags}\n\nprocessor\t: 1\nflags\t\t: fpu\n")
    assert quickest_precision("cpu", cpuinfo) == expected
    assert quickest_precision("cuda:0", cpuinfo) == "fp16"


def test_where_the_kernel_does_not_tell_it_is_single_precision(cpuinfo: Path) -> None:
    assert quickest_precision("cpu", cpuinfo) == "fp32"
    cpuinfo.write_text("processor\t: 0\nFeatures\t: fp asimd bf16\n")
    assert quickest_precision("cpu", cpuinfo) == "fp32"


def test_this_cpu_is_seen_as_torch_sees_it() -> None:
    has_units = torch.cpu.get_capabilities().get("amx_bf16")
    assert quickest_precision("cpu") == ("bf16" if has_units else "fp32")


def test_devices_of_one_kind_agree_and_others_meet_in_single_precision() -> None:
    assert common_precision(("cuda:0", "cuda:1")) == "fp16"
    assert common_precision(("cpu", "cpu")) == quickest_precision("cpu")
    assert common_precision(("cuda:0", "cpu")) == "fp32"


def test_threads_that_are_given_are_kept() -> None:
    assert numerics_of(("cpu",), 7).threads == 7


def test_threads_of_one_core_count_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for number in os.sched_getaffinity(0):
        siblings = tmp_path / f"cpu{number}" / "topology" / "thread_siblings_list"
        siblings.parent.mkdir(parents=True)
        siblings.write_text("0-1\n")
    assert cores(tmp_path) == 1
    assert cores(tmp_path / "missing") == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(("variable", "expected"), [("3", 3), ("3,2", 3), ("0", None), ("many", None)])
def test_openmps_variable_is_heard(
    monkeypatch: pytest.MonkeyPatch, variable: str, expected: int | None
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    otherwise = cores()
    monkeypatch.setenv("OMP_NUM_THREADS", variable)
    assert cores() == (expected or otherwise)


@pytest.mark.slow
def test_a_worker_without_the_setting_would_take_as_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    asked = [sys.executable, "-c", "import torch; print(torch.get_num_threads())"]
    assert cores() == int(subprocess.run(asked, capture_output=True, text=True, check=True).stdout)
