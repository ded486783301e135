"""Attempts at one file: each writes its own, and the first to end gives the name."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from invsr_daemon.files.durable import attempt_at, finish_attempt, remove_attempts


def test_every_attempt_has_a_hidden_name_of_its_own(tmp_path: Path) -> None:
    names = {attempt_at(tmp_path / "chunk-000001.nut").name for _ in range(20)}
    assert len(names) == 20
    assert all(name.startswith(".chunk-000001.nut.") for name in names)


def test_the_first_to_end_gives_the_name_and_the_other_is_content(tmp_path: Path) -> None:
    final = tmp_path / "a"
    first, second = attempt_at(final), attempt_at(final)
    first.write_text("first")
    second.write_text("second")
    finish_attempt(first, final)
    finish_attempt(second, final)
    assert final.read_text() == "first"
    assert list(tmp_path.iterdir()) == [final]


def test_without_hard_links_an_attempt_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", unsupported)
    test_the_first_to_end_gives_the_name_and_the_other_is_content(tmp_path)


def test_what_killed_attempts_left_is_removed(tmp_path: Path) -> None:
    attempt_at(tmp_path / "a").write_text("half")
    (tmp_path / "a").write_text("whole")
    (tmp_path / "lock").touch()
    remove_attempts(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "lock"]
