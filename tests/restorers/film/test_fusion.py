"""Fusion of a frame with its neighbours."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from invsr_daemon.restorers.film import fusion
from invsr_daemon.restorers.film.fusion import ALIKE, SHARE, UNLIKE, Box, Neighbour, agreement, fuse

HEIGHT, WIDTH, SCALE = 20, 24, 4
WHOLE = Box(0, 0, HEIGHT, WIDTH)


def smooth(seed: int, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    """A picture without detail that warping would lose, [3,h,w]."""
    rough = torch.rand(1, 3, 6, 7, generator=torch.Generator().manual_seed(seed))
    return functional.interpolate(rough, (height, width), mode="bicubic", align_corners=True)[0].clamp(0, 1)


def still() -> Tensor:
    return torch.zeros(2, HEIGHT, WIDTH)


def test_neighbours_that_show_the_same_change_nothing() -> None:
    own = smooth(0, HEIGHT * SCALE, WIDTH * SCALE)
    same = Neighbour(own, still(), torch.ones(HEIGHT, WIDTH))
    assert torch.allclose(fuse(own, [same, same], WHOLE, SCALE), own, atol=1e-6)


def test_a_frame_s_own_weighs_most() -> None:
    pictures = [smooth(seed, HEIGHT * SCALE, WIDTH * SCALE) for seed in range(3)]
    others = [Neighbour(each, still(), torch.ones(HEIGHT, WIDTH)) for each in pictures[1:]]
    expected = (pictures[0] + SHARE * (pictures[1] + pictures[2])) / (1 + 2 * SHARE)
    assert torch.allclose(fuse(pictures[0], others, WHOLE, SCALE), expected, atol=1e-5)


def test_without_weight_a_neighbour_has_no_say() -> None:
    own, other = (smooth(seed, HEIGHT * SCALE, WIDTH * SCALE) for seed in (0, 1))
    unlike = Neighbour(other, still(), torch.zeros(HEIGHT, WIDTH))
    assert torch.allclose(fuse(own, [unlike], WHOLE, SCALE), own, atol=1e-6)


def test_a_neighbour_is_taken_from_where_the_motion_leads() -> None:
    """The neighbour shows the content three LR pixels further right."""
    wide = smooth(3, HEIGHT * SCALE, (WIDTH + 3) * SCALE)
    own, other = wide[..., 3 * SCALE :], wide[..., : WIDTH * SCALE]
    flow = still()
    flow[0] = 3
    fused = fuse(own, [Neighbour(other, flow, torch.ones(HEIGHT, WIDTH))], WHOLE, SCALE)
    assert torch.allclose(fused[..., : -4 * SCALE], own[..., : -4 * SCALE], atol=1e-4)


def test_outside_the_box_nothing_is_touched_and_rows_at_a_time_make_no_difference(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own, other = (smooth(seed, HEIGHT * SCALE, WIDTH * SCALE) for seed in (0, 1))
    generator = torch.Generator().manual_seed(2)
    flow = torch.randn(2, HEIGHT, WIDTH, generator=generator)
    weight = torch.rand(HEIGHT, WIDTH, generator=generator)
    box = Box(3, 5, 18, 20)
    fused = fuse(own, [Neighbour(other, flow, weight)], box, SCALE)
    inside = torch.zeros(HEIGHT * SCALE, WIDTH * SCALE, dtype=torch.bool)
    inside[3 * SCALE : 18 * SCALE, 5 * SCALE : 20 * SCALE] = True
    assert torch.equal(fused[:, ~inside], own[:, ~inside])
    assert (fused[:, inside] != own[:, inside]).float().mean() > 0.9
    monkeypatch.setattr(fusion, "ROWS", 8)
    assert torch.allclose(fuse(own, [Neighbour(other, flow, weight)], box, SCALE), fused, atol=1e-5)


def test_agreement() -> None:
    own = smooth(0)
    trusted = torch.ones(HEIGHT, WIDTH, dtype=torch.bool)
    assert torch.allclose(agreement(own, own, still(), trusted), torch.ones(HEIGHT, WIDTH), atol=1e-4)
    assert not agreement(own, 1 - own.round(), still(), trusted)[own.round().eq(own[:1].round()).all(0)].any()
    trusted[4:8] = False
    found = agreement(own, own, still(), trusted)
    assert not found[4:8].any()
    assert found[10:].min() > 0.99
    apart = agreement(own.mul(0.5), own.mul(0.5) + (ALIKE + UNLIKE) / 2, still(), ~torch.zeros_like(trusted))
    assert torch.allclose(apart, torch.full_like(apart, 0.5), atol=0.01)  # half way from alike to unlike
