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
from hypothesis import given
from hypothesis import strategies as st
from skimage import data
from torch import Tensor, nn

from invsr_daemon.model import InvSR, fusion
from invsr_daemon.model import film as film_module
from invsr_daemon.model.film import FilmFrame, FilmRestorer
from invsr_daemon.model.invsr import Options
from invsr_daemon.model.noise import AnchorNoise, CanvasNoise
from invsr_daemon.model.tiling import TilePlan, Tiling, plan_tiles
from invsr_daemon.model.traces import Motion

HEIGHT, WIDTH = 48, 64
INTERVAL, REACH = 6, 9
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

    hook = model._parts.unet.register_forward_pre_hook(note)
    try:
        yield shapes
    finally:
        hook.remove()


def pixels_in(shapes: Sequence[tuple[int, ...]]) -> int:
    """LR pixels; latents are half as wide and high."""
    return sum(4 * batch * height * width for batch, _, height, width in shapes)


def photograph(name: str = "astronaut") -> Tensor:
    """uint8 [3,256,256]."""
    return torch.from_numpy(getattr(data, name)()[:512:2, :512:2].copy()).permute(2, 0, 1)


def crop(picture: Tensor, left: int, top: int = 40) -> Tensor:
    return picture[:, top : top + HEIGHT, left : left + WIDTH].clone()


def moving(x: float, y: float = 0.0) -> Motion:
    """The whole picture's content goes so far from one frame to the next."""
    forward = torch.tensor([x, y]).view(2, 1, 1).expand(2, HEIGHT, WIDTH).float()
    column = torch.arange(WIDTH).expand(HEIGHT, WIDTH)
    row = torch.arange(HEIGHT)[:, None].expand(HEIGHT, WIDTH)

    def inside(sign: int) -> Tensor:
        return (
            (column + sign * x >= 0)
            & (column + sign * x < WIDTH)
            & (row + sign * y >= 0)
            & (row + sign * y < HEIGHT)
        )

    still = torch.full((HEIGHT, WIDTH), x == 0 and y == 0)
    return Motion(forward, -forward, inside(1), inside(-1), still)


def still_shot(frames: int, noise: float = 0.0) -> list[FilmFrame]:
    """One picture again and again, with sensor noise (levels of 255) of its own in each frame."""
    clean = crop(photograph(), 90).float()
    generator = torch.Generator().manual_seed(0)
    shots = [
        (clean + noise * torch.randn(clean.shape, generator=generator)).round().clamp(0, 255).byte()
        for _ in range(frames)
    ]
    return [FilmFrame(i, shot, moving(0) if i else None) for i, shot in enumerate(shots)]


def pan(frames: int, step: int = 1) -> list[FilmFrame]:
    return [
        FilmFrame(i, crop(photograph(), 40 + step * i), moving(-step) if i else None) for i in range(frames)
    ]


def restored(
    model: InvSR, frames: Sequence[FilmFrame], wanted: range, *, options: Options = OPTIONS, **kinds: Any
) -> list[Tensor]:
    """As a worker does it: with no more than a chunk's context."""
    restorer = FilmRestorer(model, options, seed=3, interval=INTERVAL, **kinds)
    first, last = wanted.start - REACH, wanted.stop + REACH + 1
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


def test_sensor_noise_is_averaged_away(model: InvSR) -> None:
    shot = still_shot(25, noise=4)
    noisy = torch.stack(whole(model, [replace(frame, motion=None) for frame in shot], tolerance=0.0))
    quiet = torch.stack(whole(model, shot))
    assert quiet.std(0).mean() < noisy.std(0).mean() / 2.4  # seven frames in each mean
    (truth,) = whole(model, still_shot(1))
    assert (quiet[12] - truth).square().mean() < (noisy[12] - truth).square().mean() / 3


def test_equal_frames_average_to_exactly_themselves() -> None:
    shot = still_shot(7)
    for place in range(7):
        assert torch.equal(film_module._average(shot, place, 6), shot[0].unit())


@pytest.mark.parametrize(("place", "frames"), [(0, 9), (3, 11), (12, 13), (22, 11), (24, 9)])
def test_as_many_frames_are_averaged_as_noise_asks(place: int, frames: int) -> None:
    """Six on either side, and where the shot ends a third of those that lack there."""
    shot = still_shot(25, noise=4)
    clean = still_shot(1)[0].unit()
    left = film_module._average(shot, place, 6) - clean
    noise = shot[place].unit() - clean
    assert (left.std() / noise.std()).item() == pytest.approx(frames**-0.5, rel=0.05)


def test_black_bars_tell_nothing_of_noise() -> None:
    shot = [replace(frame, pixels=frame.pixels.clone()) for frame in still_shot(13, noise=4)]
    for frame in shot:
        frame.pixels[:, :10] = frame.pixels[:, -10:] = 16
    middle = (slice(None), slice(12, -12))
    left = film_module._average(shot, 6, 6) - still_shot(1)[0].unit()
    noise = shot[6].unit() - still_shot(1)[0].unit()
    assert (left[middle].std() / noise[middle].std()).item() == pytest.approx(13**-0.5, rel=0.1)
    assert (film_module._average(shot, 6, 6)[:, :10] == shot[6].unit()[:, :10]).all()


