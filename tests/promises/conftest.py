"""A home and a film for the promises that `process` makes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.command import Home
from tests.support.processing import make_film_with_sound, make_home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return make_home(tmp_path)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_film_with_sound(tmp_path_factory.mktemp("film") / "film.mp4")
