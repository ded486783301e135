"""The same input and settings give the same bytes, with any number of workers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.command import Home
from tests.support.processing import SETTINGS

pytestmark = pytest.mark.slow  # starts processes, or computes for long


def test_two_workers_give_the_bytes_of_one(home: Home, film: Path) -> None:
    for name, workers in (("one", "1"), ("two", "2")):
        assert home.run("process", film, "-o", f"{name}/", "--workers", workers, "-c", SETTINGS).code == 0
    assert (home.path / "one/film.mp4").read_bytes() == (home.path / "two/film.mp4").read_bytes()


def test_seed_and_steps_decide_the_result(home: Home) -> None:
    pixels = np.random.default_rng(3).integers(0, 255, (24, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(home.path / "a.png")
    variants = {"first": (), "again": (), "seeded": ("--seed", "1"), "stepped": ("--timesteps", "200,100")}
    results = {}
    for name, options in variants.items():
        assert home.run("process", "a.png", "-o", f"{name}.png", *options).code == 0
        with Image.open(home.path / f"{name}.png") as image:
            results[name] = np.asarray(image).tobytes()
    assert results["first"] == results["again"]
    assert len(set(results.values())) == 3