def test_slow_motion_is_not_noise() -> None:
    """A picture that brightens by half a level with each frame, of which motion sees nothing."""
    slow = [
        FilmFrame(frame.index, (frame.unit() + 0.5 * frame.index / 255).clamp(0, 1), frame.motion)
        for frame in still_shot(7)
    ]
    ends = [film_module._average(slow, place, 6) - slow[place].unit() for place in (0, 6)]
    assert max(end.abs().max().item() for end in ends) * 255 < 0.3, "no further than the next frame"


def test_what_moves_is_not_averaged() -> None:
    shot = pan(7)
    assert torch.equal(film_module._average(shot, 3, 6), shot[3].unit())


@pytest.mark.parametrize("kind", ["pan", "noise", "cut", "object"])
def test_chunks_leave_no_seams(model: InvSR, kind: str) -> None:
    """Whatever the chunks, every frame comes out as if the whole film had been restored at once."""
    frames = {
        "pan": pan(26),
        "noise": still_shot(26, noise=2),
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
            assert (one - other).square().mean() < 10 ** (-65 / 10)


def with_cut(frames: Sequence[FilmFrame], at: int) -> list[FilmFrame]:
    other = crop(photograph("coffee"), 30)
    return [
        frame if i < at else replace(frame, pixels=other, motion=moving(0) if i > at else None, cut=i == at)
        for i, frame in enumerate(frames)
    ]


def with_object(frames: Sequence[FilmFrame]) -> list[FilmFrame]:
    """A bright square of 8 pixels wanders through the left half, and everyone knows how."""
    return [replace(frame, pixels=stamped(frame, i), motion=wandering(i)) for i, frame in enumerate(frames)]


def stamped(frame: FilmFrame, i: int) -> Tensor:
    pixels = frame.pixels.clone()
    pixels[:, 8:16, i : i + 8] = 255
    return pixels


def wandering(i: int) -> Motion | None:
    if i == 0:
        return None
    motion = moving(0)
    forward, backward, still = (
        torch.zeros(2, HEIGHT, WIDTH),
        torch.zeros(2, HEIGHT, WIDTH),
        motion.still.clone(),
    )
    forward[0, 8:16, i - 1 : i + 7], backward[0, 8:16, i : i + 8] = 1, -1
    still[8:16, i - 1 : i + 8] = False
    leads, stems = motion.leads.clone(), motion.stems.clone()
    leads[8:16, i + 7], stems[8:16, i - 1] = False, False  # what is covered next, what has come to light
    return Motion(forward, backward, leads, stems, still)


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


@given(st.sets(st.integers(0, 34), min_size=1))
def test_what_tiles_cover(chosen: set[int]) -> None:
    plan = plan_tiles(44, 60, Tiling(16, 8, 8, fill_tile=False))
    chosen = {index % len(plan.tiles) for index in chosen}
    wanted = torch.zeros(plan.height, plan.width, dtype=torch.bool)
    for tile in (plan.tiles[index] for index in chosen):
        wanted[tile.top : tile.top + tile.height, tile.left : tile.left + tile.width] = True
    assert torch.equal(film_module._covered(chosen, plan, (44, 60)), wanted[:44, :60])


def test_only_what_changes_is_computed_and_the_rest_stays_exactly(model: InvSR) -> None:
    frames = with_object(still_shot(13))
    with latents_of(model) as shapes:
        few = whole(model, frames)
    every = len(frames) * HEIGHT * WIDTH
    assert pixels_in(shapes) < 0.6 * every
    right = [frame[:, :, 140:] for frame in few]  # beyond the first column of tiles
    assert all(torch.equal(each, right[0]) for each in right)


def test_skipping_stays_near_the_full_computation(model: InvSR, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error of not computing what does not change: below 60 dB."""
    frames = with_object(still_shot(13))
    skipping = whole(model, frames)

    def all_of_them(mask: Tensor, plan: TilePlan) -> set[int]:
        return set(range(len(plan.tiles)))

    monkeypatch.setattr(film_module, "_touched", all_of_them)
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


def test_only_wanted_frames_and_their_neighbours_are_computed(model: InvSR) -> None:
    with latents_of(model) as shapes:
        found = restored(model, pan(40), range(13, 17))
    assert len(found) == 4
    assert pixels_in(shapes) == 6 * HEIGHT * WIDTH


def test_frames_together_give_what_they_give_one_by_one(model: InvSR) -> None:
    frames = pan(14)
    options = replace(OPTIONS, tile_batch=4)
    with latents_of(model) as shapes:
        together = whole(model, frames, options=options, frame_batch=4)
    assert max(shape[0] for shape in shapes) == 4
    for one, other in zip(whole(model, frames), together, strict=True):
        assert apart(one, other) < 0.05


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


def test_no_more_canvases_are_held_than_are_needed(model: InvSR) -> None:
    """Anchors, neighbours and the one at work: not those of a whole interval."""
    restorer = FilmRestorer(model, OPTIONS, seed=0, interval=12)
    counts = [canvases_in_memory() for _ in restorer.restore(pan(26), range(26))]
    assert 3 <= max(counts) <= 7, counts
