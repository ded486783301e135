"""Pieces that change after they were finished are found, and computed again."""

from __future__ import annotations

from pathlib import Path

import pytest

from invsr_daemon.jobs.seals import notes_of, remove_damaged, seal, seal_rest
from invsr_daemon.records import Task
from tests.support.plans import plan_of


@pytest.fixture
def tasks(tmp_path: Path) -> tuple[Task, ...]:
    """Three tasks; the pieces of the first two are finished and sealed."""
    tasks = plan_of(tmp_path, 3).tasks
    for task in tasks[:2]:
        task.output.write_bytes(bytes(range(256)) * 40)
        seal(task.output)
    return tasks


def left(tasks: tuple[Task, ...]) -> list[bool]:
    return [task.output.exists() for task in tasks]


def test_whole_pieces_stay(tasks: tuple[Task, ...]) -> None:
    assert remove_damaged(tasks) == 0
    assert left(tasks) == [True, True, False]


@pytest.mark.parametrize("position", [0, 5000, 10239])
def test_one_with_a_flipped_bit_goes(tasks: tuple[Task, ...], position: int) -> None:
    content = bytearray(tasks[1].output.read_bytes())
    content[position] ^= 1
    tasks[1].output.write_bytes(content)
    assert remove_damaged(tasks) == 1
    assert left(tasks) == [True, False, False]
    assert remove_damaged(tasks) == 0


@pytest.mark.parametrize("content", [b"", bytes(10240), b"x" * 10241])
def test_one_of_other_content_goes(tasks: tuple[Task, ...], content: bytes) -> None:
    tasks[0].output.write_bytes(content)
    assert remove_damaged(tasks) == 1


def test_one_whose_seal_cannot_be_read_goes(tasks: tuple[Task, ...]) -> None:
    tasks[0].output.with_name(f"{tasks[0].output.name}.sha256").write_bytes(b"\xff\xfe")
    tasks[1].output.with_name(f"{tasks[1].output.name}.sha256").unlink()
    assert remove_damaged(tasks) == 2


def test_one_that_a_killed_run_left_unsealed_is_sealed(tasks: tuple[Task, ...]) -> None:
    tasks[2].output.write_text("finished a moment before the end")
    seal_rest(tasks)
    assert remove_damaged(tasks) == 0
    assert left(tasks) == [True, True, True]


def test_notes_are_kept_with_the_pieces_and_told_once(tasks: tuple[Task, ...]) -> None:
    assert notes_of(tasks) == ()
    seal(tasks[0].output, ["tiles of 32", "fewer tiles at once"])
    tasks[2].output.touch()
    seal(tasks[2].output, ["tiles of 16", "tiles of 32"])
    assert notes_of(tasks) == ("tiles of 32", "fewer tiles at once", "tiles of 16")
    assert remove_damaged(tasks) == 0
    tasks[2].output.with_name(f"{tasks[2].output.name}.sha256").write_bytes(b"\xff\xfe")
    assert notes_of(tasks) == ("tiles of 32", "fewer tiles at once")
