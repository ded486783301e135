"""Films: what stands still is computed once, chunks leave no seams, cuts reset everything."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from invsr_daemon import InvSR
from invsr_daemon.records import TemporalSettings
from invsr_daemon.restorers.film import fusion
from invsr_daemon.restorers.film import restorer as film_module
from invsr_daemon.restorers.film.averaging import FilmFrame
from invsr_daemon.restorers.film.noise import AnchorNoise
from invsr_daemon.restorers.film.restorer import FilmRestorer
from invsr_daemon.restorers.noise import CanvasNoise
from invsr_daemon.restorers.options import Options
from invsr_daemon.restorers.tiling import TilePlan
from tests.support.shots import (
    HEIGHT,
    WIDTH,
    crop,
    moving,
    pan,
    photograph,
    still_shot,
    with_cut,
    with_object,
)

INTERVAL = 6
BEFORE, AFTER = TemporalSettings("full", INTERVAL, 2.0).context
OPTIONS = Options(tile_batch=1)


@pytest.fixture(scope="module")
def model() -> InvSR:
    return InvSR.load("default")


@contextmanager
def latents_of(model: InvSR) -> Iterator[list[tuple[int, ...]]]:
    """Shapes of what the UNet is given."""
    shapes: list[tuple[int, ...]] = []

    def note(_: nn.Module, given: tuple[Any, ...]) -> None:
        shapes.append(tuple(given[0].shape))

    hook = model.restorer.parts.unet.register_forward_pre_hook(note)
    try:
        yield shapes
    finally:
        hook.remove()


def pixels_in(shapes: Sequence[tuple[int, ...]]) -> int:
    """LR pixels; latents are half as wide and high."""
    return sum(4 * batch * height * width for batch, _, height, width in shapes)


def restored(
    model: InvSR, frames: Sequence[FilmFrame], wanted: range, *, options: Options = OPTIONS, **kinds: Any
) -> list[Tensor]:
    """As a worker does it: with no more than a chunk's context."""
    restorer = FilmRestorer(model, options, seed=3, interval=INTERVAL, **kinds)
    first, last = wanted.start - BEFORE, wanted.stop + AFTER
    around = [frame for frame in frames if first <= frame.index < last]
    return list(restorer.restore(around, wanted))


def whole(model: InvSR, frames: Sequence[FilmFrame], **kinds: Any) -> list[Tensor]:
    return restored(model, frames, range(frames[0].index, frames[0].index + len(frames)), **kinds)


def apart(one: Tensor, other: Tensor) -> float:
    """Largest difference, in levels of 255."""
    return float((one - other).abs().max()) * 255


def test_a_still_shot_is_computed_once_and_never_changes(model: InvSR) -> None:
    with latents_of(model) as shapes:
        frames = whole(model, still_shot(20))
    assert pixels_in(shapes) == HEIGHT * WIDTH
    assert len(frames) == 20
    assert all(frame is frames[0] for frame in frames)


def test_a_frame_is_as_a_picture_is(model: InvSR) -> None:
    """The first of a still shot: the same noise, nothing to average, nothing to fuse."""
    (frame,) = still_shot(1)
    (alone,) = whole(model, [frame])
    picture = model.restore(frame.unit()[None], noise=AnchorNoise(CanvasNoise(3)))[0]
    assert apart(alone, picture) < 1


@pytest.mark.slow
def test_sensor_noise_is_averaged_away(model: InvSR) -> None:
    shot = still_shot(25, noise=4)
    noisy = torch.stack(whole(model, [replace(frame, motion=None) for frame in shot], tolerance=0.0))
    quiet = torch.stack(whole(model, shot))
    assert quiet.std(0).mean() < noisy.std(0).mean() / 2.4  # seven frames in each mean
    (truth,) = whole(model, still_shot(1))
    assert (quiet[12] - truth).square().mean() < (noisy[12] - truth).square().mean() / 3


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pan", "noise", "cut", "object"])
def test_chunks_leave_no_seams(model: InvSR, kind: str) -> None:
    """Whatever the chunks, every frame comes out as if the whole film had been restored at once.

    But for a quarter of a level: where the anchor before was not restored, an anchor's rectangles are larger,
    and see more around a tile than the halo.
    """
    frames = {
        "pan": pan(26),
        "noise": still_shot(26, noise=4),
        "cut": with_cut(still_shot(26), 13),
        "object": with_object(still_shot(26)),
    }[kind]
    at_once = whole(model, frames)
    for chunks in ([0, 11, 20, 26], [0, 6, 12, 13, 26]):
        pieces = [
            each for start, stop in pairwise(chunks) for each in restored(model, frames, range(start, stop))
        ]
        assert len(pieces) == 26
        for one, other in zip(at_once, pieces, strict=True):
            assert apart(one, other) <= (0.25 if kind == "object" else 0)


