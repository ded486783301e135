"""A base model like Stable Diffusion's: the noise predictor is trained for what restoration will do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import EulerDiscreteScheduler
from safetensors.torch import load_file, save_file
from torch import Tensor

from invsr_daemon import InvSR
from invsr_daemon.errors import ConfigError, ModelError
from invsr_daemon.restorers.invsr.noise_predictor import NoisePredictor
from invsr_daemon.restorers.invsr.sampling import denoise, scheduler_at
from invsr_daemon.restorers.noise import GivenNoise
from invsr_daemon.train.batches import Draw, generator
from invsr_daemon.train.critics import feature_distance, load_lpips
from invsr_daemon.train.denoiser import SD_SCHEDULER, Denoiser
from invsr_daemon.train.export import export
from invsr_daemon.train.photographs import Photographs
from tests.train.tiny import CPU, INVSR, batch_for, config, stage_of, trained

CROPS = {"crop": 64, "batch": 2, "longest_sides": (96,)}


def predictor(**changes: Any) -> dict[str, Any]:
    return {"network": INVSR, "data": CROPS, "loss": {"latent": 1.0, "pixel": 0.0}, **changes}


def prediction_of(model: Path, kind: str) -> None:
    file = model / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "prediction_type": kind}))


@pytest.fixture
def model(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """The small random model in tiles of 16, for a test to change."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_dir, folder)
    tiling = {"tile": 16, "overlap": 8, "multiple": 8, "fill_tile": False}
    (folder / "invsr.json").write_text(json.dumps(tiling))
    return folder


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_training_computes_what_restoration_does(
    prediction: str, model: Path, photographs: Photographs
) -> None:
    prediction_of(model, prediction)
    settings = predictor(from_base=True, network={}, timesteps=(150,), data={**CROPS, "realistic": 0.0})
    stage = stage_of(config("noise_predictor", **settings), [model])
    batch = batch_for(stage, photographs, count=2, size=64)
    with torch.no_grad():
        found = stage.shown(batch)[1]
    again = generator(0, 0, Draw.STEP)
    again.choice((150,), size=2)
    vae, noise_predictor = (_normal(again, (2, 4, 8, 8)) for _ in range(2))
    restorer = InvSR.load(model)
    for picture in range(2):
        noise = GivenNoise(noise_predictor[picture : picture + 1], vae[picture : picture + 1])
        poor = batch.poor[picture : picture + 1]
        expected = restorer.restore(poor, timesteps=(150,), noise=noise)[0]
        assert (found[picture].clamp(0, 1) - expected).abs().max() < 1e-4


