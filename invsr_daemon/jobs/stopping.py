"""How a run is stopped: a first signal lets what is under way finish, a second one ends it at once."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn


class TwoSignals:
    """Hears SIGINT and SIGTERM. `stopping` is set by the first one, which also calls `on_first`."""

    def __init__(self, on_first: Callable[[], None]) -> None:
        self.stopping = asyncio.Event()
        self._on_first = on_first

    def listen(self) -> None:
        """Hear signals from now on. The second one cancels the task that calls this."""
        loop, everything = asyncio.get_running_loop(), asyncio.current_task()
        assert everything is not None
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._signalled, everything)

    def _signalled(self, everything: asyncio.Task[Any]) -> None:
        if self.stopping.is_set():
            everything.cancel()
            return
        self.stopping.set()
        self._on_first()


def forget_stdout() -> None:
    """Let nothing fail any more because stdout cannot be written to: not the end of the process either."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def leave_now(code: int) -> NoReturn:
    """End without waiting for threads, which cannot be cancelled: one may be syncing a long film."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
