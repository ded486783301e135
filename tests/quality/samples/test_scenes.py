"""Interpolation and generated films against what must hold for any picture and any motion."""

from __future__ import annotations

import math
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage import data
from torch import Tensor

from invsr_daemon.errors import ConfigError
from invsr_daemon.quality.samples.clips import Pixels, Step
from invsr_daemon.quality.samples.generated import CLIPS, Studio, generated, panning, turned
from invsr_daemon.quality.samples.scenes import MARGIN, Generated, Layer, Shape, Shot, moved, texture
from invsr_daemon.quality.samples.spline import coefficients, sample

SIZE = (96, 128)
PHOTOGRAPHS = tuple(
    np.asarray(Image.fromarray(getattr(data, name)()).resize((224, 168), Image.Resampling.LANCZOS))
    for name in ("astronaut", "coffee", "chelsea")
)
STUDIO = Studio(PHOTOGRAPHS, SIZE, frames=6)


def grid(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Every pixel's x and y, [height * width]."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return x.flatten().double(), y.flatten().double()


def steps(name: str, frames: int = STUDIO.frames) -> list[Step]:
    return list(CLIPS[name](Studio(PHOTOGRAPHS, SIZE, frames)).steps())


def as_tensor(pixels: Pixels) -> Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1).float()


def carried(picture: Pixels, vectors: Tensor) -> Tensor:
    """[H,W,3]: the picture, fetched from where the flow points to."""
    x, y = grid(*SIZE)
    fetched = sample(coefficients(as_tensor(picture)), x + vectors[0].flatten(), y + vectors[1].flatten())
    return fetched.view(*SIZE, 3)


@given(seed=st.integers(0, 99), height=st.integers(2, 40), width=st.integers(2, 40))
def test_the_spline_passes_through_every_pixel(seed: int, height: int, width: int) -> None:
    picture = torch.rand(2, height, width, generator=torch.Generator().manual_seed(seed))
    found = sample(coefficients(picture), *grid(height, width))
    torch.testing.assert_close(found.T.reshape(2, height, width), picture, atol=1e-5, rtol=0)


