"""Kills at random moments break no promise: `python -m tests.promises.chaos`, a short run of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.promises import chaos

pytestmark = pytest.mark.slow  # starts processes, or computes for long


def test_kills_at_random_moments_break_no_promise(tmp_path: Path) -> None:
    """`python -m tests.promises.chaos` does more of it."""
    found = chaos.run(tmp_path, kills=30, seed=1, say=print)
    assert found.kills == 30
    assert all(found.killed.values()), "some of each kind"
