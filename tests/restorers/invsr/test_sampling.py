"""Timesteps, sigmas and the denoising loop."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from diffusers import EulerDiscreteScheduler
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from invsr_daemon.restorers.invsr.sampling import denoise, scheduler_at, training_sigmas
from invsr_daemon.timesteps import check_timesteps, default_timesteps

CPU = torch.device("cpu")


def sd_scheduler(prediction_type: str = "epsilon") -> EulerDiscreteScheduler:
    return EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction_type,
        timestep_spacing="trailing",
        steps_offset=1,
    )


@pytest.mark.parametrize(
    ("steps", "timesteps"),
    [
        (1, (200,)),
        (2, (200, 100)),
        (3, (200, 100, 50)),
        (4, (200, 150, 100, 50)),
        (5, (250, 200, 150, 100, 50)),
        (10, (250, 225, 200, 175, 150, 125, 100, 75, 50, 25)),
    ],
)
def test_default_timesteps(steps: int, timesteps: tuple[int, ...]) -> None:
    assert default_timesteps(steps) == timesteps


@given(st.integers(6, 250))
def test_more_steps_descend_evenly_from_250(steps: int) -> None:
    timesteps = default_timesteps(steps)
    assert len(timesteps) == steps
    assert timesteps[0] == 250
    assert check_timesteps(timesteps) == timesteps
    gaps = [a - b for a, b in zip(timesteps, (*timesteps[1:], 0), strict=True)]
    assert max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize("steps", [0, -1, 251])
def test_impossible_numbers_of_steps_are_refused(steps: int) -> None:
    with pytest.raises(ValueError, match=f"not {steps}"):
        default_timesteps(steps)


@pytest.mark.parametrize("timesteps", [(), (0,), (1001,), (100, 200), (100, 100), (200, 100, 0), (200, -5)])
def test_lists_that_do_not_descend_within_the_training_are_refused(timesteps: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"must descend strictly within 1000\.\.1"):
        check_timesteps(timesteps)


@pytest.mark.parametrize("timesteps", [(1,), (1000,), [250, 3, 2, 1]])
def test_any_descending_list_is_allowed(timesteps: Sequence[int]) -> None:
    assert check_timesteps(timesteps) == tuple(timesteps)


def test_training_sigmas_follow_from_the_betas() -> None:
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    cumulative = (1 - betas).cumprod(0)
    expected = ((1 - cumulative) / cumulative).sqrt()
    torch.testing.assert_close(training_sigmas(sd_scheduler()).double(), expected, rtol=1e-4, atol=0)


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=8, unique=True))
def test_published_timesteps_count_from_one(timesteps: list[int]) -> None:
    timesteps.sort(reverse=True)
    scheduler = scheduler_at(sd_scheduler(), timesteps, CPU)
    assert scheduler.timesteps.tolist() == [t - 1 for t in timesteps]
    expected = [training_sigmas(sd_scheduler())[t - 1].item() for t in timesteps]
    assert scheduler.sigmas.tolist() == pytest.approx([*expected, 0.0], rel=1e-5)


def test_the_schedule_ends_at_zero() -> None:
    assert scheduler_at(sd_scheduler(), (200, 100), CPU).sigmas[-1] == 0


def test_the_given_scheduler_is_left_alone() -> None:
    scheduler = sd_scheduler()
    before = scheduler.timesteps.clone(), scheduler.sigmas.clone(), scheduler.step_index
    own = scheduler_at(scheduler, (200, 100), CPU)
    denoise(own, lambda latents, _: latents, torch.zeros(1, 4, 2, 2), torch.ones(1, 4, 2, 2))
    assert torch.equal(scheduler.timesteps, before[0])
    assert torch.equal(scheduler.sigmas, before[1])
    assert scheduler.step_index == before[2]


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("timesteps", [(200,), (250, 200, 150, 100, 50), (999, 3, 1)])
def test_an_oracle_leads_back_to_the_latents(prediction: str, timesteps: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(3, 4, 8, 8, generator=generator)
    noise = torch.randn(3, 4, 8, 8, generator=generator)
    sigmas = training_sigmas(sd_scheduler())

    def oracle(_: Tensor, timestep: Tensor) -> Tensor:
        if prediction == "epsilon":
            return noise
        sigma = sigmas[int(timestep)].item()
        return (noise - sigma * latents) / math.sqrt(sigma**2 + 1)

    scheduler = scheduler_at(sd_scheduler(prediction), timesteps, CPU)
    torch.testing.assert_close(denoise(scheduler, oracle, latents, noise), latents, rtol=0, atol=1e-4)


def test_the_network_sees_unit_variance_and_every_timestep_once() -> None:
    seen: list[tuple[int, float]] = []
    latents, noise = torch.zeros(1, 4, 64, 64), torch.randn(1, 4, 64, 64)

    def predict(scaled: Tensor, timestep: Tensor) -> Tensor:
        seen.append((int(timestep), scaled.std().item()))
        return torch.zeros_like(scaled)

    denoise(scheduler_at(sd_scheduler(), (250, 100, 50), CPU), predict, latents, noise)
    assert [timestep for timestep, _ in seen] == [249, 99, 49]
    sigma = training_sigmas(sd_scheduler())[249].item()
    assert seen[0][1] == pytest.approx(sigma / (sigma**2 + 1) ** 0.5, rel=0.02)
