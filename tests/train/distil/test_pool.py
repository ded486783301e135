"""The pool: samples come back as they went in, are counted without gaps and drawn by kind."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from invsr_daemon.errors import InputError
from invsr_daemon.train.distil.pool import Kind, Pool, Sample, drawn_numbers, kind_of


def sample(level: int) -> Sample:
    poor, large = np.full((8, 8, 3), level, np.uint8), np.full((32, 32, 3), level, np.uint8)
    return Sample(poor, large, large + 1)


def test_a_sample_comes_back(tmp_path: Path) -> None:
    pool = Pool(tmp_path)
    for number in range(3):
        pool.write(number, sample(number))
    assert (pool.read(0).taught == 1).all()
    assert (pool.read(2).taught == pool.read(2).sharp).all()


def test_counting_ends_at_a_gap(tmp_path: Path) -> None:
    pool = Pool(tmp_path)
    for number in (0, 1, 3):
        pool.write(number, sample(number))
    assert pool.size() == 2
    pool.write(2, sample(2))
    assert pool.size(2) == 4


def test_a_damaged_sample_is_told(tmp_path: Path) -> None:
    pool = Pool(tmp_path)
    pool.write(0, sample(0))
    pool.path(0).write_bytes(b"damage")
    with pytest.raises(InputError, match="cannot be read"):
        pool.read(0)


def test_kinds_come_by_their_shares_and_only_what_is_there() -> None:
    shares = {Kind.TAUGHT: 0.5, Kind.PLAIN: 0.0, Kind.DRAWN: 0.5}
    numbers = drawn_numbers(np.random.default_rng(0), 7, shares, 1000)
    assert set(numbers) == {0, 3, 6, 2, 5}
    counts = Counter(map(kind_of, numbers))
    assert counts[Kind.TAUGHT] == pytest.approx(500, abs=60)
