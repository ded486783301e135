"""The guard: nothing is added where the input has nothing, and everything where much goes on."""

import torch
from torch.nn import functional

from invsr_daemon.restorers.guard import Guard, guarded


def enlarged(poor: torch.Tensor) -> torch.Tensor:
    return functional.interpolate(poor, scale_factor=4, mode="bicubic")


def of_noise(channels: int) -> torch.Tensor:
    return torch.rand(1, channels, 16, 16, generator=torch.Generator().manual_seed(0)).expand(1, 3, -1, -1)


def test_grey_in_grey_out_whatever_the_network_says() -> None:
    poor = of_noise(1)
    result = guarded(torch.rand(1, 3, 64, 64), enlarged(poor), poor, Guard())
    assert (result - result[:, :1]).abs().max() < 1e-6


def test_luma_over_grey_is_the_network_s() -> None:
    poor, theirs = of_noise(1), torch.rand(1, 1, 64, 64).expand(1, 3, -1, -1)
    free = Guard(peak=0.0)
    assert torch.allclose(guarded(theirs, enlarged(poor), poor, free), theirs, atol=1e-5)


def test_flat_in_flat_out() -> None:
    poor = torch.tensor([0.2, 0.5, 0.7])[None, :, None, None].expand(1, 3, 16, 16)
    result = guarded(torch.rand(1, 3, 64, 64), enlarged(poor), poor, Guard())
    assert torch.allclose(result, enlarged(poor), atol=1e-6)


def test_where_colour_and_structure_are_strong_the_network_decides() -> None:
    poor, theirs = of_noise(3), torch.rand(1, 3, 64, 64)
    free = Guard(peak=0.0)
    assert torch.allclose(guarded(theirs, enlarged(poor), poor, free), theirs, atol=1e-5)


def test_gradients_pass() -> None:
    poor = of_noise(3)
    theirs = torch.rand(1, 3, 64, 64, requires_grad=True)
    guarded(theirs, enlarged(poor), poor, Guard()).sum().backward()
    assert theirs.grad is not None
    assert theirs.grad.abs().sum() > 0


def test_beside_an_edge_plateaus_are_not_passed() -> None:
    poor = torch.full((1, 3, 16, 16), 0.9)
    poor[..., 8:] = 0.1
    wild = enlarged(poor) + 0.2 * torch.randn(1, 3, 64, 64)
    result = guarded(wild, enlarged(poor), poor, Guard())
    assert result.max() <= 0.9 + 2.5 / 255
    assert result.min() >= 0.1 - 2.5 / 255


def test_a_peak_may_become_higher_than_the_input_shows_it() -> None:
    poor = torch.full((1, 3, 16, 16), 0.2)
    poor[..., 8] = 0.5
    wild = enlarged(poor)
    wild[..., 33:35] = 1.0
    assert guarded(wild, enlarged(poor), poor, Guard())[..., 33:35].min() > 0.95