@given(across=st.floats(-1, 1), down=st.floats(-1, 1), constant=st.floats(-9, 9))
def test_between_pixels_it_is_exact_for_planes(across: float, down: float, constant: float) -> None:
    x, y = grid(60, 60)
    plane = across * x + down * y + constant
    inner = torch.rand(2, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 10 + 25
    found = sample(coefficients(plane.view(1, 60, 60)), *inner)[:, 0]
    torch.testing.assert_close(found, across * inner[0] + down * inner[1] + constant, atol=1e-5, rtol=0)


def test_beyond_the_edge_it_is_mirrored() -> None:
    weights = coefficients(torch.rand(1, 9, 7, generator=torch.Generator().manual_seed(0)))
    x, y = torch.tensor([1.3, 2.0]).double(), torch.tensor([0.6, 5.2]).double()
    torch.testing.assert_close(sample(weights, -x, y), sample(weights, x, y))
    torch.testing.assert_close(sample(weights, x, 16 - y), sample(weights, x, y))


@pytest.mark.parametrize("name", CLIPS)
def test_the_flow_carries_each_frame_onto_its_neighbour(name: str) -> None:
    """Within rounding to 8 bits and what a spline loses at the sharpest edges."""
    before: Step | None = None
    for step in steps(name):
        if before is not None and step.motion is not None:
            for flow, here, there in (
                (step.motion.forward, before.truth, step.truth),
                (step.motion.backward, step.truth, before.truth),
            ):
                apart = (carried(there, flow.vectors) - torch.from_numpy(here))[flow.valid]
                assert apart.square().mean() < 12
                assert flow.valid.float().mean() > 0.6
        before = step


@pytest.mark.parametrize("name", CLIPS)
def test_static_regions_are_static(name: str) -> None:
    """Not a bit changes there, in any frame of a shot."""
    first: Step | None = None
    shares = []
    for step in steps(name):
        if first is None or step.motion is None:
            first = step
        assert step.static is not None
        assert first.static is not None
        assert torch.equal(step.static, first.static)
        np.testing.assert_array_equal(step.truth[step.static.numpy()], first.truth[step.static.numpy()])
        shares.append(step.static.float().mean())
    moving = {"pan-slow", "pan", "pan-fast", "zoom", "rotation", "cuts"}
    assert (max(shares) == 0) == (name in moving)


@settings(max_examples=20)
@given(x=st.integers(-9, 9), y=st.integers(-9, 9))
def test_a_pan_by_whole_pixels_loses_nothing(x: int, y: int) -> None:
    clip = STUDIO.clip("whole", STUDIO.background(1, panning(x, y)))
    first, second = islice(clip.steps(), 2)
    assert second.motion is not None
    flow = second.motion.forward
    assert torch.all(flow.vectors[0] == -x)
    assert torch.all(flow.vectors[1] == -y)
    apart = carried(second.truth, flow.vectors) - torch.from_numpy(first.truth)
    assert apart[flow.valid].abs().max() < 1e-3


@settings(max_examples=20)
@given(angle=st.floats(-0.1, 0.1), scale=st.floats(1, 1.2), x=st.floats(-4, 4))
def test_forth_and_back_again(angle: float, scale: float, x: float) -> None:
    path = lambda t: turned((60, 50), angle * t, scale**t) @ panning(x, 1)(t)  # noqa: E731
    _, second = islice(STUDIO.clip("any", STUDIO.background(0, path)).steps(), 2)
    assert second.motion is not None
    forward, backward = second.motion.forward, second.motion.backward
    assert forward.vectors.shape == backward.vectors.shape == (2, *SIZE)
    there = grid(*SIZE)[0] + forward.vectors[0].flatten(), grid(*SIZE)[1] + forward.vectors[1].flatten()
    back = sample(coefficients(backward.vectors), *there).T.reshape(2, *SIZE)
    assert ((forward.vectors + back).abs().amax(0)[forward.valid] < 1e-2).all()


def test_what_an_object_covers_or_uncovers_has_no_vector() -> None:
    """A black square moves 10 to the right over grey: the strip before it is hidden, that behind appears."""
    grey = Layer(texture(np.full((*SIZE, 3), 128, np.uint8)))
    square = Shape((39.5, 49.5), (10, 10), edge=1e-6, box=True)
    path = panning(-10, 0)
    black = Layer(texture(np.zeros((*SIZE, 3), np.uint8)), path, square, path)
    film = Generated("square", SIZE, (Shot(2, (grey, black)),))
    first, second = film.steps()
    assert (first.truth[40:60, 30:50] == 0).all()
    assert (second.truth[40:60, 40:60] == 0).all()
    assert (first.truth[:, 50:] == 128).all()
    assert second.motion is not None
    forward, backward = second.motion.forward, second.motion.backward
    assert not forward.valid[40:60, 50:60].any()  # is covered now
    assert not backward.valid[40:60, 30:40].any()  # was covered before
    inner = np.s_[40 + MARGIN : 60 - MARGIN, 30 + MARGIN : 50 - MARGIN]
    assert forward.valid[inner].all()
    assert (forward.vectors[0][inner] == 10).all()
    assert forward.valid[:30].all()
    assert (forward.vectors[:, :30] == 0).all()
    expected = torch.ones(SIZE, dtype=torch.bool)
    expected[40:60, 30:60] = False
    assert first.static is not None
    assert torch.equal(first.static, expected)


def test_a_sensor_makes_other_noise_in_every_frame_but_always_the_same() -> None:
    noisy, again, clean = steps("static-noise"), steps("static-noise"), steps("static")
    for one, same, still in zip(noisy, again, clean, strict=True):
        np.testing.assert_array_equal(one.poor, same.poor)
        np.testing.assert_array_equal(one.truth, still.truth)
        noise = one.poor.astype(float) - still.poor
        assert 3.5 < noise.std() < 5.5  # of 5, less where it was clipped
    assert (noisy[0].poor != noisy[1].poor).mean() > 0.8


def test_cuts_have_no_motion() -> None:
    found = steps("cuts", frames=45)
    assert [step.index for step in found] == list(range(45))
    assert [step.index for step in found if step.motion is None] == [0, 20, 40]


def test_slides_are_held() -> None:
    found = steps("slides", frames=5)
    assert len(found) == 10
    assert [step.index for step in found if step.motion is None] == [0, 5]
    assert {step.poor.tobytes() for step in found} == {found[0].poor.tobytes(), found[5].poor.tobytes()}


def test_one_photograph_is_enough() -> None:
    lonely = Studio(PHOTOGRAPHS[:1], SIZE, frames=2)
    for clip in generated(list(CLIPS), lonely):
        first = next(iter(clip.steps()))
        assert first.truth.shape == (*SIZE, 3)
        assert first.poor.shape == (SIZE[0] // 4, SIZE[1] // 4, 3)
    shots = [next(iter(CLIPS["slides"](lonely).steps())), list(CLIPS["slides"](lonely).steps())[-1]]
    assert (shots[0].truth != shots[1].truth).any()


def test_there_is_no_such_clip() -> None:
    with pytest.raises(ConfigError, match="no clip 'pna', only pan-slow, pan,"):
        generated(["pna"], STUDIO)


@given(angle=st.floats(-3, 3), x=st.floats(-99, 99), y=st.floats(-99, 99))
def test_turning_keeps_the_centre_and_distances(angle: float, x: float, y: float) -> None:
    matrix = turned((3, 4), angle, 1.0)
    at = moved(matrix, torch.tensor([3.0, x]).double(), torch.tensor([4.0, y]).double())
    assert (at[0][0].item(), at[1][0].item()) == pytest.approx((3, 4))
    assert math.dist((at[0][1], at[1][1]), (3, 4)) == pytest.approx(math.dist((x, y), (3, 4)))
