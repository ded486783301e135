"""What the room offers under its own name is there, and loaded only when it is asked for."""

from __future__ import annotations

import inspect

import pytest

from invsr_daemon import quality


@pytest.mark.parametrize("name", quality.__all__)
def test_every_name_is_there(name: str) -> None:
    for _ in range(2):  # a module of the same name would take its place
        assert not inspect.ismodule(getattr(quality, name))


def test_other_names_are_not() -> None:
    with pytest.raises(AttributeError, match="no attribute 'films'"):
        _ = quality.films
