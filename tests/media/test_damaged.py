"""Damaged files are read, or refused in plain words. `python -m tests.fuzz_media` tries as many as wanted."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz_media import Inputs, fuzz

pytestmark = pytest.mark.slow  # starts processes, or computes for long

INPUTS = 2000


def test_damaged_files_end_in_a_plan_or_a_plain_refusal(tmp_path: Path) -> None:
    inputs = Inputs.make(tmp_path, seed=1)
    outcome = fuzz(inputs, range(INPUTS), tmp_path)
    assert not outcome.findings
    assert outcome.ends.total() == INPUTS
    assert outcome.ends["read"] > INPUTS / 10, "some mistakes do no harm"
    assert outcome.ends["refused"] > INPUTS / 10
