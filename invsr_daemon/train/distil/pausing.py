"""A long computation steps aside while a file exists."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

LOOK_AGAIN = 2.0  # seconds


def wait_while(
    paused: Path | None,
    sleep: Callable[[float], None] = time.sleep,
    say: Callable[[str], None] = lambda line: None,
) -> None:
    """Return as soon as `paused` is not there."""
    if paused is None or not paused.exists():
        return
    say(f"waiting while {paused} exists")
    while paused.exists():
        sleep(LOOK_AGAIN)
    say("going on")


def write_pid(path: Path) -> None:
    """This process's number, for whoever wants to stop it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(f"{os.getpid()}\n")
    partial.replace(path)
