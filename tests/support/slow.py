"""Which tests are slow: those that start processes, those that compute for long, and those marked by hand.

A test starts processes if it, a helper of the tests that it calls, or a fixture that it uses names one of
`STARTERS`. What this does not find, `no_processes_unless_slow` in conftest.py does.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from types import CodeType, FunctionType, ModuleType
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
        "Child",
        "MediaProcess",
        "MediaProcesses",
        "find_devices",
        "choose_devices",
        "check_torch",
        "check_encoders",
    }
)
# Tests that compute for a second or more on a machine of today: see `pytest --durations=50 -m 'not slow'`.
LONG = frozenset(
    {
        "test_a_discriminator_learns_to_tell_noise_from_flatness",
        "test_a_film_has_its_scale_and_its_frames",
        "test_a_killed_run_resumes_bit_for_bit",
        "test_a_pan_is_steadier_than_frames_by_themselves",
        "test_a_phase_begins_anchors_and_chunks_at_other_frames",
        "test_a_pulled_model_restores_and_nothing_needless_is_left",
        "test_chunks_leave_no_seams",
        "test_each_precision_that_it_bears",
        "test_every_tile_is_computed_once",
        "test_every_tile_of_a_batch_is_as_if_alone",
        "test_films_are_put_together_in_main_memory_if_asked",
        "test_films_stay_on_their_device",
        "test_frames_together_give_what_they_give_one_by_one",
        "test_grain_moves_as_smoothly_as_what_it_lies_on",
        "test_no_more_canvases_are_held_than_are_needed",
        "test_only_wanted_frames_and_their_neighbours_are_computed",
        "test_out_of_memory_means_smaller_tiles_also_for_the_next_frames",
        "test_pictures_of_any_size",
        "test_pictures_stay_on_their_device",
        "test_sensor_noise_is_averaged_away",
        "test_skipping_stays_near_the_full_computation",
        "test_the_command_fits_the_named_photographs",
        "test_the_models_own_tile_is_the_default",
        "test_the_same_command_gives_the_same_numbers",
        "test_the_same_seed_gives_the_same_numbers_in_any_order",
        "test_tiles_are_counted_where_they_are_computed",
        "test_the_same_gives_the_same_bytes",
        "test_too_little_memory_means_fewer_tiles_at_once_and_the_same_result",
        "test_what_only_fades_is_not_fused",
    }
)
STARTING = frozenset({"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn"})

_started: list[str] = []


def mark_slow(items: list[pytest.Item]) -> None:
    """Mark every test that starts processes or is in `LONG`."""
    known: dict[CodeType, bool] = {}
    for item in items:
        if isinstance(item, pytest.Function) and (
            item.originalname in LONG or any(_starts(function, known) for function in _functions(item))
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
        known[code] = bool(names & STARTERS) or any(
            _starts(_unwrapped(helper), known) for helper in _helpers(names, function.__globals__)
        )
    return known[code]


def _helpers(names: set[str], known: Mapping[str, Any]) -> Iterator[Callable[..., Any]]:
    """What these names may call, themselves or as part of one of our modules."""
    found = [known[name] for name in names if name in known]
    modules = [each for each in found if isinstance(each, ModuleType) and each.__name__.startswith("tests.")]
    parts = (vars(module).get(name) for module in modules for name in names)
    yield from (each for each in (*found, *parts) if callable(each))


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _unwrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    """What a decorator such as `contextmanager` has wrapped."""
    return getattr(function, "__wrapped__", function)
