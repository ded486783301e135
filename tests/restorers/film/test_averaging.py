"""Averages over time: noise goes, and nothing else does."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from invsr_daemon.restorers.film.averaging import FilmFrame, average
from tests.support.shots import pan, still_shot


def test_equal_frames_average_to_exactly_themselves() -> None:
    shot = still_shot(7)
    for place in range(7):
        assert torch.equal(average(shot, place, 6), shot[0].unit())


@pytest.mark.parametrize(("place", "frames"), [(0, 9), (3, 11), (12, 13), (22, 11), (24, 9)])
def test_as_many_frames_are_averaged_as_noise_asks(place: int, frames: int) -> None:
    """Six on either side, and where the shot ends a third of those that lack there."""
    shot = still_shot(25, noise=4)
    clean = still_shot(1)[0].unit()
    left = average(shot, place, 6) - clean
    noise = shot[place].unit() - clean
    assert (left.std() / noise.std()).item() == pytest.approx(frames**-0.5, rel=0.05)


def test_black_bars_tell_nothing_of_noise() -> None:
    shot = [replace(frame, pixels=frame.pixels.clone()) for frame in still_shot(13, noise=4)]
    for frame in shot:
        frame.pixels[:, :10] = frame.pixels[:, -10:] = 16
    middle = (slice(None), slice(12, -12))
    left = average(shot, 6, 6) - still_shot(1)[0].unit()
    noise = shot[6].unit() - still_shot(1)[0].unit()
    assert (left[middle].std() / noise[middle].std()).item() == pytest.approx(13**-0.5, rel=0.1)
    assert (average(shot, 6, 6)[:, :10] == shot[6].unit()[:, :10]).all()


def test_slow_motion_is_not_noise() -> None:
    """A picture that brightens by half a level with each frame, of which motion sees nothing."""
    slow = [
        FilmFrame(frame.index, (frame.unit() + 0.5 * frame.index / 255).clamp(0, 1), frame.motion)
        for frame in still_shot(7)
    ]
    ends = [average(slow, place, 6) - slow[place].unit() for place in (0, 6)]
    assert max(end.abs().max().item() for end in ends) * 255 < 0.3, "no further than the next frame"


@pytest.mark.parametrize("noise", [0, 2])
@pytest.mark.parametrize("light", [8, 20, 40])
def test_light_that_goes_on_or_flashes_is_not_noise(noise: float, light: int) -> None:
    """Nothing moves, and everything changes: neither before nor after it is anything seen of it."""
    dark = still_shot(15, noise=noise)
    for lit in (range(7, 15), range(7, 8), range(0, 15, 2)):
        shot = [lightened(frame, light if frame.index in lit else 0) for frame in dark]
        levels = [float((average(shot, place, 6) - shot[place].unit()).mean() * 255) for place in range(15)]
        assert max(map(abs, levels)) < 0.3


def lightened(frame: FilmFrame, light: int) -> FilmFrame:
    """By that many levels in the light parts, half of it in black."""
    pixels = frame.unit()
    return replace(frame, pixels=(pixels * 0.7 + (0.5 + 0.5 * pixels) * light / 255).clamp(0, 1))


@pytest.mark.parametrize(("times", "left"), [(2, 0.45), (3, 0.5)])
def test_frames_shown_several_times_are_averaged_all_the_same(times: int, left: float) -> None:
    """Thirteen frames hold thirteen / times pictures."""
    shot = [still_shot(9, noise=4)[index // times] for index in range(9 * times)]
    shot = [replace(frame, index=index) for index, frame in enumerate(shot)]
    clean = still_shot(1)[0].unit()
    for place in range(12, 12 + times):
        noise = shot[place].unit() - clean
        assert (average(shot, place, 6) - clean).std() < left * noise.std()


def test_what_moves_is_not_averaged() -> None:
    shot = pan(7)
    assert torch.equal(average(shot, 3, 6), shot[3].unit())
