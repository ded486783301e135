"""Stages that overlap keep order, bounded memory and every error, and end their threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from invsr_daemon.workers.overlap import read_ahead, write_behind

DEPTH = 3


def stage_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name in ("read-ahead", "sink")]


def settled(value: Callable[[], int]) -> int:
    """A value once it has not moved for a while."""
    last, since = value(), time.monotonic()
    while time.monotonic() - since < 0.2:
        if value() != last:
            last, since = value(), time.monotonic()
        time.sleep(0.01)
    return last


def test_reading_ahead_keeps_the_order() -> None:
    with read_ahead(iter(range(100)), DEPTH) as values:
        assert list(values) == list(range(100))
    assert stage_threads() == []


def test_reading_ahead_is_bounded() -> None:
    made: list[int] = []

    def source() -> Iterator[int]:
        for value in range(100):
            made.append(value)
            yield value

    with read_ahead(source(), DEPTH) as values:
        assert settled(lambda: len(made)) == DEPTH + 1, "as many as wait, and one in hand"
        assert next(values) == 0
        assert settled(lambda: len(made)) == DEPTH + 2


def test_reading_ahead_runs_in_a_thread_of_its_own() -> None:
    def source() -> Iterator[int]:
        yield threading.get_ident()

    with read_ahead(source(), DEPTH) as values:
        assert next(values) != threading.get_ident()


def test_an_error_while_reading_comes_after_what_was_read() -> None:
    def source() -> Iterator[int]:
        yield from range(2)
        raise RuntimeError("no more")

    taken = []
    with pytest.raises(RuntimeError, match="no more"), read_ahead(source(), DEPTH) as values:  # noqa: PT012
        for value in values:
            taken.append(value)
    assert taken == [0, 1]
    assert stage_threads() == []


@pytest.mark.parametrize("taken", [0, 1, 50])
def test_leaving_early_ends_the_reading_thread(taken: int) -> None:
    with read_ahead(iter(range(10**9)), DEPTH) as values:
        for _ in range(taken):
            next(values)
    assert stage_threads() == []


def test_an_error_in_the_block_ends_the_reading_thread() -> None:
    with pytest.raises(KeyError), read_ahead(iter(range(10**9)), DEPTH):
        raise KeyError
    assert stage_threads() == []


def test_writing_behind_keeps_the_order_and_finishes() -> None:
    written: list[int] = []

    def slowly(value: int) -> None:
        time.sleep(0.001)
        written.append(value)

    with write_behind(slowly, DEPTH) as sink:
        for value in range(50):
            sink.put(value)
    assert written == list(range(50))
    assert stage_threads() == []


def test_writing_behind_is_bounded() -> None:
    gate = threading.Event()
    put: list[int] = []

    def consume(_: int) -> None:
        gate.wait()

    def produce() -> None:
        with write_behind(consume, DEPTH) as sink:
            for value in range(20):
                sink.put(value)
                put.append(value)

    producer = threading.Thread(target=produce)
    producer.start()
    try:
        assert settled(lambda: len(put)) == DEPTH + 1, "as many as wait, and one in hand"
    finally:
        gate.set()
        producer.join()
    assert len(put) == 20


def test_an_error_while_writing_reaches_whoever_puts() -> None:
    def fail(value: int) -> None:
        raise RuntimeError(f"cannot write {value}")

    with pytest.raises(RuntimeError, match="cannot write 0"), write_behind(fail, DEPTH) as sink:  # noqa: PT012
        for value in range(100):
            sink.put(value)
        pytest.fail("put went on after the error")
    assert stage_threads() == []


def test_an_error_over_the_last_value_is_raised_at_the_end() -> None:
    def fail(value: int) -> None:
        time.sleep(0.05)
        raise RuntimeError("the last one")

    with pytest.raises(RuntimeError, match="the last one"), write_behind(fail, DEPTH) as sink:
        sink.put(0)
    assert stage_threads() == []


def test_an_error_in_the_block_ends_the_writing_thread_without_writing_on() -> None:
    written: list[int] = []

    def slowly(value: int) -> None:
        time.sleep(0.1)
        written.append(value)

    with pytest.raises(KeyError), write_behind(slowly, DEPTH) as sink:  # noqa: PT012
        for value in range(DEPTH):
            sink.put(value)
        raise KeyError
    assert len(written) <= 1
    assert stage_threads() == []


def test_nothing_put_nothing_written() -> None:
    written: list[int] = []
    with write_behind(written.append, DEPTH):
        pass
    assert written == []
