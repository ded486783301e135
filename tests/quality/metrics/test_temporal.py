"""Measures of stability in time: laws, numbers worked out by hand, and independent references."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.color import rgb2ycbcr
from torch import Tensor

from invsr_daemon.quality.metrics.temporal import (
    change,
    compensated_change,
    interior,
    luma,
    residuals,
    seam,
    temporal_std,
    warping_error,
)
from invsr_daemon.quality.samples.clips import Flow, Pixels

HEIGHT, WIDTH = 24, 30
EVERYWHERE = torch.ones(HEIGHT, WIDTH, dtype=torch.bool)
frames = arrays(np.uint8, (HEIGHT, WIDTH, 3))


def noise(seed: int) -> Pixels:
    drawn: Pixels = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    return drawn


def flow_by(x: float, y: float, valid: Tensor = EVERYWHERE) -> Flow:
    return Flow(torch.tensor([x, y]).view(2, 1, 1).expand(2, HEIGHT, WIDTH).contiguous(), valid)


def inside(x: int, y: int) -> Tensor:
    """Where a shift by whole pixels stays within the frame."""
    rows, columns = torch.arange(HEIGHT) + y, torch.arange(WIDTH) + x
    return ((rows >= 0) & (rows < HEIGHT))[:, None] & ((columns >= 0) & (columns < WIDTH))


@given(frames)
def test_luma_is_that_of_scikit_image(frame: Pixels) -> None:
    np.testing.assert_allclose(luma(frame).numpy(), rgb2ycbcr(frame)[..., 0], atol=1e-3)


@given(frames, st.integers(1, 9))
def test_what_stays_the_same_has_no_deviation(frame: Pixels, count: int) -> None:
    assert temporal_std([luma(frame)] * count, EVERYWHERE) == 0
    assert change(frame, frame) == 0
    assert warping_error(frame, frame, flow_by(0, 0)) == 0


@given(st.integers(0, 99), st.integers(1, 12))
def test_the_deviation_is_numpys(seed: int, count: int) -> None:
    film = torch.rand(count, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(seed)) * 255
    static = film[0] > 100
    expected = film.numpy().astype(np.float64).std(axis=0)[static.numpy()].mean()
    assert temporal_std(iter(film), static) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_nothing_static_nothing_to_say() -> None:
    assert temporal_std([luma(noise(0))] * 2, ~EVERYWHERE) is None
    assert warping_error(noise(0), noise(1), flow_by(0, 0, ~EVERYWHERE)) is None
    assert compensated_change(torch.zeros(0, 3)) is None


@given(frames, st.integers(-8, 8), st.integers(-8, 8))
def test_a_shift_by_whole_pixels_costs_nothing(frame: Pixels, x: int, y: int) -> None:
    later = np.roll(frame, (y, x), axis=(0, 1))
    assert warping_error(frame, later, flow_by(x, y, inside(x, y))) == pytest.approx(0, abs=1e-6)


@given(st.integers(0, 99), st.floats(0, 40))
def test_brightening_is_found_behind_motion(seed: int, level: float) -> None:
    """Every pixel rises by the same whole number while the picture moves."""
    frame, rise = noise(seed) // 2, round(level)
    later = np.roll(frame, (2, -3), axis=(0, 1)) + np.uint8(rise)
    flow = flow_by(-3, 2, inside(-3, 2))
    assert warping_error(frame, later, flow) == pytest.approx(rise**2, abs=1e-3)
    # 219 steps of studio luma for 255 of grey
    apart = residuals(frame, later, flow)
    assert compensated_change(apart) == pytest.approx(rise * 219 / 255, abs=1e-3)


def test_only_valid_pixels_count() -> None:
    frame, later = noise(0), noise(0)
    later[:10] = 0
    valid = EVERYWHERE.clone()
    valid[:10] = False
    assert warping_error(frame, later, flow_by(0, 0, valid)) == 0
    assert warping_error(frame, later, flow_by(0, 0)) == pytest.approx(
        np.square(frame[:10].astype(float)).sum() / frame.size
    )


def test_a_blurred_film_is_no_stabler_for_the_way_it_is_sampled() -> None:
    """A soft pattern, moved by half a pixel: by splines there is next to no error, bilinearly there is."""
    x = np.arange(WIDTH)

    def wave(shift: float) -> Pixels:
        row = 128 + 100 * np.sin((x - shift) * 2 * np.pi / 6)
        return np.repeat(np.repeat(row[None, :, None], HEIGHT, 0), 3, 2).round().astype(np.uint8)

    valid = EVERYWHERE.clone()
    valid[:, :8] = valid[:, -8:] = False
    earlier, later = wave(0), wave(0.5)
    bilinear = (later[:, :-1].astype(float) + later[:, 1:]) / 2 - earlier[:, :-1]
    by_splines = warping_error(earlier, later, flow_by(0.5, 0, valid))
    assert by_splines is not None
    assert by_splines < 1
    assert np.square(bilinear[:, 8:-8]).mean() > 20 * by_splines


@given(st.integers(0, 9), st.integers(0, 99))
def test_the_interior_keeps_its_distance(distance: int, seed: int) -> None:
    mask = torch.rand(HEIGHT, WIDTH, generator=torch.Generator().manual_seed(seed)) > 0.02
    kept = interior(mask, distance)
    expected = [
        mask[max(0, y - distance) : y + distance + 1, max(0, x - distance) : x + distance + 1].all()
        for y in range(HEIGHT)
        for x in range(WIDTH)
    ]
    assert kept.flatten().tolist() == [bool(each) for each in expected]


def test_a_seam_stands_out() -> None:
    smooth: list[Any] = [None, *[2.0] * 11]
    assert seam(smooth, 6) == 0
    rough = [*smooth[:6], 3.0, *smooth[7:]]
    assert seam(rough, 6) == pytest.approx(3.05 / 2.05 - 1)
    assert seam(rough, 7) == 0  # a single neighbour does not move the median
    assert seam([None, *[0.0] * 11], 6) == 0
    assert seam([*[0.0] * 6, 1.0, *[0.0] * 5], 6) == pytest.approx(20)


def test_what_the_truth_does_is_no_seam() -> None:
    truth = [None, 2.0, 2.0, 2.0, 9.0, 2.0, 2.0, 2.0]
    ours = [None if each is None else 1.5 * each + 0.025 for each in truth]
    assert seam(ours, 4) == pytest.approx(13.575 / 3.075 - 1)
    assert seam(ours, 4, reference=truth) == pytest.approx(0, abs=1e-9)


def test_neighbours_are_no_seams_themselves_nor_cuts() -> None:
    changes = [None, 1.0, 9.0, 9.0, 1.0, None, 9.0]
    assert seam(changes, 4, neighbours=2) == pytest.approx(1 - 1.05 / 9.05)
    assert seam(changes, 4, neighbours=2, without=(2, 3, 6)) is None
    assert seam(changes, 4, neighbours=3, without=(2, 3, 6)) == pytest.approx(0)
    assert seam(changes, 5) is None
    assert seam([None, 1.0], 1) is None
