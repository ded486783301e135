"""Training on networks of a few thousand weights: every loss teaches, and a killed run resumes exactly."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor

from invsr_daemon.model import InvSR
from invsr_daemon.train import degrade
from invsr_daemon.train.config import TrainConfig
from invsr_daemon.train.critics import Discriminator, discriminator_loss, feature_distance, generator_loss
from invsr_daemon.train.export import export
from invsr_daemon.train.loop import learning_rate, train
from invsr_daemon.train.photographs import Photographs
from invsr_daemon.train.stages import make_stage

AUTOENCODER = {
    "latent_channels": 4,
    "width": 8,
    "width_quarter": 8,
    "encoder_blocks": (1, 1),
    "decoder_blocks": (1, 1),
}
NETWORKS: dict[str, dict[str, Any]] = {
    "autoencoder": AUTOENCODER,
    "diffusion": {"in_channels": 4, "width": 8, "depth": 1},
    "noise_predictor": {"latent_channels": 4, "width": 8, "depth": 1},
}
LOSSES = {
    "autoencoder": {"pixel": 1.0, "prior": 0.001},
    "diffusion": {},
    "noise_predictor": {"pixel": 1.0, "latent": 0.1, "perceptual": 2.0, "adversarial": 0.1},
}


def config(stage: str, **changes: Any) -> TrainConfig:
    settings = {
        "stage": stage,
        "steps": 5,
        "warmup": 2,
        "learning_rate": 1e-3,
        "network": NETWORKS[stage],
        "data": {"crop": 32, "batch": 3, "longest_sides": (96,)},
        "loss": LOSSES[stage],
        **changes,
    }
    return TrainConfig.model_validate(settings)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Photographs:
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        coarse = Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8))
        coarse.resize((128, 96), Image.Resampling.BICUBIC).save(folder / f"{name}.png")
    return Photographs.load(folder, longest_sides=(96,))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, photographs: Photographs) -> Path:
    """A whole model of tiny networks, trained for a few steps each."""
    folder = tmp_path_factory.mktemp("base")
    for stage in ("autoencoder", "diffusion", "noise_predictor"):
        torch.manual_seed(0)
        train(config(stage), make_stage(config(stage), [folder]), photographs, folder)
        (folder / "checkpoint.pt").unlink()
    return folder


class Killed(Exception):
    pass


@dataclass(frozen=True)
class Dying:
    """Photographs that are torn away at a step."""

    whole: Photographs
    at: int

    def crops(self, batch: int, size: int, seed: int, step: int) -> Tensor:
        if step == self.at:
            raise Killed
        return self.whole.crops(batch, size, seed, step)


@pytest.mark.parametrize("stage", ["autoencoder", "diffusion", "noise_predictor"])
def test_a_killed_run_resumes_bit_for_bit(
    stage: str, base: Path, photographs: Photographs, tmp_path: Path
) -> None:
    settings = config(stage, checkpoint_seconds=0)
    torch.manual_seed(1)
    train(settings, make_stage(settings, [base]), photographs, tmp_path / "whole")
    torch.manual_seed(1)
    with pytest.raises(Killed):
        train(settings, make_stage(settings, [base]), Dying(photographs, at=3), tmp_path / "killed")  # type: ignore[arg-type]
    torch.manual_seed(2)  # other initial weights: the checkpoint must replace them all
    train(settings, make_stage(settings, [base]), photographs, tmp_path / "killed")
    whole = torch.load(tmp_path / "whole/checkpoint.pt", weights_only=True)
    resumed = torch.load(tmp_path / "killed/checkpoint.pt", weights_only=True)
    assert whole["step"] == resumed["step"] == 5
    for kind in ("averaged", "networks"):
        for (name, one), (_, other) in zip(_flat(whole[kind]), _flat(resumed[kind]), strict=True):
            assert torch.equal(one, other), (kind, name)


def _flat(state: dict[str, Any], prefix: str = "") -> list[tuple[str, Tensor]]:
    found: list[tuple[str, Tensor]] = []
    for name, value in state.items():
        found += _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else [(prefix + name, value)]
    return found


def test_what_was_trained_is_a_model(base: Path) -> None:
    (base / "invsr.json").write_text('{"tile": 64, "overlap": 16, "multiple": 8, "fill_tile": false}')
    restored = InvSR.load(base).restore(torch.rand(1, 3, 17, 24))
    assert restored.shape == (1, 3, 68, 96)


@pytest.mark.parametrize("loss", ["pixel", "latent", "perceptual", "adversarial"])
def test_each_loss_alone_moves_the_predictor(loss: str, base: Path, photographs: Photographs) -> None:
    only = {"pixel": 0.0, loss: 1.0}
    stage = make_stage(config("noise_predictor", loss=only, from_base=True), [base])
    outcome = stage.step(photographs.crops(3, 32, 0, 0), 0)
    assert set(outcome.losses) == {loss}
    outcome.losses[loss].backward()
    gradients = [p.grad for p in stage.trained.parameters() if p.grad is not None]
    assert gradients
    assert any(gradient.abs().sum() > 0 for gradient in gradients)


def test_a_loss_of_weight_zero_is_not_computed(base: Path, photographs: Photographs) -> None:
    stage = make_stage(config("noise_predictor", loss={"pixel": 1.0}), [base])
    assert stage.discriminator is None
    assert set(stage.step(photographs.crops(3, 32, 0, 0), 0).losses) == {"pixel"}


def test_low_starts_are_spared_from_realism(base: Path, photographs: Photographs) -> None:
    loss = {"pixel": 0.0, "perceptual": 1.0, "realism_none": 100, "realism_full": 200}
    found = {}
    for start in (100, 150, 200):
        stage = make_stage(config("noise_predictor", loss=loss, timesteps=(start,), from_base=True), [base])
        found[start] = stage.step(photographs.crops(3, 32, 0, 0), 0).losses["perceptual"].item()
    assert found[100] == 0
    assert 0 < found[150] < found[200]


def test_frozen_networks_stay_as_they_are(base: Path, photographs: Photographs, tmp_path: Path) -> None:
    settings = config("noise_predictor")
    stage: Any = make_stage(settings, [base])
    before = {name: value.clone() for name, value in stage.autoencoder.state_dict().items()}
    train(settings, stage, photographs, tmp_path)
    assert all(torch.equal(before[name], value) for name, value in stage.autoencoder.state_dict().items())


def test_training_lowers_the_loss(photographs: Photographs, tmp_path: Path) -> None:
    settings = config("autoencoder", steps=150, learning_rate=5e-3)
    torch.manual_seed(0)
    stage = make_stage(settings, [tmp_path])
    crops = photographs.crops(8, 32, 0, 0)
    before = stage.step(crops, 0).losses["pixel"].item()
    train(settings, stage, photographs, tmp_path)
    assert stage.step(crops, 0).losses["pixel"].item() < 0.7 * before


def test_the_schedule_warms_up_and_falls() -> None:
    settings = replace_steps(config("diffusion"), steps=100, warmup=10)
    rates = [learning_rate(settings, step) for step in range(100)]
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert max(rates) == settings.learning_rate


def replace_steps(settings: TrainConfig, **changes: int) -> TrainConfig:
    return settings.model_copy(update=changes)


def test_batches_depend_on_seed_and_step_alone(photographs: Photographs) -> None:
    again = replace(photographs)
    assert torch.equal(photographs.crops(4, 32, 7, 11), again.crops(4, 32, 7, 11))
    assert not torch.equal(photographs.crops(4, 32, 7, 11), photographs.crops(4, 32, 7, 12))
    assert not torch.equal(photographs.crops(4, 32, 7, 11), photographs.crops(4, 32, 8, 11))


def test_features_tell_pictures_apart(base: Path) -> None:
    from invsr_daemon.model.compact import CompactAutoencoder

    autoencoder = CompactAutoencoder.from_pretrained(base / "vae")
    picture = torch.rand(2, 3, 32, 32) * 2 - 1
    assert feature_distance(autoencoder, picture, picture).abs().max() < 1e-6
    near = feature_distance(autoencoder, picture + 0.02 * torch.randn(picture.shape), picture)
    far = feature_distance(autoencoder, picture + 0.5 * torch.randn(picture.shape), picture)
    assert (near < far).all()


def test_a_discriminator_learns_to_tell_noise_from_flatness() -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(width=8)
    optimizer = torch.optim.AdamW(discriminator.parameters(), lr=5e-3)
    for _ in range(60):
        flat, noisy = torch.rand(4, 3, 1, 1).expand(4, 3, 32, 32) * 2 - 1, torch.rand(4, 3, 32, 32) * 2 - 1
        optimizer.zero_grad()
        discriminator_loss(discriminator(flat), discriminator(noisy)).backward()
        optimizer.step()
    assert generator_loss(discriminator(flat)).mean() < generator_loss(discriminator(noisy)).mean() - 0.5


def test_a_realistic_degradation_is_a_function_of_its_generator() -> None:
    sharp = torch.rand(2, 3, 64, 64)
    first = degrade.realistic(sharp, np.random.default_rng(5))
    assert torch.equal(first, degrade.realistic(sharp, np.random.default_rng(5)))
    assert not torch.equal(first, degrade.realistic(sharp, np.random.default_rng(6)))
    assert first.shape == (2, 3, 16, 16)
    assert 0 <= first.min() <= first.max() <= 1


def test_a_bicubic_reduction_agrees_with_pillow() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (64, 48, 3), dtype=np.uint8)
    smooth = Image.fromarray(pixels).resize((48, 64), Image.Resampling.BICUBIC)
    expected = np.asarray(smooth.resize((12, 16), Image.Resampling.BICUBIC)).astype(float)
    given = torch.from_numpy(np.array(smooth)).permute(2, 0, 1)[None] / 255
    found = degrade.bicubic(given)[0].permute(1, 2, 0).numpy() * 255
    assert np.abs(found - expected).max() <= 1.01


def test_errors_of_a_configuration_are_told_together(tmp_path: Path) -> None:
    path = tmp_path / "train.yaml"
    path.write_text("stage: autoencoder\nsteps: 0\nlearning_rat: 1\n")
    with pytest.raises(ValidationError, match="2 validation errors"):
        TrainConfig.read(path)


@pytest.mark.parametrize("name", ["autoencoder", "diffusion", "noise_predictor", "joint"])
def test_the_kept_configurations_are_valid_and_name_no_validation_picture(name: str) -> None:
    folder = Path(__file__).parents[2] / "invsr_daemon" / "train" / "configs"
    names = TrainConfig.read(folder / f"{name}.yaml").data.names()
    assert len(names) > 30
    apart = ("Bridge_by", "life_by", "umang_by", "LadyBird", "EveningGlow", "Kite")
    assert not [each for each in names if any(other in each for other in apart)]


def test_an_exported_model_is_small_whole_and_anonymous(base: Path, tmp_path: Path) -> None:
    out = tmp_path / "exported"
    export([base], out)
    assert "_name_or_path" not in "".join(file.read_text() for file in out.rglob("config.json"))
    weights = load_file(out / "vae" / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    assert (tmp_path / "exported.lock.json").is_file()
    assert InvSR.load(out).restore(torch.rand(1, 3, 8, 8)).shape == (1, 3, 32, 32)
    with pytest.raises(FileNotFoundError, match="vae"):
        export([tmp_path], tmp_path / "nothing")
