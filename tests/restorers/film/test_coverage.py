"""Masks and tiles: each in terms of the other."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from invsr_daemon.restorers.film.coverage import box_around, pixels_covered, tiles_touched
from invsr_daemon.restorers.tiling import TilePlan, Tiling, plan_tiles

SIZE = 44, 60
PLAN = plan_tiles(*SIZE, Tiling(16, 8, 8, fill_tile=False))
SOME_TILES = st.sets(st.sampled_from(range(len(PLAN.tiles))), min_size=1)


def covered(chosen: set[int], plan: TilePlan = PLAN) -> Tensor:
    wanted = torch.zeros(plan.height, plan.width, dtype=torch.bool)
    for tile in (plan.tiles[index] for index in chosen):
        wanted[tile.top : tile.top + tile.height, tile.left : tile.left + tile.width] = True
    return wanted[: SIZE[0], : SIZE[1]]


@given(SOME_TILES)
def test_what_tiles_cover(chosen: set[int]) -> None:
    assert torch.equal(pixels_covered(chosen, PLAN, SIZE), covered(chosen))


@given(SOME_TILES)
def test_a_box_holds_all_of_it_and_no_more(chosen: set[int]) -> None:
    mask = covered(chosen)
    box = box_around(mask)
    inside = mask[box.top : box.bottom, box.left : box.right]
    assert inside.sum() == mask.sum()
    edges = (inside[0], inside[-1], inside[:, 0], inside[:, -1])
    assert all(edge.any() for edge in edges)


@given(
    st.sets(st.tuples(st.integers(0, SIZE[0] - 1), st.integers(0, SIZE[1] - 1)), max_size=5),
    st.sampled_from((0, 1, 8)),
)
def test_which_tiles_a_mask_touches(places: set[tuple[int, int]], margin: int) -> None:
    """Each pixel by itself; the padding below and to the right reflects the picture."""
    mask = torch.zeros(SIZE, dtype=torch.bool)
    for y, x in places:
        mask[y, x] = True
    mirrored = {
        (y, x)
        for row, column in places
        for y in (row, 2 * (SIZE[0] - 1) - row)
        for x in (column, 2 * (SIZE[1] - 1) - column)
    }
    wanted = {
        tile.index
        for tile in PLAN.tiles
        for y, x in mirrored
        if -margin <= y - tile.top < tile.height + margin
        and -margin <= x - tile.left < tile.width + margin
        and y < PLAN.height
        and x < PLAN.width
    }
    assert tiles_touched(mask, PLAN, margin) == wanted
