"""Detail: how much a start timestep takes, and where it goes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from invsr_daemon import InvSR
from invsr_daemon.restorers.detail import Detail, add_detail
from invsr_daemon.restorers.noise import CanvasNoise, ZeroNoise


def normal(seed: int = 0) -> torch.Tensor:
    return torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(seed))


@given(st.integers(1, 1000), st.integers(1, 1000))
def test_a_higher_start_takes_no_less(a: int, b: int) -> None:
    low, high = (Detail(1.0, 0.2).at(start) for start in sorted((a, b)))
    assert low.sharpen <= high.sharpen <= 1.0
    assert low.grain <= high.grain <= 0.2


@pytest.mark.parametrize(("start", "share"), [(50, 0.0), (100, 0.0), (150, 0.5), (200, 1.0), (250, 1.0)])
def test_starts_and_their_shares(start: int, share: float) -> None:
    found = Detail(sharpen=2.0, grain=0.4, returned=1.5).at(start)
    assert (found.sharpen, found.grain, found.returned) == pytest.approx(
        (2.0 * share, 0.4 * share, 1.5 * share)
    )
    assert bool(found) == bool(share)


def test_what_is_flat_stays_flat() -> None:
    flat = torch.full((1, 3, 64, 64), 0.4)
    assert (add_detail(flat.clone(), normal(), Detail(1.0, 0.5)) - flat).abs().max() < 1e-3


def test_grain_is_proportional_to_what_goes_on_around_and_grey() -> None:
    picture = 0.5 + 0.02 * torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    picture[..., 32:] = 0.5 + (picture[..., 32:] - 0.5) / 10
    grain = add_detail(picture.clone(), normal(), Detail(0.0, 0.3)) - picture
    assert torch.allclose(grain[:, 0], grain[:, 2], atol=1e-6)
    busy, calm = grain[..., 8:24].std().item(), grain[..., 40:56].std().item()
    assert busy == pytest.approx(0.3 * 0.02 / 3**0.5, rel=0.2)  # the luma of three channels' noise
    assert calm == pytest.approx(busy / 10, rel=0.3)


def test_a_hard_edge_takes_less_grain_than_texture() -> None:
    texture = 0.5 + 0.05 * torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    edge = torch.full((1, 1, 64, 64), 0.1)
    edge[..., 32:] = 0.9
    on_texture, on_edge = (
        add_detail(each.repeat(1, 3, 1, 1), normal(), Detail(0.0, 0.3)) - each for each in (texture, edge)
    )
    assert on_edge[..., 30:34].std() < 0.5 * on_texture.std()
    removed = 0.02 * normal(2)
    returned = add_detail(edge.repeat(1, 3, 1, 1), normal(), Detail(0.0, 0.0, returned=1.0), removed) - edge
    assert returned[..., 30:34].std() < 0.1 * returned[..., :24].std()


def test_what_was_averaged_away_comes_back_as_grain() -> None:
    flat = torch.full((1, 3, 64, 64), 0.4)
    removed = torch.zeros(1, 1, 64, 64)
    removed[..., 32:] = 0.02 * normal(1)[..., 32:]
    grain = add_detail(flat.clone(), normal(), Detail(0.0, 0.3, returned=1.5), removed) - flat
    assert grain[..., 40:].std().item() == pytest.approx(0.03, rel=0.1)
    assert grain[..., :24].abs().max() < 1e-3
    none = add_detail(flat.clone(), normal(), Detail(0.0, 0.3, returned=0.0), removed) - flat
    assert none.abs().max() < 1e-3


def test_sharpening_lifts_edges() -> None:
    edge = torch.full((1, 3, 64, 64), 0.3)
    edge[..., 32:] = 0.6
    sharper = add_detail(edge.clone(), torch.zeros(1, 1, 64, 64), Detail(1.0, 0.0))
    assert sharper[..., 31].mean() < 0.3
    assert sharper[..., 32].mean() > 0.6
    assert torch.allclose(sharper[..., :24], edge[..., :24], atol=1e-6)


@pytest.fixture
def detailed(tiny_model_dir: Path, tmp_path: Path) -> InvSR:
    folder = shutil.copytree(tiny_model_dir, tmp_path / "model")
    tiling = {"tile": 32, "overlap": 16, "multiple": 16, "fill_tile": True}
    (folder / "invsr.json").write_text(json.dumps({**tiling, "detail": {"sharpen": 0.0, "grain": 0.3}}))
    return InvSR.load(folder)


def test_a_model_s_detail_is_drawn_from_the_canvas(detailed: InvSR) -> None:
    frames = torch.rand(1, 3, 48, 48, generator=torch.Generator().manual_seed(0)).repeat(2, 1, 1, 1)
    first, second = detailed.restore(frames, noise=CanvasNoise(3))
    assert torch.equal(first, second), "the same place of every frame gets the same grain"
    assert not torch.equal(first, detailed.restore(frames[:1], noise=CanvasNoise(4))[0])


def test_a_low_start_adds_nothing(detailed: InvSR, tiny_model: InvSR) -> None:
    frames = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for start, same in ((100, True), (200, False)):
        plain = tiny_model.restore(frames, timesteps=(start,), noise=CanvasNoise(0), tile=32)
        with_detail = detailed.restore(frames, timesteps=(start,), noise=CanvasNoise(0))
        assert torch.equal(plain, with_detail) == same
    drawn = detailed.restore(frames, noise=ZeroNoise())
    assert torch.equal(drawn, tiny_model.restore(frames, noise=ZeroNoise(), tile=32))
