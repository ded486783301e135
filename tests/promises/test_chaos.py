"""Kills at random moments break no promise: `python -m tests.promises.chaos`, a short run of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # starts processes, or computes for long


def test_kills_and_troubles_break_no_promise(tmp_path: Path) -> None:
    """`unshare -m python -m tests.promises.chaos` does more of it."""
    may_mount = os.geteuid() == 0
    chaos = [sys.executable, "-m", "tests.promises.chaos", "--kills", "30", "--unit", "3"]
    chaos += ["--folder", str(tmp_path)]
    command = ["unshare", "-m", *chaos, "--full-disk"] if may_mount else chaos
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    told = json.loads(ended.stdout.splitlines()[-1])
    assert sum(told["killed"].values()) == 30
    assert told["killed"]["daemons"]
    assert told["phases"]
    assert told["troubles"]