def test_nothing_crosses_a_cut(model: InvSR) -> None:
    frames = with_cut(still_shot(18), 7)
    other = with_cut([replace(frame, pixels=255 - frame.pixels) for frame in still_shot(18)], 7)
    first, second = whole(model, frames), whole(model, other)
    assert all(torch.equal(one, two) for one, two in zip(first[7:], second[7:], strict=True))
    assert not torch.equal(first[6], second[6])
    alone = whole(model, [replace(frame, cut=False) for frame in frames[7:]])
    assert torch.equal(alone[-1], first[-1])


@pytest.mark.parametrize("moves", ["before", "after"])
def test_a_still_shot_beside_a_moving_one_stays_exactly_as_it_is(model: InvSR, moves: str) -> None:
    """What changes on the other side of a cut is no reason to fuse a frame of this one with its like."""
    still = [replace(frame, pixels=crop(photograph("coffee"), 30)) for frame in still_shot(5)]
    shots = (pan(5), still) if moves == "before" else (still, pan(5))
    frames = [replace(frame, index=i, cut=i == 5) for i, frame in enumerate([*shots[0], *shots[1]])]
    found = whole(model, frames)
    own = found[5:] if moves == "before" else found[:5]
    assert all(frame is own[0] for frame in own)


@pytest.mark.slow
def test_what_only_fades_is_not_fused(model: InvSR, monkeypatch: pytest.MonkeyPatch) -> None:
    """Light that grows and wanes, between somebody who walks and a lamp that blinks."""
    frames = []
    for frame in with_object(still_shot(2 * INTERVAL + 1)):
        pixels = frame.unit() * (1 - 0.002 * abs(INTERVAL - frame.index))
        pixels[:, 36:44, 48:56] = frame.index % 2
        frames.append(replace(frame, pixels=pixels))
    fused = torch.stack(whole(model, frames, tolerance=4 / 255))
    monkeypatch.setattr(fusion, "SHARE", 0.0)
    unfused = torch.stack(whole(model, frames, tolerance=4 / 255))
    between = (..., slice(144, 184), slice(16, 112))
    assert (fused - unfused)[between].abs().max() < 1e-5
    assert (fused - unfused).abs().max() > 0.01


def test_only_what_changes_is_computed_and_the_rest_stays_exactly(model: InvSR) -> None:
    frames = with_object(still_shot(13))
    with latents_of(model) as shapes:
        few = whole(model, frames)
    every = len(frames) * HEIGHT * WIDTH
    assert pixels_in(shapes) < 0.6 * every
    right = [frame[:, :, 192:] for frame in few]  # beyond the tiles from which the object can be seen
    assert all(torch.equal(each, right[0]) for each in right)


