"""The state folder is closed to everybody else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from invsr_daemon.errors import ConfigError
from invsr_daemon.jobs.workfolders import make_state_folder


@pytest.fixture(autouse=True)
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def test_a_state_folder_is_private_whatever_the_umask(tmp_path: Path) -> None:
    state = tmp_path / "above" / "state"
    make_state_folder(state)
    assert mode(state) == 0o700


def test_an_earlier_one_is_closed(tmp_path: Path) -> None:
    state = tmp_path / "state"
    (state / "work").mkdir(parents=True)
    (state / "jobs.sqlite-wal").touch()
    (state / "places.json").touch()
    state.chmod(0o2775)
    make_state_folder(state)
    assert mode(state) == 0o700


def test_a_folder_with_other_things_stays_open(tmp_path: Path) -> None:
    state = tmp_path / "home"
    (state / "work").mkdir(parents=True)
    (state / "letters").mkdir()
    state.chmod(0o755)
    make_state_folder(state)
    assert mode(state) == 0o755


def test_one_that_cannot_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"state_dir: .*file/state cannot be written to: Not a directory"):
        make_state_folder(tmp_path / "file" / "state")
