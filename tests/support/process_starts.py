"""Counts the processes that tests start: those that do have to be marked `slow`."""

from __future__ import annotations

import sys
from typing import Any

STARTING = frozenset({"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn"})


class ProcessStarts:
    """The processes that this one has started, in order, since it was told to listen."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def listen(self) -> None:
        """Note every start from now on. An audit hook cannot be removed."""
        sys.addaudithook(self._note)

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in STARTING:
            self.seen.append(f"{event} {arguments[0] if arguments else ''}".strip())
