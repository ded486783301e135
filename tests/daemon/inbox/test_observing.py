"""Events tell who has not closed a new file yet."""

from __future__ import annotations

import pytest
from watchdog.events import (
    DirMovedEvent,
    FileClosedEvent,
    FileClosedNoWriteEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileMovedEvent,
    FileOpenedEvent,
    FileSystemEvent,
)

from invsr_daemon.daemon.inbox.observing import Writers

READ = FileClosedNoWriteEvent("/in/a")
CREATED, OPENED, CLOSED = FileCreatedEvent("/in/a"), FileOpenedEvent("/in/a"), FileClosedEvent("/in/a")


@pytest.mark.parametrize(
    ("events", "written"),
    [
        ([CREATED], False),  # a link, or moved there from elsewhere
        ([OPENED], False),  # it was there before, and someone reads it
        ([CREATED, OPENED], True),
        ([CREATED, OPENED, CLOSED], False),
        ([CREATED, OPENED, CLOSED, OPENED], False),  # read afterwards
        ([CREATED, OPENED, FileDeletedEvent("/in/a")], False),
        ([CREATED, OPENED, FileMovedEvent("/in/a", "/in/b")], False),
        ([CREATED, OPENED, FileClosedEvent("/in/b")], True),
        ([CREATED, OPENED, READ], False),  # moved there, and looked at
        ([CREATED, OPENED, OPENED, READ], True),  # looked at while it is written
        ([CREATED, OPENED, DirMovedEvent("/in", "/elsewhere")], False),
    ],
)
def test_who_writes(events: list[FileSystemEvent], written: bool) -> None:
    writers = Writers()
    for event in events:
        writers.hear(event)
    assert writers.has("/in/a") == written
