"""What a process says of an error that nobody expected."""

from __future__ import annotations

import pytest

from invsr_daemon.wire.events import Progress, event_of


def _broken(line: str, progress: Progress) -> None:
    raise IndexError(line)


@pytest.mark.logs_errors
def test_an_unexpected_error_leaves_a_line_that_says_where(caplog: pytest.LogCaptureFixture) -> None:
    event = event_of(_broken, "what was asked", lambda frames: None)
    assert event["kind"] == "InternalError"
    (line,) = caplog.messages
    assert line.startswith("unexpected IndexError: what was asked (test_events.py:")
    assert "_broken < events.py:" in line
