"""What a process answers: events as JSON lines, and errors by their names."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from .. import records
from ..errors import InvsrError

log = logging.getLogger(__name__)

Progress = Callable[[int], None]


def event_of(answer: Callable[[str, Progress], Any], line: str, progress: Progress) -> dict[str, Any]:
    try:
        return {"event": "done", "answer": answer(line, progress)}
    except InvsrError as error:
        return {"event": "failed", "kind": type(error).__name__, "message": str(error)}
    except Exception as error:
        log.exception("unexpected error")
        message = f"unexpected {type(error).__name__}: {error} (please report this with the log)"
        return {"event": "failed", "kind": "InternalError", "message": message}


def error_of(event: dict[str, Any]) -> InvsrError:
    kind = getattr(records, event["kind"])
    error: InvsrError = kind(event["message"])
    return error
