"""What a process answers: events as JSON lines, and errors by their names."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from .. import errors
from ..errors import InvsrError

log = logging.getLogger(__name__)

Progress = Callable[[int], None]


class AttemptProgress:
    """What is told of an attempt at a task, so that it can be taken back if the attempt fails."""

    def __init__(self, tell: Progress) -> None:
        self._tell = tell
        self._told = 0

    def __call__(self, frames: int) -> None:
        """Tell of so many more frames; 0 is a sign of life."""
        self._told += frames
        self._tell(frames)

    def take_back(self) -> None:
        """Tell that all of it has to be done again."""
        self._tell(-self._told)
        self._told = 0


def event_of(answer: Callable[[str, Progress], Any], line: str, progress: Progress) -> dict[str, Any]:
    """What a process says at the end of a request: its answer, or the error it ended with."""
    try:
        return {"event": "done", "answer": answer(line, progress)}
    except InvsrError as error:
        return {"event": "failed", "kind": type(error).__name__, "message": str(error)}
    except Exception as error:
        log.exception("unexpected error")
        message = f"unexpected {type(error).__name__}: {error} (please report this with the log)"
        return {"event": "failed", "kind": "InternalError", "message": message}


def error_of(event: dict[str, Any]) -> InvsrError:
    """The error that a process has told of."""
    kind = getattr(errors, event["kind"])
    error: InvsrError = kind(event["message"])
    return error
