"""Colours under full transparency are those of what is seen nearby."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from invsr_daemon.media.transparency import fill_unseen


@given(st.data(), st.integers(1, 19), st.integers(1, 19))
def test_what_is_seen_stays_and_the_rest_lies_within_it(data: st.DataObject, height: int, width: int) -> None:
    pixels = data.draw(arrays(np.uint8, (height, width, 3)))
    alpha = data.draw(arrays(np.uint8, (height, width), elements=st.sampled_from((0, 1, 255))))
    filled = fill_unseen(pixels, alpha)
    seen = alpha > 0
    assert np.array_equal(filled[seen], pixels[seen])
    if seen.any():
        assert (filled.reshape(-1, 3).min(0) >= pixels[seen].min(0)).all()
        assert (filled.reshape(-1, 3).max(0) <= pixels[seen].max(0)).all()
    else:
        assert np.array_equal(filled, pixels)


def test_a_sprite_gets_its_own_colours_around_it() -> None:
    pixels: NDArray[np.uint16] = np.zeros((40, 60, 3), np.uint16)
    alpha: NDArray[np.uint16] = np.zeros((40, 60), np.uint16)
    pixels[10:20, 10:20], alpha[10:20, 10:20] = (60000, 50000, 40), 65535
    pixels[10:20, 40:50], alpha[10:20, 40:50] = (10, 50000, 60000), 65535
    filled = fill_unseen(pixels, alpha)
    assert filled.dtype == np.uint16
    assert (filled[8:22, 8:10] == (60000, 50000, 40)).all()
    assert (filled[8:22, 50:52] == (10, 50000, 60000)).all()
