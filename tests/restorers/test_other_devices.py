"""What is computed on a GPU: no tensor that stays in main memory is mixed with what lies on the device.

There need not be one: see `tests.support.pretending`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
from torch import Tensor

from invsr_daemon import InvSR
from invsr_daemon.restorers.color_fix import ColorFix
from invsr_daemon.restorers.detail import Detail
from invsr_daemon.restorers.film.averaging import FilmFrame
from invsr_daemon.restorers.film.restorer import FilmRestorer
from invsr_daemon.restorers.invsr.loading import Parts, Prompt
from invsr_daemon.restorers.invsr.model import InvSRNetworks
from invsr_daemon.restorers.invsr.noise_predictor import NoisePredictor
from invsr_daemon.restorers.options import Options
from invsr_daemon.restorers.precision import cast
from invsr_daemon.restorers.tiling import Tiling
from tests.support.pretending import DEVICE, Pretence, Pretending, sent_away
from tests.support.shots import crop, pan, photograph, still_shot, with_cut, with_object

pytestmark = pytest.mark.slow  # starts processes, or computes for long


@pytest.fixture(scope="module")
def away() -> InvSR:
    """The embedded model on DEVICE."""
    near = InvSR.load("default")
    parts = near.restorer.parts
    for network in near.restorer.networks.values():
        sent_away(network)
    return InvSR(InvSRNetworks(parts, DEVICE, torch.float32))


FILMS: dict[str, Callable[[], Sequence[FilmFrame]]] = {
    "pan": lambda: pan(8),
    "object": lambda: with_object(still_shot(8)),
    "noise": lambda: still_shot(8, noise=2),
    "cut": lambda: with_cut(pan(8), 4),
}


@pytest.mark.parametrize("film", FILMS)
def test_films_stay_on_their_device(away: InvSR, film: str) -> None:
    frames = FILMS[film]()
    options = Options(tile_batch=2, color_fix="wavelet", size=(100, 130))

    def restored(model: InvSR) -> list[Tensor]:
        restorer = FilmRestorer(model, options, seed=3, interval=6, frame_batch=2)
        return list(restorer.restore(frames, range(len(frames))))

    expected = restored(InvSR.load("default"))
    with Pretence():
        found = restored(away)
    for one, other in zip(expected, found, strict=True):
        assert isinstance(other, Pretending)
        assert torch.equal(one, other.held)


@pytest.mark.parametrize("film", FILMS)
def test_films_are_put_together_in_main_memory_if_asked(away: InvSR, film: str) -> None:
    frames = FILMS[film]()
    options = Options(tile_batch=2, color_fix="wavelet", size=(100, 130))

    def restored(model: InvSR, options: Options) -> list[Tensor]:
        restorer = FilmRestorer(model, options, seed=3, interval=6)
        return list(restorer.restore(frames, range(len(frames))))

    expected = restored(InvSR.load("default"), options)
    with Pretence():
        found = restored(away, replace(options, canvas_device=torch.device("cpu")))
    for one, other in zip(expected, found, strict=True):
        assert not isinstance(other, Pretending)
        assert torch.equal(one, other)


@pytest.mark.parametrize("fix", ["none", "wavelet", "ycbcr"])
def test_pictures_stay_on_their_device(away: InvSR, fix: ColorFix) -> None:
    picture = crop(photograph(), 60).float()[None] / 255
    expected = InvSR.load("default").restore(picture, tile=32, color_fix=fix)
    with Pretence():
        found = away.restore(picture, tile=32, color_fix=fix)
    assert isinstance(found, Pretending)
    assert torch.equal(expected, found.held)


def full_size(dtype: torch.dtype) -> Parts:
    """Networks of the full size's classes, narrow, with random weights that are always the same."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        attention_head_dim=(2, 4),
        cross_attention_dim=16,
        use_linear_projection=True,
        norm_num_groups=4,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=4,
    )
    predictor = NoisePredictor(
        block_out_channels=(8, 8),
        layers_per_block=(1, 1),
        norm_num_groups=4,
        temb_channels=8,
        attention_head_dim=4,
    )
    for network in (vae, unet, predictor):
        cast(network, dtype)
        network.eval().requires_grad_(False)
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="trailing"
    )
    positive, negative = torch.randn(2, 1, 7, 16).to(dtype)
    tiling = Tiling(tile=32, overlap=16, multiple=16)
    return Parts(vae, unet, predictor, scheduler, Prompt(positive, negative), tiling, Detail())


def full_size_away(dtype: torch.dtype) -> InvSR:
    parts = full_size(dtype)
    for network in (parts.vae, parts.unet, parts.noise_predictor):
        sent_away(network)
    assert parts.prompt is not None
    prompt = Prompt(Pretending(parts.prompt.positive), Pretending(parts.prompt.negative))
    return InvSR(InvSRNetworks(replace(parts, prompt=prompt), DEVICE, dtype))


GUIDED = Options(timesteps=(200, 100), tile_batch=2, color_fix="ycbcr", guidance_scale=2.0, size=(100, 130))


def test_full_size_pictures_stay_on_their_device() -> None:
    picture = crop(photograph(), 60).float()[None] / 255
    near = InvSR(InvSRNetworks(full_size(torch.bfloat16), torch.device("cpu"), torch.bfloat16))

    def restored(model: InvSR) -> Tensor:
        return model.restore(picture, timesteps=(200, 100), color_fix="ycbcr", guidance_scale=2.0)

    expected = restored(near)
    with Pretence():
        found = restored(full_size_away(torch.bfloat16))
    assert isinstance(found, Pretending)
    assert torch.equal(expected, found.held)


def test_full_size_films_stay_on_their_device() -> None:
    frames = pan(4)

    def restored(model: InvSR) -> list[Tensor]:
        restorer = FilmRestorer(model, GUIDED, seed=3, interval=3, frame_batch=2)
        return list(restorer.restore(frames, range(len(frames))))

    expected = restored(InvSR(InvSRNetworks(full_size(torch.float32), torch.device("cpu"), torch.float32)))
    with Pretence():
        found = restored(full_size_away(torch.float32))
    for one, other in zip(expected, found, strict=True):
        assert isinstance(other, Pretending)
        assert torch.equal(one, other.held)
