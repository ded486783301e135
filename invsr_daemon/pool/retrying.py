"""Asking again when a process dies."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ..errors import InvsrError, WorkerLostError, WorkersLostError

T = TypeVar("T")

log = logging.getLogger(__name__)


async def outliving(name: str, most: int, ask: Callable[[], Awaitable[T]]) -> T:
    """Ask a media process. If it dies ask another one, for it may have been short of memory.

    `name` is told in the log. Raises WorkersLostError if `most` processes have died of the question.
    """
    for attempt in range(1, most):
        try:
            return await ask()
        except WorkerLostError as error:
            log.warning("%s: attempt %d of %d: %s", name, attempt, most, error)
    try:
        return await ask()
    except WorkerLostError as error:
        raise died_of_it(most, error) from error


def died_of_it(times: int, last: InvsrError) -> WorkersLostError:
    return WorkersLostError(f"{times} processes died of it; the last: {last}")
