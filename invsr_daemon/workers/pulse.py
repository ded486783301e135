"""A sign of life now and then."""

from __future__ import annotations

import time

from ..wire.events import Progress

SECONDS = 1.0


class Pulse:
    """Called as often as there is something new, it tells of that once in a second."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._told = 0.0

    def __call__(self) -> None:
        now = time.monotonic()
        if now - self._told >= SECONDS:
            self._told = now
            self._progress(0)
