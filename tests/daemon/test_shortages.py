"""Jobs that wait for room, each for itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from invsr_daemon.daemon.shortages import Shortages
from invsr_daemon.errors import DiskFullError, NoRoomError


def test_pauses_grow_until_the_job_has_had_room() -> None:
    shortages, full = Shortages(), DiskFullError("the disk is full")
    assert [shortages.put_off(1, full) for _ in range(9)] == [5, 10, 20, 40, 80, 160, 320, 600, 600]
    assert shortages.put_off(2, full) == 5
    shortages.forget(1)
    assert shortages.put_off(1, full) == 5


def test_what_is_known_not_to_fit_is_not_tried_again(tmp_path: Path) -> None:
    shortages = Shortages()
    shortages.put_off(1, NoRoomError(tmp_path, needed=2**60, free=0))
    with pytest.raises(NoRoomError, match="the result needs about") as raised:
        shortages.check(1)
    assert "and 0 KiB" not in str(raised.value), "it says what is free by now"
    shortages.check(2)


def test_what_may_fit_by_now_is_tried(tmp_path: Path) -> None:
    shortages = Shortages()
    shortages.put_off(1, NoRoomError(tmp_path, needed=1, free=0))
    shortages.put_off(2, DiskFullError("the disk is full"))
    shortages.put_off(3, NoRoomError(tmp_path / "gone", needed=1, free=0))
    for job in (1, 2, 3):
        shortages.check(job)