@pytest.mark.slow
def test_skipping_stays_near_the_full_computation(model: InvSR, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error of not computing what does not change: below 60 dB."""
    frames = with_object(still_shot(13))
    skipping = whole(model, frames)

    def all_of_them(mask: Tensor, plan: TilePlan, margin: int = 0) -> set[int]:
        return set(range(len(plan.tiles)))

    monkeypatch.setattr(film_module, "tiles_touched", all_of_them)
    with latents_of(model) as shapes:
        everything = whole(model, frames)
    assert pixels_in(shapes) == len(frames) * HEIGHT * WIDTH
    for one, other in zip(skipping, everything, strict=True):
        assert (one - other).square().mean() < 10 ** (-60 / 10)


def test_repeated_frames_cost_nothing(model: InvSR) -> None:
    """A film of 8 pictures a second shown at 24: two of three frames repeat the one before."""
    single = pan(6)
    frames = [
        FilmFrame(i, single[i // 3].pixels, (moving(-1) if i % 3 == 0 else moving(0)) if i else None)
        for i in range(18)
    ]
    with latents_of(model) as shapes:
        found = whole(model, frames)
    distinct, anchors = 6, 1  # frame 17 is an anchor, computed although it repeats 16
    assert pixels_in(shapes) == (distinct + anchors) * HEIGHT * WIDTH
    assert found[1] is not found[3]


def test_slow_changes_fade_from_anchor_to_anchor(model: InvSR) -> None:
    """Half a level from frame to frame: below the tolerance, so computed at anchors, evenly in between."""
    base = crop(photograph(), 90).float() / 255 * 0.5
    frames = [FilmFrame(i, base + i * 0.3 / 255, None) for i in range(13)]
    with latents_of(model) as shapes:
        found = whole(model, frames)
    assert pixels_in(shapes) == 3 * HEIGHT * WIDTH
    steps = torch.stack([(b - a).mean() * 255 for a, b in pairwise(found)])
    assert torch.allclose(steps, torch.full_like(steps, 0.3), atol=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("frame_batch", [1, 2, 3, 8])
def test_only_wanted_frames_and_their_neighbours_are_computed(model: InvSR, frame_batch: int) -> None:
    with latents_of(model) as shapes:
        found = restored(model, pan(40), range(13, 17), frame_batch=frame_batch)
    assert len(found) == 4
    assert pixels_in(shapes) == 6 * HEIGHT * WIDTH


@pytest.mark.slow
def test_frames_together_give_what_they_give_one_by_one(model: InvSR) -> None:
    frames = pan(14)
    options = replace(OPTIONS, tile_batch=4)
    with latents_of(model) as shapes:
        together = whole(model, frames, options=options, frame_batch=4)
    assert max(shape[0] for shape in shapes) == 4
    for one, other in zip(whole(model, frames), together, strict=True):
        assert apart(one, other) < 0.05


@pytest.mark.slow
def test_a_pan_is_steadier_than_frames_by_themselves(model: InvSR) -> None:
    """One pixel each frame: what the model makes of a place stays, where it moved to."""
    frames = pan(12)
    alone = [model.restore(frame.unit()[None], noise=CanvasNoise(3, frame.index))[0] for frame in frames]
    assert unrest(whole(model, frames)) < unrest(alone) / 2


def unrest(frames: Sequence[Tensor]) -> float:
    """Mean squared difference of neighbours, the pan undone."""
    return sum(float((a[..., 8:-4] - b[..., 4:-8]).square().mean()) for a, b in pairwise(frames))


def test_small_tiles_of_fixed_size(tiny_model: InvSR) -> None:
    """Models bound to their tile: chosen tiles are computed as they are, and others not at all."""
    frames = with_object(still_shot(8))
    with latents_of(tiny_model) as shapes:
        found = whole(tiny_model, frames, options=Options(tile=32, tile_batch=2))
    assert {shape[2:] for shape in shapes} == {(16, 16)}
    assert found[0].shape == (3, 4 * HEIGHT, 4 * WIDTH)
    plan_of_all = 8 * 2 * 3
    assert 6 < sum(shape[0] for shape in shapes) < plan_of_all


def test_signs_of_life(model: InvSR) -> None:
    signs: list[int] = []
    whole(model, pan(3), alive=lambda: signs.append(1))
    assert len(signs) == 3


def test_deep_frames_and_results_of_another_size(model: InvSR) -> None:
    frames = [replace(frame, pixels=frame.unit()) for frame in pan(3)]
    found = whole(model, frames, options=replace(OPTIONS, size=(100, 130)))
    assert [tuple(each.shape) for each in found] == [(3, 100, 130)] * 3
    eight = whole(model, pan(3), options=replace(OPTIONS, size=(100, 130)))
    assert all(torch.equal(one, other) for one, other in zip(found, eight, strict=True))


def test_a_tile_that_does_not_fit_is_told_at_once(model: InvSR) -> None:
    with pytest.raises(ValueError, match="tile must be"):
        FilmRestorer(model, Options(tile=50), seed=0)


def canvases_in_memory() -> int:
    shape = (3, 4 * HEIGHT, 4 * WIDTH)
    found = (each for each in gc.get_objects() if type(each) is Tensor and each.shape == shape)
    return len({each.untyped_storage().data_ptr() for each in found})


@pytest.mark.slow
def test_no_more_canvases_are_held_than_are_needed(model: InvSR) -> None:
    """Anchors, neighbours and the one at work: not those of a whole interval."""
    restorer = FilmRestorer(model, OPTIONS, seed=0, interval=12)
    counts = [canvases_in_memory() for _ in restorer.restore(pan(26), range(26))]
    assert 3 <= max(counts) <= 7, counts