def _normal(rng: Any, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(rng.standard_normal(shape, dtype="float32"))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("start", [1, 100, 250])
def test_one_step_is_the_schedulers(prediction: str, start: int) -> None:
    torch.manual_seed(0)
    scheduler = EulerDiscreteScheduler(**{**SD_SCHEDULER, "prediction_type": prediction})
    latents, noise, output = torch.randn(3, 2, 4, 8, 8)

    class Unet(torch.nn.Module):
        def forward(self, sample: Tensor, index: Tensor) -> Any:
            return type("Output", (), {"sample": output * sample})

    denoiser = Denoiser.with_scheduler(Unet(), scheduler, None, CPU.device)
    expected = denoise(scheduler_at(scheduler, (start,), CPU.device), lambda x, _: output * x, latents, noise)
    index = torch.full((2,), start - 1)
    found = denoiser.clean(latents + denoiser.sigma(index) * noise, index)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_another_prediction_is_refused(model: Path) -> None:
    prediction_of(model, "sample")
    with pytest.raises(ModelError, match="prediction_type 'sample'"):
        stage_of(config("noise_predictor", **predictor()), [model])


@pytest.mark.parametrize("loss", ["pixel", "latent", "perceptual", "adversarial"])
def test_each_loss_alone_moves_the_predictor(loss: str, model: Path, photographs: Photographs) -> None:
    settings = predictor(from_base=True, network={}, loss={"pixel": 0.0, loss: 1.0})
    stage = stage_of(config("noise_predictor", **settings), [model])
    outcome = stage.step(batch_for(stage, photographs, count=2, size=64))
    assert set(outcome.losses) == {loss}
    outcome.losses[loss].backward()
    assert sum(p.grad.abs().sum() for p in stage.trained.parameters() if p.grad is not None) > 0
    assert all(p.grad is None for p in [*stage.autoencoder.parameters(), *stage.denoiser.unet.parameters()])


def test_the_result_is_a_model_together_with_its_base(
    model: Path, photographs: Photographs, tmp_path: Path
) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    trained(config("noise_predictor", steps=2, **predictor()), [model], photographs, out)
    export([model, out], whole)
    weights = load_file(whole / "noise_predictor" / "diffusion_pytorch_model.safetensors")
    learnt = load_file(out / "noise_predictor" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(weights[name], value.half()) for name, value in learnt.items())
    restored = InvSR.load(whole).restore(torch.rand(1, 3, 16, 16), timesteps=(200, 100))
    assert restored.shape == (1, 3, 64, 64)
    # Or by hand: a folder noise_predictor/ goes before a bare state.
    shutil.copytree(out / "noise_predictor", model / "noise_predictor")
    assert isinstance(InvSR.load(model).restorer.parts.noise_predictor, NoisePredictor)


def test_half_precision_bases_are_trained_on_in_float32(
    model: Path, photographs: Photographs, tmp_path: Path
) -> None:
    for name in ("vae", "unet"):
        file = model / name / "diffusion_pytorch_model.safetensors"
        save_file({key: value.half() for key, value in load_file(file).items()}, file)
    stage: Any = trained(config("noise_predictor", steps=1, **predictor()), [model], photographs, tmp_path)
    networks = (stage.trained, stage.autoencoder, stage.denoiser.unet)
    assert {p.dtype for network in networks for p in network.parameters()} == {torch.float32}


def test_a_compact_predictor_serves_any_base(model: Path, photographs: Photographs) -> None:
    settings = predictor(predictor="compact", network={"width": 8, "depth": 1})
    stage = stage_of(config("noise_predictor", **settings), [model])
    assert type(stage.trained["noise_predictor"]).__name__ == "CompactNoisePredictor"
    assert stage.step(batch_for(stage, photographs, count=2, size=64)).losses["latent"].isfinite()


def test_a_predictor_for_other_latents_is_refused(model: Path, photographs: Photographs) -> None:
    settings = predictor(network={**INVSR, "latent_channels": 1})
    stage = stage_of(config("noise_predictor", **settings), [model])
    with pytest.raises(ConfigError, match=r"\(2, 1, 8, 8\), the latents \(2, 4, 8, 8\)"):
        stage.step(batch_for(stage, photographs, count=2, size=64))


def test_parts_of_later_folders_go_first(base: Path, model: Path) -> None:
    stage = stage_of(config("noise_predictor", from_base=True, network={}), [model, base])
    assert type(stage.autoencoder).__name__ == "CompactAutoencoder"
    stage = stage_of(config("noise_predictor", from_base=True, network={}), [base, model])
    assert type(stage.autoencoder).__name__ == "AutoencoderKL"


@pytest.mark.parametrize(
    ("missing", "told"), [("vae", "no vae"), ("prompt_embeds.safetensors", "prompt_embeds")]
)
def test_a_base_without_a_part_is_told(missing: str, told: str, model: Path) -> None:
    (model / missing).rename(model / "elsewhere")
    with pytest.raises(ConfigError, match=told):
        stage_of(config("noise_predictor", **predictor()), [model])


def test_a_damaged_base_is_told(model: Path) -> None:
    (model / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"cut short")
    with pytest.raises(ModelError, match="unet cannot be loaded"):
        stage_of(config("noise_predictor", **predictor()), [model])


def test_gradient_checkpointing_changes_no_gradient(
    model: Path, base: Path, photographs: Photographs
) -> None:
    gradients = []
    for checkpointing in (False, True):
        loss = {"pixel": 1.0, "latent": 1.0, "perceptual": 2.0}
        settings = predictor(from_base=True, network={}, loss=loss, gradient_checkpointing=checkpointing)
        stage = stage_of(config("noise_predictor", **settings), [model])
        assert stage.denoiser.unet.is_gradient_checkpointing == checkpointing
        losses = stage.step(batch_for(stage, photographs, count=2, size=64)).losses
        sum(losses.values()).backward()
        gradients.append([p.grad for p in stage.trained.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 0
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)
    with pytest.raises(ConfigError, match="gradient_checkpointing"):
        stage_of(config("noise_predictor", gradient_checkpointing=True), [base])


def test_features_of_a_diffusion_autoencoder_tell_pictures_apart(model: Path) -> None:
    torch.manual_seed(0)
    stage = stage_of(config("noise_predictor", **predictor()), [model])
    picture = torch.rand(2, 3, 32, 32) * 2 - 1
    assert feature_distance(stage.autoencoder, picture, picture).abs().max() < 1e-6
    near = feature_distance(stage.autoencoder, picture + 0.02 * torch.randn(picture.shape), picture)
    far = feature_distance(stage.autoencoder, picture + 0.5 * torch.randn(picture.shape), picture)
    assert (near < far).all()


def test_lpips_is_refused_where_it_cannot_be_had_offline(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"loss\.lpips: the library lpips is not installed"):
        stage_of(config("noise_predictor", **predictor(loss={"lpips": 2.0})), [model])
    (tmp_path / "lpips.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match=r"there is no vgg16-.*nothing is downloaded"):
        load_lpips(CPU.device)
