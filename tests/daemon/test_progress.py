"""Frames a second, and when the last one came."""

from __future__ import annotations

import time

import pytest

from invsr_daemon.daemon.progress import RATE_SECONDS, Rate


def test_frames_of_the_last_minute_count(monkeypatch: pytest.MonkeyPatch) -> None:
    rate = Rate()
    rate.add(120)
    rate.add(60)
    assert rate.per_second() == 180 / RATE_SECONDS
    later = time.monotonic() + RATE_SECONDS + 1
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert rate.per_second() == 0


def test_frames_that_are_taken_back_do_not_count() -> None:
    rate = Rate()
    rate.add(5)
    rate.add(-9)
    assert rate.per_second() == 0


def test_nothing_is_missed_while_nothing_is_due() -> None:
    rate = Rate()
    rate.last -= 1e6
    rate.none_due()
    assert time.monotonic() - rate.last < 60
