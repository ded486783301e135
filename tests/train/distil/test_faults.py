"""Faults keep the size, depend on the generator alone, and leave grey grey where they can."""

import numpy as np
import pytest

from invsr_daemon.train.distil import faults

SIDE = 136


def sharp() -> np.ndarray:
    rng = np.random.default_rng(5)
    return rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8).repeat(4, 0).repeat(4, 1)


@pytest.mark.parametrize("name", faults.FAULTS)
def test_a_fault_gives_a_quarter_of_the_size_and_the_same_twice(name: str) -> None:
    fault = faults.FAULTS[name][1]
    first, second = (fault(sharp(), np.random.default_rng(3)) for _ in range(2))
    assert first.shape == (SIDE, SIDE, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, second)


def test_shares_are_those_of_one_whole() -> None:
    assert sum(share for share, _ in faults.FAULTS.values()) == pytest.approx(1)


def test_jpeg_of_grey_is_grey() -> None:
    grey = faults.without_colour(sharp())
    stored = faults.jpeg(grey, 30, 2)
    assert (stored == stored[..., :1]).all()
    assert not np.array_equal(stored, grey)
