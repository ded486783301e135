"""Noise is a value: a function of seed and place, of nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from invsr_daemon.model import noise as noise_module
from invsr_daemon.model.noise import CanvasNoise, Draw, GivenNoise, NoiseSource, ZeroNoise, stacked
from invsr_daemon.model.tiling import TilePlan, Tiling, plan_tiles

SMALL = plan_tiles(64, 96, Tiling(32, 16, 16))
LARGE = plan_tiles(64, 96, Tiling(64, 32, 16))
DRAWS: tuple[Draw, ...] = ("noise_predictor", "vae")


def whole(source: NoiseSource, plan: TilePlan, draw: Draw = "vae") -> Tensor:
    """The canvas that the tiles make up; fails where two tiles disagree."""
    canvas = torch.full((4, plan.height // 2, plan.width // 2), torch.nan)
    for tile in plan.tiles:
        values = source.tile(draw, plan, tile, 4)
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
    forward = [CanvasNoise(3).tile(draw, SMALL, tile, 4) for draw in DRAWS for tile in SMALL.tiles]
    noise_module._field.cache_clear()
    torch.randn(17)
    backward = [
        CanvasNoise(3).tile(draw, SMALL, tile, 4) for draw in DRAWS[::-1] for tile in SMALL.tiles[::-1]
    ]
    assert all(torch.equal(a, b) for a, b in zip(forward, backward[::-1], strict=True))


def test_drawing_leaves_the_global_generator_alone() -> None:
    noise_module._field.cache_clear()
    before = torch.get_rng_state()
    whole(CanvasNoise(3), SMALL)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_two_draws_are_independent() -> None:
    one, other = (whole(CanvasNoise(3), SMALL, draw) for draw in DRAWS)
    assert abs(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1]) < 0.05


@pytest.mark.parametrize("seed", [0, 1, 7, 2**31])
def test_neighbouring_seeds_are_independent(seed: int) -> None:
    for draw in DRAWS:
        for other_draw in DRAWS:
            one = whole(CanvasNoise(seed), SMALL, draw)
            other = whole(CanvasNoise(seed + 1), SMALL, other_draw)
            assert abs(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1]) < 0.05


def test_draws_are_standard_normal() -> None:
    plan = plan_tiles(512, 512, Tiling(512, 0, 16))
    values = CanvasNoise(5).tile("vae", plan, plan.tiles[0], 4)
    assert abs(values.mean()) < 0.01
    assert abs(values.var() - 1) < 0.02
    assert 2.5 < (values**4).mean() < 3.5


def test_zero_noise_is_zero() -> None:
    assert whole(ZeroNoise(), SMALL).abs().max() == 0


def test_given_noise_is_handed_out_by_tile_and_draw() -> None:
    count = len(SMALL.tiles)
    given = GivenNoise(torch.rand(count, 4, 16, 16), torch.rand(count, 4, 16, 16))
    for tile in SMALL.tiles:
        assert torch.equal(given.tile("noise_predictor", SMALL, tile, 4), given.noise_predictor[tile.index])
        assert torch.equal(given.tile("vae", SMALL, tile, 4), given.vae[tile.index])


def test_a_batch_is_its_tiles_in_order() -> None:
    tiles = [SMALL.tiles[4], SMALL.tiles[0]]
    batch = stacked(CanvasNoise(3), "vae", SMALL, tiles, 4)
    for row, tile in zip(batch, tiles, strict=True):
        assert torch.equal(row, CanvasNoise(3).tile("vae", SMALL, tile, 4))
