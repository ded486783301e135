"""Motion between frames: photographs that move in known ways."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from skimage import data

from invsr_daemon.restorers.film.flow import Grey, between, grey

HEIGHT, WIDTH = 96, 128


def photograph() -> Grey:
    return grey(np.ascontiguousarray(data.astronaut()[::2, ::2]))


def view(x: float, y: float, zoom: float = 1.0) -> Grey:
    """What a camera at (x, y) sees: moved by +1 the content moves by -1."""
    matrix = np.array([[1 / zoom, 0, 60 + x], [0, 1 / zoom, 40 + y]], np.float32)
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(photograph(), matrix, (WIDTH, HEIGHT), flags=flags), np.uint8)


def noisy(picture: Grey, sigma: float, seed: int) -> Grey:
    noise = np.random.default_rng(seed).normal(0, sigma, picture.shape)
    return np.clip(np.round(picture + noise), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(("x", "y"), [(0.3, 0.1), (1.0, 0.0), (2.5, -1.25), (9.0, 4.0)])
def test_a_pan_is_found_in_both_directions(x: float, y: float) -> None:
    motion = between(view(0, 0), view(x, y))
    assert motion is not None
    middle = (slice(16, -16), slice(20, -20))
    moves = ~motion.still[middle]
    assert np.abs(motion.forward[middle][moves] - (-x, -y)).mean() < 0.1
    assert np.abs(motion.backward[middle][moves] - (x, y)).mean() < 0.1
    assert motion.leads[middle].mean() > 0.99
    assert motion.still[middle].mean() < 0.3  # where it is flat


def test_a_frame_that_repeats_stands_still_exactly() -> None:
    motion = between(view(0, 0), view(0, 0))
    assert motion is not None
    assert motion.still.all()
    assert motion.leads.all()
    assert motion.stems.all()
    assert not motion.forward.any()
    assert not motion.backward.any()


@pytest.mark.parametrize("sigma", [2, 5])
def test_noise_is_no_motion(sigma: float) -> None:
    frames = [noisy(view(0, 0), sigma, seed) for seed in (1, 2)]
    motion = between(*frames)
    assert motion is not None
    assert motion.still.mean() > 0.97
    assert not motion.forward[motion.still].any()


def test_noise_between_black_bars_is_no_motion() -> None:
    frames = [noisy(view(0, 0), 4, seed) for seed in (1, 2)]
    for frame in frames:
        frame[:24] = frame[-24:] = 16
    motion = between(*frames)
    assert motion is not None
    assert motion.still.mean() > 0.95


def test_a_slow_pan_is_no_standing_still() -> None:
    motion = between(view(0, 0), view(0.15, 0.1))
    assert motion is not None
    assert motion.still.mean() < 0.3


def test_what_moves_over_something_still() -> None:
    earlier, later = view(0, 0), view(0, 0)
    earlier[30:60, 40:70] = view(50, 50)[30:60, 40:70]
    later[30:60, 44:74] = view(50, 50)[30:60, 40:70]
    motion = between(earlier, later)
    assert motion is not None
    assert motion.still[:10].all()
    assert motion.still[80:].mean() > 0.9
    assert np.abs(motion.forward[38:52, 48:62] - (4, 0)).mean() < 0.3


def test_a_cut_is_no_motion() -> None:
    other = grey(np.ascontiguousarray(data.coffee()[:HEIGHT, :WIDTH]))
    assert between(view(0, 0), other) is None


def test_a_fade_and_a_flash_are_no_cuts() -> None:
    frame = view(0, 0)
    darker = (frame * 0.8).astype(np.uint8)
    brighter = np.clip(frame.astype(int) + 40, 0, 255).astype(np.uint8)
    assert between(frame, darker) is not None
    assert between(frame, brighter) is not None


def test_frames_too_small_to_look_at() -> None:
    assert between(np.zeros((10, 64), np.uint8), np.zeros((10, 64), np.uint8)) is None


def test_the_number_of_threads_makes_no_difference() -> None:
    found = []
    for threads in (1, 2, 4):
        cv2.setNumThreads(threads)
        found.append(between(view(0, 0), view(2.3, 1.7)))
    first, *others = found
    assert first is not None
    for other in others:
        assert other is not None
        assert np.array_equal(first.forward, other.forward)
        assert np.array_equal(first.leads, other.leads)


def test_grey_of_deep_frames() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    deep = rgb.astype(np.uint16) * 257
    assert np.array_equal(grey(deep), grey(rgb))
