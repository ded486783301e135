"""Noise is a value: a function of seed and place, of nothing else."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from invsr_daemon.restorers import noise as noise_module
from invsr_daemon.restorers.film.noise import AnchorNoise, MovedNoise
from invsr_daemon.restorers.film.traces import Trace
from invsr_daemon.restorers.noise import CanvasNoise, Draw, GivenNoise, NoiseSource, ZeroNoise, stacked
from invsr_daemon.restorers.tiling import TilePlan, Tiling, plan_tiles

SMALL = plan_tiles(64, 96, Tiling(32, 16, 16))
LARGE = plan_tiles(64, 96, Tiling(64, 32, 16))
PREDICTOR, VAE = DRAWS = (Draw("noise_predictor", 4), Draw("vae", 4))


def whole(source: NoiseSource, plan: TilePlan, draw: Draw = VAE) -> Tensor:
    """The canvas that the tiles make up; fails where two tiles disagree."""
    canvas = torch.full((4, plan.height // 2, plan.width // 2), torch.nan)
    for tile in plan.tiles:
        values = source.tile(draw, plan, tile)
        place = canvas[
            :, tile.top // 2 : (tile.top + tile.height) // 2, tile.left // 2 : (tile.left + tile.width) // 2
        ]
        assert values.shape == place.shape
        assert torch.equal(values[~place.isnan()], place[~place.isnan()])
        place.copy_(values)
    return canvas


def test_overlapping_tiles_share_their_noise() -> None:
    assert whole(CanvasNoise(3), SMALL).isfinite().all()


def test_noise_does_not_depend_on_the_tile_size() -> None:
    assert (SMALL.height, SMALL.width) == (LARGE.height, LARGE.width)
    assert torch.equal(whole(CanvasNoise(3), SMALL), whole(CanvasNoise(3), LARGE))


def test_noise_does_not_depend_on_what_was_asked_before() -> None:
    forward = [CanvasNoise(3).tile(draw, SMALL, tile) for draw in DRAWS for tile in SMALL.tiles]
    noise_module._field.cache_clear()
    torch.randn(17)
    backward = [CanvasNoise(3).tile(draw, SMALL, tile) for draw in DRAWS[::-1] for tile in SMALL.tiles[::-1]]
    assert all(torch.equal(a, b) for a, b in zip(forward, backward[::-1], strict=True))


def test_drawing_leaves_the_global_generator_alone() -> None:
    noise_module._field.cache_clear()
    before = torch.get_rng_state()
    whole(CanvasNoise(3), SMALL)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_two_draws_are_independent() -> None:
    one, other = (whole(CanvasNoise(3), SMALL, draw) for draw in DRAWS)
    assert abs(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1]) < 0.05


@pytest.mark.parametrize("seed", [2**62, 2**70, -1])
def test_any_seed_will_do(seed: int) -> None:
    moved = MovedNoise(CanvasNoise(seed), wavy(0), wavy(1), share=0.5)
    assert whole(moved, SMALL).isfinite().all()


@pytest.mark.parametrize("seed", [0, 1, 7, 2**31])
def test_neighbouring_seeds_are_independent(seed: int) -> None:
    for draw in DRAWS:
        for other_draw in DRAWS:
            one = whole(CanvasNoise(seed), SMALL, draw)
            other = whole(CanvasNoise(seed + 1), SMALL, other_draw)
            assert abs(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1]) < 0.05


def test_draws_are_standard_normal() -> None:
    plan = plan_tiles(512, 512, Tiling(512, 0, 16))
    values = CanvasNoise(5).tile(VAE, plan, plan.tiles[0])
    assert abs(values.mean()) < 0.01
    assert abs(values.var() - 1) < 0.02
    assert 2.5 < (values**4).mean() < 3.5


def test_zero_noise_is_zero() -> None:
    assert whole(ZeroNoise(), SMALL).abs().max() == 0


def test_given_noise_is_handed_out_by_tile_and_draw() -> None:
    count = len(SMALL.tiles)
    given = GivenNoise(torch.rand(count, 4, 16, 16), torch.rand(count, 4, 16, 16))
    for tile in SMALL.tiles:
        assert torch.equal(given.tile(PREDICTOR, SMALL, tile), given.noise_predictor[tile.index])
        assert torch.equal(given.tile(VAE, SMALL, tile), given.vae[tile.index])


def test_a_batch_is_its_tiles_in_order() -> None:
    tiles = [SMALL.tiles[4], SMALL.tiles[0]]
    batch = stacked([CanvasNoise(3)] * len(tiles), VAE, SMALL, tiles)
    for row, tile in zip(batch, tiles, strict=True):
        assert torch.equal(row, CanvasNoise(3).tile(VAE, SMALL, tile))


# Noise that follows the content

FILM = plan_tiles(96, 128, Tiling(128, 16, 16, fill_tile=False))


def trace(x: float, y: float, plan: TilePlan = FILM) -> Trace:
    displacement = torch.tensor([float(x), float(y)]).view(2, 1, 1).expand(2, plan.height, plan.width)
    return Trace(displacement, torch.ones(plan.height, plan.width, dtype=torch.bool))


def wavy(seed: int) -> Trace:
    """Another displacement everywhere, smooth, up to about ten pixels."""
    generator = torch.Generator().manual_seed(seed)
    coarse = 5 * torch.randn(1, 2, 4, 5, generator=generator)
    return Trace(
        functional.interpolate(coarse, (FILM.height, FILM.width), mode="bicubic")[0],
        torch.rand(FILM.height, FILM.width, generator=generator) > 0.1,
    )


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_moved_noise_is_as_normal_as_any(draw: Draw, share: float) -> None:
    moved = MovedNoise(CanvasNoise(3), wavy(1), wavy(2), share)
    values = moved.tile(draw, FILM, FILM.tiles[0])
    assert values.shape == CanvasNoise(3).tile(draw, FILM, FILM.tiles[0]).shape
    assert abs(values.mean().item()) < 0.03
    assert values.std().item() == pytest.approx(1, abs=0.02)
    quarters = [part.std().item() for half in values.chunk(2, 1) for part in half.chunk(2, 2)]
    assert quarters == pytest.approx([1] * 4, abs=0.04)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_moved_grain_has_unit_variance_everywhere(share: float) -> None:
    for moved in (
        MovedNoise(CanvasNoise(3), wavy(1), wavy(2), share),
        MovedNoise(CanvasNoise(3), trace(0.1, 0.2), trace(-0.1, 0), share),
    ):
        grain = moved.grain(FILM, 4)
        assert grain.shape == (4 * FILM.height, 4 * FILM.width)
        assert abs(grain.mean().item()) < 0.03
        quarters = [part.std().item() for half in grain.chunk(2, 0) for part in half.chunk(2, 1)]
        assert quarters == pytest.approx([1] * 4, abs=0.04)


def test_grain_stays_where_nothing_moved_and_is_the_anchor_s() -> None:
    still = MovedNoise(CanvasNoise(3), trace(0, 0), trace(0, 0), share=0.4).grain(FILM, 4)
    assert torch.allclose(still, AnchorNoise(CanvasNoise(3)).grain(FILM, 4), atol=1e-5)
    unseen = Trace(torch.ones(2, FILM.height, FILM.width), torch.zeros(FILM.height, FILM.width) > 0)
    neither = MovedNoise(CanvasNoise(3), unseen, unseen, share=0.4).grain(FILM, 4)
    assert torch.allclose(neither, still, atol=1e-5), "what neither anchor sees takes its own place's"


@pytest.mark.slow
@given(st.floats(-3, 3), st.floats(-3, 3))
def test_grain_moves_as_smoothly_as_what_it_lies_on(x: float, y: float) -> None:
    """By a tenth of a small pixel, at any fraction of one: noise of whole cells would change by a third."""
    one, other = (
        MovedNoise(CanvasNoise(3), trace(x + step, y), trace(0, 0), share=0.0).grain(FILM, 4)
        for step in (0.0, 0.025)
    )
    assert (other - one)[16:-16, 16:-16].std().item() < 0.2


@pytest.mark.parametrize("displacement", [0.0, 0.13, 0.25, 3.4])
def test_grain_is_as_coarse_between_pixels_as_on_them(displacement: float) -> None:
    """All over the picture: in no frame of a pan is it sharper than in others."""
    grain = MovedNoise(CanvasNoise(3), trace(displacement, 0), trace(0, 0), share=0.0).grain(FILM, 4)
    alike = (grain[:, 1:] * grain[:, :-1]).mean().item()
    assert alike == pytest.approx(0.4, abs=0.03)


@pytest.mark.parametrize("height", [16, 160])
def test_grain_is_clumped_along_rows_and_columns(height: int) -> None:
    plan = plan_tiles(height, 512, Tiling(512, 0, 8))
    grain = CanvasNoise(5).grain(plan, 4)
    assert grain.shape == (4 * plan.height, 4 * plan.width)
    assert grain.std().item() == pytest.approx(1, abs=0.02)

    def alike(down: int, right: int) -> float:
        return (grain * grain.roll((down, right), (0, 1))).mean().item()

    assert alike(0, 1) == pytest.approx(alike(1, 0), abs=0.02)
    assert 0.2 < alike(0, 1) < 0.4
    assert 0 < alike(1, 1) < 0.5 * alike(0, 1)
    assert abs(alike(0, 4)) < 0.03


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_where_nothing_moved_noise_stays_exactly(draw: Draw, share: float) -> None:
    moved = MovedNoise(CanvasNoise(3), trace(0, 0), trace(0, 0), share)
    same = CanvasNoise(3).tile(draw, FILM, FILM.tiles[0])
    assert torch.equal(moved.tile(draw, FILM, FILM.tiles[0]), same)


@pytest.mark.parametrize("draw", DRAWS)
def test_noise_is_fetched_from_where_the_content_was(draw: Draw) -> None:
    moved = MovedNoise(CanvasNoise(3), trace(8, 0), trace(-4, 2), share=0.0)
    values = moved.tile(draw, FILM, FILM.tiles[0])
    canvas = CanvasNoise(3).tile(draw, FILM, FILM.tiles[0])
    assert torch.equal(values[:, :, :-4], canvas[:, :, 4:])  # a cell is two LR pixels wide


def test_what_one_anchor_does_not_see_takes_the_other_ones_noise() -> None:
    unseen = Trace(torch.zeros(2, FILM.height, FILM.width), torch.zeros(FILM.height, FILM.width) > 0)
    tile, canvas = FILM.tiles[0], CanvasNoise(3)
    only_after = MovedNoise(canvas, unseen, trace(0, 8), share=0.25).tile(VAE, FILM, tile)
    assert torch.equal(only_after[:, :-4], canvas.tile(VAE, FILM, tile)[:, 4:])
    neither = MovedNoise(canvas, unseen, unseen, share=0.25).tile(VAE, FILM, tile)
    assert torch.equal(neither, canvas.tile(VAE, FILM, tile))


def test_noise_changes_evenly_from_anchor_to_anchor() -> None:
    steps = [
        MovedNoise(CanvasNoise(3), trace(10, 0), trace(-10, 0), share / 8).tile(VAE, FILM, FILM.tiles[0])[
            :, :, 8:-8
        ]
        for share in range(9)
    ]
    changes = [(b - a).std().item() for a, b in pairwise(steps)]
    assert changes == pytest.approx([changes[0]] * 8, rel=0.05)
    assert changes[0] == pytest.approx(math.pi / 2 / 8, rel=0.05)


def test_frames_by_themselves_have_independent_noise() -> None:
    fields = [whole(CanvasNoise(3, frame), SMALL).flatten() for frame in range(4)]
    others = torch.corrcoef(torch.stack([*fields, whole(CanvasNoise(4), SMALL).flatten()])) - torch.eye(5)
    assert others.abs().max() < 0.06
    assert torch.equal(fields[0], whole(CanvasNoise(3), SMALL).flatten())
