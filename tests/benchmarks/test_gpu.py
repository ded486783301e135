"""`benchmarks/gpu.py` in miniature on the CPU: every stage runs; files are as documented."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow  # starts processes

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu.py"
PATIENCE = 600
STAGES = [
    "ceilings",
    "embedded",
    "film",
    "full-fp16",
    "full-bf16",
    "memory",
    "worker-memory",
    "two-processes",
    "poisoned",
    "compiled",
    "encoders",
]


def gpu(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False)


def read(folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / "gpu.json").read_text())
    return report


def assert_of_schema(report: dict[str, Any]) -> None:
    """As docs/performance.md has it."""
    assert set(report) == {"schema", "passed", "machine", "arguments", "stages"}
    assert report["schema"] == 1
    for stage in report["stages"]:
        assert set(stage) == {"name", "status", "seconds", "figures", "checks", "note"}
        assert stage["status"] in {"ran", "failed", "skipped"}
        assert all(isinstance(value, bool | int | float | str | None) for value in stage["figures"].values())
        for check in stage["checks"]:
            assert set(check) == {"name", "passed", "value", "limit"}
            assert isinstance(check["passed"], bool)


def test_stages_in_miniature(tmp_path: Path) -> None:
    ended = gpu("--dry", "--out", tmp_path, "--budget", str(PATIENCE))
    report = read(tmp_path)
    assert_of_schema(report)
    assert [stage["name"] for stage in report["stages"]] == STAGES
    for stage in report["stages"]:
        assert (stage["status"], stage["note"]) == ("ran", ""), stage
    failed = {check["name"] for stage in report["stages"] for check in stage["checks"] if not check["passed"]}
    assert failed == set()
    assert ended.returncode == 0, ended.stderr
    table = (tmp_path / "gpu.md").read_text()
    for stage in report["stages"]:
        assert f"| **{stage['name']}** |" in table
        assert all(f"| {check['name']} |" in table for check in stage["checks"])
    assert gpu("--table", tmp_path / "gpu.json").stdout == table


def test_what_does_not_fit_the_budget_is_skipped(tmp_path: Path) -> None:
    ended = gpu("--dry", "--out", tmp_path, "--budget", "0", "--skip", "film")
    stages = read(tmp_path)["stages"]
    assert [stage["status"] for stage in stages] == ["skipped"] * len(STAGES)
    assert {stage["note"] for stage in stages if stage["name"] == "film"} == {"skipped as asked"}
    assert ended.returncode == 0, ended.stderr
