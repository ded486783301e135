"""What a process answers: events as JSON lines, and errors by their names."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .. import errors
from ..errors import InternalError, InvsrError

log = logging.getLogger(__name__)

STACK_FRAMES = 6  # of an unexpected error, in the log

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
        return failed_event(error)
    except Exception as error:
        log.error("unexpected %s: %s (%s)", type(error).__name__, error, _short_stack(error))
        message = f"unexpected {type(error).__name__}: {error} (please report this with the log)"
        return failed_event(InternalError(message))


def failed_event(error: InvsrError) -> dict[str, Any]:
    """What a process says if a request ended with an error."""
    return {"event": "failed", "kind": type(error).__name__, "message": str(error)}


def _short_stack(error: Exception) -> str:
    """Where an error arose: its innermost calls, in one line of the job's log."""
    frames = traceback.extract_tb(error.__traceback__)[-STACK_FRAMES:]
    return " < ".join(f"{Path(each.filename).name}:{each.lineno} {each.name}" for each in reversed(frames))


def error_of(event: dict[str, Any]) -> InvsrError:
    """The error that a process has told of."""
    kind = getattr(errors, event["kind"])
    error: InvsrError = kind(event["message"])
    return error
