"""Equal to the reference implementation: its outputs for a small random model, in float32."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import DATA
from tests.reference import run_case

CASES = sorted((DATA / "cases").glob("*.safetensors"))


def test_all_six_cases_are_here() -> None:
    assert len(CASES) == 6


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_equals_the_reference(case: Path, tiny_model_dir: Path) -> None:
    assert run_case(tiny_model_dir, case) < 2e-5
