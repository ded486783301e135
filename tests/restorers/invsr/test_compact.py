"""The embedded model's kind of networks: shapes, size, and InvSR running with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import EulerDiscreteScheduler

from invsr_daemon import InvSR
from invsr_daemon.restorers.invsr.compact import CompactAutoencoder, CompactNoisePredictor, CompactUNet
from invsr_daemon.restorers.noise import CanvasNoise
from invsr_daemon.train.denoiser import SD_SCHEDULER

LARGEST_MODEL_BYTES = 12_000_000


@pytest.fixture(scope="module")
def compact_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compact model as training saves it, its weights random (nothing left at zero)."""
    folder = tmp_path_factory.mktemp("compact")
    generator = torch.Generator().manual_seed(0)
    networks = {
        "vae": CompactAutoencoder(),
        "unet": CompactUNet(),
        "noise_predictor": CompactNoisePredictor(),
    }
    for name, network in networks.items():
        for parameter in network.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.02, generator=generator)
        network.save_pretrained(folder / name)
    EulerDiscreteScheduler(**SD_SCHEDULER).save_pretrained(folder / "scheduler")
    tiling = {"tile": 256, "overlap": 32, "multiple": 8, "fill_tile": False}
    (folder / "invsr.json").write_text(json.dumps(tiling))
    return folder


@pytest.fixture(scope="module")
def compact(compact_dir: Path) -> InvSR:
    return InvSR.load(compact_dir)


@torch.inference_mode()
def test_the_autoencoder_works_at_an_eighth() -> None:
    vae = CompactAutoencoder(latent_channels=5, width=16, width_quarter=8)
    latents = vae.encode(torch.rand(2, 3, 40, 64)).latent_dist
    assert latents.mean.shape == latents.std.shape == (2, 5, 5, 8)
    torch.testing.assert_close(latents.std, torch.full_like(latents.std, vae.config.posterior_std))
    assert vae.decode(latents.mean).sample.shape == (2, 3, 40, 64)


@torch.inference_mode()
def test_the_unet_keeps_the_shape_and_takes_one_timestep_or_many() -> None:
    unet = CompactUNet(in_channels=5, width=16, depth=2)
    torch.nn.init.normal_(unet.blocks[0].conv2.weight)
    torch.nn.init.normal_(unet.blocks[0].time.weight)
    latents = torch.rand(2, 5, 6, 9)
    one = unet(latents, torch.tensor(199)).sample
    assert one.shape == latents.shape
    torch.testing.assert_close(unet(latents, torch.tensor([199, 199])).sample, one)
    assert not torch.allclose(unet(latents, torch.tensor([199, 99])).sample[1], one[1])


@torch.inference_mode()
def test_the_noise_predictor_works_at_half_and_begins_as_standard_normal() -> None:
    noise = CompactNoisePredictor(latent_channels=5, width=16, depth=1)(
        torch.rand(2, 3, 10, 16), torch.tensor(199)
    )
    assert torch.equal(noise.mean, torch.zeros(2, 5, 5, 8))
    assert torch.equal(noise.std, torch.ones(2, 5, 5, 8))


def test_all_parts_together_are_small_in_half_precision() -> None:
    networks = (CompactAutoencoder(), CompactUNet(), CompactNoisePredictor())
    assert sum(2 * p.numel() for network in networks for p in network.parameters()) <= LARGEST_MODEL_BYTES


@pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 33), (37, 50), (64, 64)])
def test_any_size_becomes_four_times_as_large(compact: InvSR, height: int, width: int) -> None:
    generator = torch.Generator().manual_seed(1)
    restored = compact.restore(torch.rand(2, 3, height, width, generator=generator))
    assert restored.shape == (2, 3, 4 * height, 4 * width)
    assert restored.isfinite().all()
    assert restored.std() > 0.01


def test_a_small_picture_is_not_blown_up_to_a_tile(compact: InvSR) -> None:
    seen = []
    unet = compact.restorer.parts.unet
    hook = unet.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
    try:
        compact.restore(torch.rand(1, 3, 20, 30), timesteps=(200, 100))
    finally:
        hook.remove()
    assert seen == [(1, 16, 12, 16)] * 2


def test_no_text_condition_is_needed(compact: InvSR, compact_dir: Path) -> None:
    assert compact.restorer.parts.prompt is None
    assert sorted(p.name for p in compact_dir.iterdir()) == [
        "invsr.json",
        "noise_predictor",
        "scheduler",
        "unet",
        "vae",
    ]


def test_tiles_and_seeds_work_as_with_large_models(compact: InvSR) -> None:
    x = torch.rand(1, 3, 40, 70, generator=torch.Generator().manual_seed(2))
    one = compact.restore(x, tile=32, noise=CanvasNoise(1), tile_batch=1)
    torch.testing.assert_close(
        compact.restore(x, tile=32, noise=CanvasNoise(1), tile_batch=8), one, rtol=0, atol=1e-4
    )
    assert (compact.restore(x, tile=32, noise=CanvasNoise(2)) - one).abs().max() > 1e-3


def test_bfloat16_runs(compact_dir: Path) -> None:
    x = torch.rand(1, 3, 24, 24, generator=torch.Generator().manual_seed(2))
    rough = InvSR.load(compact_dir, dtype=torch.bfloat16).restore(x)
    assert (rough - InvSR.load(compact_dir).restore(x)).square().mean() < 10 ** (-30 / 10)
