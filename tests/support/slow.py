"""Which tests are slow: those that start processes, and those that are marked `slow` by hand.

A test starts processes if it, a helper of the tests that it calls, or a fixture that it uses names one of
`STARTERS`. What this does not find, `no_processes_unless_slow` in conftest.py does.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType
from typing import Any

import pytest

STARTERS = frozenset(
    {
        "subprocess",
        "fork",
        "Home",
        "Site",
        "make_home",
        "booted",
        "chaos",
        "Child",
        "MediaProcess",
        "MediaProcesses",
        "find_devices",
        "choose_devices",
    }
)
STARTING = frozenset({"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn"})

_started: list[str] = []


def mark_slow(items: list[pytest.Item]) -> None:
    """Mark every test that starts processes."""
    known: dict[CodeType, bool] = {}
    for item in items:
        if isinstance(item, pytest.Function) and any(
            _starts(function, known) for function in _functions(item)
        ):
            item.add_marker(pytest.mark.slow)


def count_starts() -> None:
    """From now on note every process that this one starts. It cannot be undone."""

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        if event in STARTING:
            _started.append(f"{event} {arguments[0] if arguments else ''}".strip())

    sys.addaudithook(note)


def started() -> list[str]:
    """The processes that were started since `count_starts`."""
    return _started.copy()


def _functions(item: pytest.Function) -> Iterator[Callable[..., Any]]:
    yield item.function
    for definitions in item._fixtureinfo.name2fixturedefs.values():
        yield definitions[-1].func


def _starts(function: Callable[..., Any], known: dict[CodeType, bool]) -> bool:
    if not isinstance(function, FunctionType) or not function.__module__.startswith("tests."):
        return False
    code = function.__code__
    if code not in known:
        known[code] = False  # while it is looked at: functions may call each other
        names = set(_names(code))
        helpers = (function.__globals__.get(name) for name in names)
        known[code] = bool(names & STARTERS) or any(
            _starts(_unwrapped(helper), known) for helper in helpers if callable(helper)
        )
    return known[code]


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _unwrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    """What a decorator such as `contextmanager` has wrapped."""
    return getattr(function, "__wrapped__", function)
