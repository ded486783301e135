"""Arrays to frames with motion, and films through the model by each mode."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from itertools import islice

import numpy as np
import pytest
import torch
from skimage import data

from invsr_daemon import InvSR
from invsr_daemon.records import TemporalSettings
from invsr_daemon.restorers.film import flow
from invsr_daemon.restorers.film.pipeline import Pixels, film_frames, picture, restore_film
from invsr_daemon.restorers.noise import CanvasNoise
from invsr_daemon.restorers.options import Options

OPTIONS = Options(tile=32)


def pan(frames: int) -> list[Pixels]:
    return [np.ascontiguousarray(data.astronaut()[100:132, 100 + 2 * i : 140 + 2 * i]) for i in range(frames)]


def temporal(mode: str) -> TemporalSettings:
    return TemporalSettings(mode, 4, 2.0)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["off", "static"])
def test_without_motion_none_is_looked_for(mode: str) -> None:
    frames = list(film_frames(pan(3), 7, temporal(mode)))
    assert [frame.index for frame in frames] == [7, 8, 9]
    assert all(frame.motion is None and not frame.cut for frame in frames)


def test_motion_and_cuts() -> None:
    other = np.ascontiguousarray(data.coffee()[200:232, 300:340])
    frames = list(film_frames([*pan(3), other, other], 0, temporal("full")))
    assert [frame.cut for frame in frames] == [False, False, False, True, False]
    assert [frame.motion is not None for frame in frames] == [False, True, True, False, True]
    motion = frames[1].motion
    assert motion is not None
    assert motion.forward.shape == (2, 32, 40)
    assert motion.forward[0, 2:10, 12:28].float().mean() == pytest.approx(-2, abs=0.3)
    assert frames[4].motion is not None
    assert frames[4].motion.still.all()


def test_eight_and_sixteen_bits_are_the_same_picture() -> None:
    (eight,) = film_frames(pan(1), 0, temporal("full"))
    (deep,) = film_frames([pan(1)[0].astype(np.uint16) * 257], 0, temporal("full"))
    assert eight.pixels.dtype == torch.uint8
    assert torch.allclose(eight.unit(), deep.unit(), atol=1e-7)
    assert torch.equal(eight.unit(), picture(pan(1)[0]))


@pytest.mark.parametrize("threads", [1, 3])
def test_motion_is_found_ahead_and_in_order(threads: int) -> None:
    """As many frames ahead as there are threads, the same whatever their number; left early, none stays."""
    given = pan(9)
    taken: list[int] = []

    def frames() -> Iterator[Pixels]:
        for number, frame in enumerate(given):
            taken.append(number)
            yield frame

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        film = film_frames(frames(), 0, temporal("full"))
        first = next(film)
        assert taken == list(range(threads + 1))
        found = [first, *islice(film, 7)]
        assert isinstance(film, Generator)
        film.close()
    finally:
        torch.set_num_threads(before)
    assert [frame.index for frame in found] == list(range(8))
    for frame, one, other in zip(found[1:], given, given[1:], strict=False):
        expected = flow.between(flow.grey(one), flow.grey(other))
        assert frame.motion is not None
        assert expected is not None
        assert np.array_equal(frame.motion.stems.numpy(), expected.stems)


def test_off_is_every_frame_by_itself_with_noise_of_its_own(tiny_model: InvSR) -> None:
    frames = list(film_frames([pan(1)[0]] * 5, 10, temporal("off")))
    signs: list[int] = []
    restored = restore_film(
        tiny_model,
        frames,
        range(11, 14),
        OPTIONS,
        temporal("off"),
        seed=2,
        frame_batch=2,
        alive=lambda: signs.append(1),
    )
    found = list(restored)
    assert len(found) == 3
    assert len(signs) >= 3
    for index, frame in zip(range(11, 14), found, strict=True):
        alone = tiny_model.restore(frames[0].unit()[None], noise=CanvasNoise(2, index), tile=32)[0]
        assert torch.allclose(frame, alone, atol=1e-4)
    assert not torch.equal(found[0], found[1])


@pytest.mark.parametrize("mode", ["static", "full"])
def test_otherwise_a_still_film_stays_still(tiny_model: InvSR, mode: str) -> None:
    frames = film_frames([pan(1)[0]] * 6, 0, temporal(mode))
    found = list(restore_film(tiny_model, frames, range(1, 5), OPTIONS, temporal(mode), seed=2))
    assert len(found) == 4
    assert all(frame is found[0] for frame in found)


def test_the_context_that_a_mode_needs() -> None:
    assert temporal("off").context == (0, 0)
    assert temporal("static").context == temporal("full").context == (7, 7)
