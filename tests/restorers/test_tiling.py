"""Tiles: where they lie, what surrounds small pictures, how outputs blend."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from invsr_daemon.restorers.blending import Blend, cut, gaussian_window, reflect_pad
from invsr_daemon.restorers.film.covering import CALL, covering, fine, grown, merged
from invsr_daemon.restorers.tiling import Tile, TilePlan, Tiling, plan_tiles

CPU = torch.device("cpu")
SIDES = st.integers(8, 300)


@st.composite
def tilings(draw: st.DrawFn) -> Tiling:
    multiple = draw(st.sampled_from([2, 4, 8, 16]))
    tiles = draw(st.integers(1, 128 // multiple))
    overlap = draw(st.integers(0, tiles - 1))
    return Tiling(tiles * multiple, overlap * multiple, multiple, fill_tile=draw(st.booleans()))


def coverage(plan: TilePlan) -> torch.Tensor:
    counts = torch.zeros(plan.height, plan.width, dtype=torch.int64)
    for tile in plan.tiles:
        counts[tile.top : tile.top + tile.height, tile.left : tile.left + tile.width] += 1
    return counts


@given(SIDES, SIDES, tilings())
def test_every_pixel_of_the_canvas_is_covered(height: int, width: int, tiling: Tiling) -> None:
    assert coverage(plan_tiles(height, width, tiling)).min() >= 1


@given(SIDES, SIDES, tilings())
def test_the_picture_lies_on_the_canvas(height: int, width: int, tiling: Tiling) -> None:
    plan = plan_tiles(height, width, tiling)
    assert 0 <= plan.top <= plan.height - height
    assert 0 <= plan.left <= plan.width - width
    assert plan.height % tiling.multiple == plan.width % tiling.multiple == 0


@given(SIDES, SIDES, tilings())
def test_tiles_lie_on_the_canvas_at_even_origins_and_are_all_of_one_size(
    height: int, width: int, tiling: Tiling
) -> None:
    plan = plan_tiles(height, width, tiling)
    assert len({(tile.height, tile.width) for tile in plan.tiles}) == 1
    for tile in plan.tiles:
        assert 0 <= tile.top <= plan.height - tile.height
        assert 0 <= tile.left <= plan.width - tile.width
        assert tile.top % 2 == tile.left % 2 == 0, "noise has half the resolution"


@given(SIDES, SIDES, tilings())
def test_tiles_are_numbered_row_by_row_and_none_twice(height: int, width: int, tiling: Tiling) -> None:
    tiles = plan_tiles(height, width, tiling).tiles
    corners = [(tile.top, tile.left) for tile in tiles]
    assert corners == sorted(set(corners))
    assert [tile.index for tile in tiles] == list(range(len(tiles)))


@given(SIDES, SIDES, tilings())
def test_neighbours_overlap_by_at_least_the_setting(height: int, width: int, tiling: Tiling) -> None:
    plan = plan_tiles(height, width, tiling)
    tops = sorted({tile.top for tile in plan.tiles})
    for one, following in pairwise(tops):
        assert one + plan.tiles[0].height - following >= tiling.overlap


def test_the_last_tile_is_shifted_back_to_the_border() -> None:
    plan = plan_tiles(32, 80, Tiling(32, 8, 16 // 2))
    assert [tile.left for tile in plan.tiles] == [0, 24, 48]
    plan = plan_tiles(32, 88, Tiling(32, 8, 8))
    assert [tile.left for tile in plan.tiles] == [0, 24, 48, 56]


def test_a_picture_of_one_tile_is_one_tile() -> None:
    plan = plan_tiles(32, 32, Tiling(32, 16, 16))
    assert len(plan.tiles) == 1
    assert (plan.height, plan.width, plan.top, plan.left) == (32, 32, 0, 0)


def test_a_small_picture_is_centred_in_a_tile() -> None:
    plan = plan_tiles(9, 20, Tiling(32, 16, 16))
    assert (plan.height, plan.width, plan.top, plan.left) == (32, 32, 11, 6)


def test_a_small_picture_only_grows_to_the_multiple_if_tiles_need_not_be_filled() -> None:
    plan = plan_tiles(9, 20, Tiling(32, 16, 8, fill_tile=False))
    assert (plan.height, plan.width, plan.top, plan.left) == (16, 24, 0, 0)
    assert (plan.tiles[0].height, plan.tiles[0].width) == (16, 24)


def test_a_large_picture_grows_at_right_and_bottom() -> None:
    plan = plan_tiles(33, 50, Tiling(32, 16, 16))
    assert (plan.height, plan.width, plan.top, plan.left) == (48, 64, 0, 0)


@pytest.mark.parametrize(("tile", "overlap"), [(0, 0), (-16, 0), (24, 0), (32, 32), (32, 8), (32, -16)])
def test_tilings_that_cannot_be_are_refused(tile: int, overlap: int) -> None:
    with pytest.raises(ValueError, match="must be a multiple of 16"):
        Tiling(tile, overlap, 16, fill_tile=False)


@pytest.mark.parametrize("overlap", [32, 7, -2])
def test_tiles_of_one_size_begin_where_draws_do(overlap: int) -> None:
    with pytest.raises(ValueError, match="overlap must be a multiple of 2 below 32"):
        Tiling(32, overlap, 16)


def test_stride_is_half_a_tile_also_where_that_is_no_multiple() -> None:
    plan = plan_tiles(64, 96, Tiling(48, 24, 16))
    corners = [(tile.top, tile.left) for tile in plan.tiles]
    assert corners == [(0, 0), (0, 24), (0, 48), (16, 0), (16, 24), (16, 48)]


@given(st.data())
def test_padding_is_torchs_reflection_where_that_is_defined(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(8, 40)), data.draw(st.integers(8, 40))
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    bottom, right = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    pictures = torch.rand(1, 3, height, width)
    plan = TilePlan(top + height + bottom, left + width + right, top, left, ())
    expected = functional.pad(pictures, (left, right, top, bottom), mode="reflect")
    assert torch.equal(reflect_pad(pictures, plan), expected)


@given(st.integers(8, 40), st.integers(8, 40), tilings())
def test_padding_reflects_as_often_as_needed(height: int, width: int, tiling: Tiling) -> None:
    plan = plan_tiles(height, width, tiling)
    picture = torch.rand(height, width)
    rows = (plan.top, plan.height - height - plan.top)
    columns = (plan.left, plan.width - width - plan.left)
    expected = np.pad(picture.numpy(), (rows, columns), mode="reflect")
    assert np.array_equal(reflect_pad(picture[None, None], plan)[0, 0].numpy(), expected)


@given(st.integers(4, 2048))
def test_weights_are_positive_and_largest_in_the_middle(side: int) -> None:
    window = gaussian_window(side)
    assert window.shape == (side,)
    assert window.min() > 0
    assert abs(int(window.argmax()) - side // 2) <= 1


def test_an_odd_window_is_symmetric_and_an_even_one_lacks_its_first_sample() -> None:
    odd = gaussian_window(9)
    assert torch.equal(odd, odd.flip(0))
    even = gaussian_window(8)
    assert torch.equal(even[:-1], even[:-1].flip(0))
    assert even[3] == even.max() == 1


@given(st.integers(8, 60), st.integers(8, 60))
def test_blending_constant_tiles_gives_the_constant(height: int, width: int) -> None:
    plan = plan_tiles(height, width, Tiling(32, 16, 8))
    blend = Blend((1, plan.height * 2, plan.width * 2), plan, 2, CPU)
    for tile in plan.tiles:
        blend.add(0, tile, torch.full((3, tile.height * 2, tile.width * 2), 0.7))
    torch.testing.assert_close(blend.result(), torch.full((1, 3, plan.height * 2, plan.width * 2), 0.7))


def test_blending_crops_of_a_picture_gives_the_picture() -> None:
    plan = plan_tiles(50, 70, Tiling(32, 16, 8))
    picture = torch.rand(3, plan.height, plan.width)
    blend = Blend((1, plan.height, plan.width), plan, 1, CPU)
    for t in plan.tiles:
        blend.add(0, t, picture[:, t.top : t.top + t.height, t.left : t.left + t.width])
    torch.testing.assert_close(blend.result()[0], picture)


def test_frames_do_not_mix() -> None:
    plan = plan_tiles(32, 48, Tiling(32, 16, 16))
    blend = Blend((2, plan.height, plan.width), plan, 1, CPU)
    for tile in plan.tiles:
        for frame in (0, 1):
            blend.add(frame, tile, torch.full((3, tile.height, tile.width), float(frame)))
    result = blend.result()
    torch.testing.assert_close(result[0], torch.zeros_like(result[0]))
    torch.testing.assert_close(result[1], torch.ones_like(result[1]))


def test_the_middle_of_a_tile_outweighs_the_rim_of_its_neighbour() -> None:
    plan = plan_tiles(32, 48, Tiling(32, 16, 16))
    blend = Blend((1, 32, 48), plan, 1, CPU)
    for value, tile in enumerate(plan.tiles):
        blend.add(0, tile, torch.full((3, 32, 32), float(value)))
    row = blend.result()[0, 0, 16]
    assert (row[:16] == 0).all()
    assert (row[32:] == 1).all()
    assert row[17] < 0.1
    assert row[30] > 0.9
    assert (row.diff() >= 0).all()


def test_a_single_tile_is_not_weighted() -> None:
    plan = plan_tiles(32, 32, Tiling(32, 16, 16))
    output = torch.rand(3, 64, 64)
    blend = Blend((1, 64, 64), plan, 2, CPU)
    blend.add(0, plan.tiles[0], output)
    assert torch.equal(blend.result()[0], output)


@given(SIDES, SIDES, tilings())
def test_tiles_that_need_not_be_full_are_no_more_in_number_and_no_larger(
    height: int, width: int, tiling: Tiling
) -> None:
    even = Tiling(tiling.tile, tiling.overlap, tiling.multiple, fill_tile=False)
    full = Tiling(tiling.tile, tiling.overlap, tiling.multiple, fill_tile=True)
    few, many = plan_tiles(height, width, even), plan_tiles(height, width, full)
    assert len(few.tiles) == len(many.tiles)
    assert few.tiles[0].height <= tiling.tile
    assert few.tiles[0].width <= tiling.tile


def test_an_unlucky_size_is_not_computed_twice() -> None:
    plan = plan_tiles(272, 640, Tiling(256, 32, 8, fill_tile=False))
    computed = sum(tile.height * tile.width for tile in plan.tiles)
    assert computed < 1.3 * 272 * 640


@given(SIDES, SIDES, tilings(), st.data())
def test_merged_tiles_are_the_chosen_ones_in_rectangles(
    height: int, width: int, tiling: Tiling, given_data: st.DataObject
) -> None:
    plan = plan_tiles(height, width, tiling)
    chosen = given_data.draw(st.sets(st.sampled_from(range(len(plan.tiles)))))
    most = given_data.draw(st.integers(1, 400))
    found = merged(plan, chosen, most)
    inside = [tile.index for _, tiles in found for tile in tiles]
    assert sorted(inside) == sorted(chosen)
    for whole, tiles in found:
        assert len(tiles) == 1 or max(whole.height, whole.width) <= most
        bottom, right = (
            max(t.top + t.height for t in tiles),
            max(t.left + t.width for t in tiles),
        )
        assert (whole.top, whole.left) == (min(t.top for t in tiles), min(t.left for t in tiles))
        assert (whole.top + whole.height, whole.left + whole.width) == (bottom, right)
        rows, columns = {t.top for t in tiles}, {t.left for t in tiles}
        assert len(tiles) == len(rows) * len(columns)


def test_all_tiles_merge_into_few() -> None:
    plan = plan_tiles(360, 640, fine(Tiling(256, 32, 8, fill_tile=False)))
    assert len(plan.tiles) > 300
    assert len(merged(plan, range(len(plan.tiles)), 256)) == 2 * 3


@given(SIDES, SIDES, tilings(), st.integers(0, 40))
def test_grown_tiles_stay_on_the_canvas(height: int, width: int, tiling: Tiling, margin: int) -> None:
    plan = plan_tiles(height, width, tiling)
    for tile in plan.tiles:
        large = grown(tile, plan, margin)
        assert 0 <= large.top <= tile.top
        assert 0 <= large.left <= tile.left
        assert tile.top + tile.height <= large.top + large.height <= plan.height
        assert tile.left + tile.width <= large.left + large.width <= plan.width
        assert large.height <= tile.height + 2 * margin


@given(tilings())
def test_fine_tiles_are_no_larger_and_bound_models_keep_theirs(tiling: Tiling) -> None:
    found = fine(tiling)
    assert found.tile <= tiling.tile
    assert found.multiple == tiling.multiple
    if tiling.fill_tile:
        assert found is tiling


def test_what_is_not_added_stays_the_ground_exactly() -> None:
    plan = plan_tiles(64, 96, Tiling(32, 8, 8))
    generator = torch.Generator().manual_seed(0)
    ground, other = torch.rand(2, 3, 128, 192, generator=generator)
    blend = Blend((1, 128, 192), plan, 2, CPU, ground[None])
    blend.add(0, plan.tiles[0], cut(other, plan.tiles[0], 2))
    (found,) = blend.result()
    assert torch.equal(found[:, 64:], ground[:, 64:])
    assert torch.equal(found[..., 64:], ground[..., 64:])
    alone = cut(found, plan.tiles[0], 2)[..., :48, :48]  # no other tile reaches there
    assert torch.allclose(alone, other[..., :48, :48], atol=1e-6)


def test_with_every_tile_added_the_ground_is_gone() -> None:
    plan = plan_tiles(64, 96, Tiling(32, 8, 8))
    ground, other = torch.rand(2, 3, 128, 192, generator=torch.Generator().manual_seed(0))
    blend = Blend((1, 128, 192), plan, 2, CPU, ground[None])
    for tile in plan.tiles:
        blend.add(0, tile, cut(other, tile, 2))
    assert torch.allclose(blend.result()[0], other, atol=1e-5)


FINE = Tiling(16, 8, 8, fill_tile=False)


def cost(tiles: Iterable[Tile]) -> int:
    return sum(tile.height * tile.width + CALL for tile in tiles)


@given(SIDES, SIDES, st.sampled_from([8, 16]), st.data())
def test_covering_rectangles_hold_every_chosen_tile_once(
    height: int, width: int, margin: int, given_data: st.DataObject
) -> None:
    plan = plan_tiles(height, width, FINE)
    chosen = given_data.draw(st.sets(st.sampled_from(range(len(plan.tiles))), max_size=40))
    found = covering(plan, chosen, margin, 128)
    inside = [tile for _, blocks in found for _, tiles in blocks for tile in tiles]
    assert sorted(tile.index for tile in inside) == sorted(chosen)
    for whole, blocks in found:
        assert max(whole.height, whole.width) <= 128
        for block, _ in blocks:
            near = grown(block, plan, margin)
            assert whole.top <= near.top
            assert whole.left <= near.left
            assert near.top + near.height <= whole.top + whole.height
            assert near.left + near.width <= whole.left + whole.width


@given(SIDES, SIDES, st.data())
def test_covering_costs_no_more_than_tile_by_tile(height: int, width: int, given_data: st.DataObject) -> None:
    plan = plan_tiles(height, width, FINE)
    chosen = given_data.draw(st.sets(st.sampled_from(range(len(plan.tiles))), max_size=40))
    found = covering(plan, chosen, 8, 128)
    assert cost(whole for whole, _ in found) <= cost(grown(plan.tiles[index], plan, 8) for index in chosen)


def test_changes_all_over_a_frame_are_a_few_rectangles() -> None:
    """Every seventh of 3,476 tiles: restoring each by itself would be five times as much as the frame."""
    plan = plan_tiles(360, 640, FINE)
    found = covering(plan, range(0, len(plan.tiles), 7), 8, 256)
    assert len(found) == 6
    assert sum(whole.height * whole.width for whole, _ in found) < 1.25 * 360 * 640


def test_changes_far_apart_are_rectangles_of_their_own() -> None:
    plan = plan_tiles(360, 640, FINE)
    columns = sum(tile.top == 0 for tile in plan.tiles)
    corners = (0, columns - 1, len(plan.tiles) - columns, len(plan.tiles) - 1)
    found = covering(plan, corners, 8, 256)
    assert sorted(whole.height * whole.width for whole, _ in found) == [24 * 24] * 4


def test_tiles_as_large_as_what_is_allowed_stay_by_themselves() -> None:
    plan = plan_tiles(40, 64, FINE)
    found = covering(plan, range(len(plan.tiles)), 8, 16)
    assert len(found) == len(plan.tiles)


def test_what_changes_in_one_place_is_one_rectangle() -> None:
    """An ellipse of tiles: rows of different length, and a rectangle around them all."""
    plan = plan_tiles(180, 320, fine(Tiling(256, 32, 8, fill_tile=False)))
    inside = {
        tile.index for tile in plan.tiles if ((tile.left - 152) / 40) ** 2 + ((tile.top - 80) / 36) ** 2 <= 1
    }
    ((whole, found),) = covering(plan, inside, 8, 256)
    assert len(found) > 3
    assert whole.height * whole.width < 180 * 320 / 4
