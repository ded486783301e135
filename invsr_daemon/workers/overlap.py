"""Stages that overlap: an iterator read ahead by a thread, and a sink fed through one.

Queues are bounded, so memory is too. An error in a stage's thread is raised where its values are
used, and leaving the `with` block always ends the thread.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

T = TypeVar("T")
_POLL_SECONDS = 0.05


class _End:
    """Marks the end of a queue."""


@contextmanager
def read_ahead(source: Iterable[T], depth: int) -> Iterator[Iterator[T]]:
    """Iterate over `source` from a thread of its own, at most `depth` values ahead."""
    waiting: queue.Queue[T | _End | BaseException] = queue.Queue(maxsize=depth)
    stopping = threading.Event()

    def produce() -> None:
        try:
            for value in source:
                if not _offer(waiting, value, stopping):
                    return
            _offer(waiting, _End(), stopping)
        except Exception as error:  # raised again by the consumer
            _offer(waiting, error, stopping)

    def consume() -> Iterator[T]:
        while not isinstance(value := waiting.get(), _End):
            if isinstance(value, BaseException):
                raise value
            yield value

    thread = threading.Thread(target=produce, name="read-ahead")
    thread.start()
    try:
        yield consume()
    finally:
        stopping.set()
        thread.join()


class Sink(Generic[T]):
    """Takes values for a consuming thread."""

    def __init__(self, consume: Callable[[T], None], depth: int) -> None:
        self._consume = consume
        self._waiting: queue.Queue[T | _End] = queue.Queue(maxsize=depth)
        self._failed = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="sink")
        self._thread.start()

    def put(self, value: T) -> None:
        """Hand a value over; raises the consumer's error if it had one."""
        if not _offer(self._waiting, value, self._failed):
            self._raise()

    def close(self) -> None:
        """Wait until everything was consumed; raises the consumer's error if it had one."""
        _offer(self._waiting, _End(), self._failed)
        self._thread.join()
        self._raise()

    def abandon(self) -> None:
        """End the thread without consuming what waits."""
        self._failed.set()
        self._thread.join()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while not self._failed.is_set():
            try:
                value = self._waiting.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                continue
            if isinstance(value, _End):
                return
            try:
                self._consume(value)
            except Exception as error:  # raised again by put and close
                self._error = error
                self._failed.set()


@contextmanager
def write_behind(consume: Callable[[T], None], depth: int) -> Iterator[Sink[T]]:
    """A sink whose thread calls `consume` for each value; at most `depth` values wait."""
    sink = Sink(consume, depth)
    try:
        yield sink
    except BaseException:
        sink.abandon()
        raise
    sink.close()


def _offer(waiting: queue.Queue[T], value: T, stopping: threading.Event) -> bool:
    """Put a value unless the other side has gone; whether it was put."""
    while not stopping.is_set():
        try:
            waiting.put(value, timeout=_POLL_SECONDS)
        except queue.Full:
            continue
        return True
    return False
