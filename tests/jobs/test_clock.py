"""A clock that has gone far ahead is doubted until it has gone on for a day."""

from __future__ import annotations

from pathlib import Path

import pytest

from invsr_daemon.jobs.clock import CLOCK_FILE, DAY_SECONDS, Sighting, trusted_time

NOW = 1.8e9
HOUR, YEAR = 3600.0, 365 * DAY_SECONDS


def believed(state: Path, *times: float) -> list[bool]:
    """Whether the clock is trusted when it says each of these in turn."""
    return [trusted_time(state, time) == time for time in times]


def test_without_a_sighting_a_clock_has_to_prove_itself(tmp_path: Path) -> None:
    assert believed(tmp_path, NOW, NOW + HOUR, NOW + DAY_SECONDS, NOW + DAY_SECONDS + HOUR) == [
        *(False, False),
        *(True, True),
    ]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state folder where the clock was trusted at NOW."""
    Sighting(NOW, NOW).write(tmp_path)
    return tmp_path


def test_a_machine_that_was_off_for_some_days_is_trusted(state: Path) -> None:
    assert believed(state, NOW + 6 * DAY_SECONDS, NOW + 12 * DAY_SECONDS) == [True, True]


def test_a_year_ahead_is_doubted_for_a_day(state: Path, caplog: pytest.LogCaptureFixture) -> None:
    ahead = NOW + YEAR
    assert believed(state, ahead, ahead + 23 * HOUR) == [False, False]
    (line,) = caplog.messages
    assert line.startswith("the clock says 2028-01-15, and said 2027-01-15 when it was last looked at")
    assert believed(state, ahead + DAY_SECONDS) == [True]


def test_one_that_goes_ahead_again_has_proved_nothing(state: Path) -> None:
    ahead = NOW + YEAR
    assert believed(state, ahead, ahead + YEAR, ahead + YEAR + HOUR) == [False] * 3


def test_one_that_is_put_right_is_trusted_at_once(state: Path) -> None:
    assert believed(state, NOW + YEAR, NOW + HOUR) == [False, True]


def test_one_that_is_put_back_is_believed(state: Path) -> None:
    assert believed(state, NOW - YEAR, NOW) == [True, False]


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"seen": "soon"', "\xff"])
def test_a_sighting_that_cannot_be_read_is_none(state: Path, text: str) -> None:
    (state / CLOCK_FILE).write_bytes(text.encode("latin-1"))
    assert believed(state, NOW) == [False]


def test_what_cannot_be_noted_is_not_trusted(tmp_path: Path) -> None:
    assert trusted_time(tmp_path / "gone", NOW) is None
