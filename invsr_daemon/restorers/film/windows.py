"""Sequences that are looked at a few items at a time: a film is too large to be held."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def windows(items: Iterable[T], reach: int) -> Iterator[tuple[Sequence[T], int]]:
    """Each item among those up to `reach` before and after it, and its place among them."""
    held: deque[T] = deque()
    place = 0
    for item in items:
        held.append(item)
        if len(held) > place + reach:
            yield tuple(held), place
            place = _advanced(held, place, reach)
    while place < len(held):
        yield tuple(held), place
        place = _advanced(held, place, reach)


def _advanced(held: deque[T], place: int, reach: int) -> int:
    if place < reach:
        return place + 1
    held.popleft()
    return place


def handed_over(items: list[T]) -> Iterator[T]:
    """Each item, and no hold on those given before: canvases are large."""
    items.reverse()
    while items:
        yield items.pop()


def with_next(items: Iterable[T]) -> Iterator[tuple[T, T | None]]:
    """Each item with the one after it."""
    coming = iter(items)
    try:
        current = next(coming)
    except StopIteration:
        return
    for item in coming:
        yield current, item
        current = item
    yield current, None
