"""Traces: where a frame's content lay at an anchor, step by step along the motion."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from invsr_daemon.restorers.film.traces import Trace, sampled
from invsr_daemon.restorers.tiling import Tiling, plan_tiles

HEIGHT, WIDTH = 24, 32
STEPS = st.lists(st.tuples(st.integers(-2, 2), st.integers(-2, 2)), min_size=1, max_size=5)


def uniform(x: float, y: float) -> torch.Tensor:
    return torch.tensor([x, y]).view(2, 1, 1).expand(2, HEIGHT, WIDTH).float()


def everywhere() -> torch.Tensor:
    return torch.ones(HEIGHT, WIDTH, dtype=torch.bool)


@given(STEPS)
def test_steps_add_up_as_long_as_they_stay_in_the_picture(steps: list[tuple[int, int]]) -> None:
    trace = Trace.at_anchor(HEIGHT, WIDTH)
    for x, y in steps:
        trace = trace.followed(uniform(x, y), everywhere())
    x, y = (sum(each) for each in zip(*steps, strict=True))
    seen = trace.displacement[:, trace.seen]
    assert torch.allclose(seen, torch.tensor([[x], [y]]).float().expand_as(seen), atol=1e-3)
    middle = trace.seen[12, 16]
    assert middle  # no walk of five steps of two leaves from there
    rows, columns = torch.where(trace.seen)
    assert ((rows + y >= 0) & (rows + y < HEIGHT)).all()
    assert ((columns + x >= 0) & (columns + x < WIDTH)).all()


def test_what_was_not_trusted_once_is_not_seen_again() -> None:
    trusted = everywhere()
    trusted[10:14, 10:14] = False
    trace = Trace.at_anchor(HEIGHT, WIDTH).followed(uniform(0, 0), trusted)
    later = trace.followed(uniform(2, 0), everywhere())
    assert torch.equal(later.seen[:, :-2], trusted[:, 2:])
    assert not later.seen[:, -2:].any()  # came in from outside


def test_standing_still_is_exactly_zero() -> None:
    trace = Trace.at_anchor(HEIGHT, WIDTH)
    for _ in range(5):
        trace = trace.followed(uniform(0, 0), everywhere())
    assert not trace.displacement.any()
    assert trace.seen.all()


@pytest.mark.parametrize(("rows", "columns", "scale"), [(16, 16, 0.5), (128, 128, 4.0)])
def test_on_another_grid_of_the_padded_canvas(rows: int, columns: int, scale: float) -> None:
    plan = plan_tiles(HEIGHT, WIDTH, Tiling(32, 16, 16))  # padded to 32x32, the picture in its middle
    assert (plan.height, plan.width, plan.top) == (32, 32, 4)
    trace = Trace(uniform(3, -2), everywhere())
    displacement, seen = trace.on(plan, rows, columns)
    assert displacement.shape == (2, rows, columns)
    inside = displacement[:, rows // 2 - 2 : rows // 2 + 2, columns // 2]
    assert torch.allclose(inside, torch.tensor([3.0, -2.0]).view(2, 1) * scale)
    assert not displacement[:, 0].any()
    assert seen.all()


def test_sampling_some_rows_is_sampling_all_of_them() -> None:
    generator = torch.Generator().manual_seed(0)
    picture = torch.rand(1, 3, HEIGHT, WIDTH, generator=generator)
    flow = torch.randn(2, HEIGHT, WIDTH, generator=generator)
    whole = sampled(picture, flow, "bicubic")
    assert torch.allclose(sampled(picture, flow[:, 7:15], "bicubic", top=7), whole[:, :, 7:15], atol=1e-6)
    assert torch.allclose(sampled(picture, torch.zeros_like(flow), "bilinear"), picture, atol=1e-6)
