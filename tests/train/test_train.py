"""Training on networks of a few thousand weights: every loss teaches, and a killed run resumes exactly."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from invsr_daemon import InvSR
from invsr_daemon.errors import ConfigError, InputError, InvsrError
from invsr_daemon.restorers.invsr.compact import CompactAutoencoder
from invsr_daemon.train import degrade, parts
from invsr_daemon.train.batches import Draw, ahead, generator
from invsr_daemon.train.blend import blend
from invsr_daemon.train.config import CONFIGS, DataConfig, LossConfig, TrainConfig
from invsr_daemon.train.critics import (
    Discriminator,
    discriminator_loss,
    feature_distance,
    generator_loss,
    luma_distance,
    texture_distance,
)
from invsr_daemon.train.export import export
from invsr_daemon.train.loop import discriminator_rate, learning_rate
from invsr_daemon.train.photographs import Photographs
from invsr_daemon.train.stages import degraded
from tests.train.tiny import batch_for, config, stage_of, trained


class Killed(Exception):
    pass


@dataclass
class Dying:
    """Photographs that are torn away after some batches."""

    whole: Photographs
    left: int

    def crops(self, batch: int, size: int, rng: np.random.Generator) -> Tensor:
        if self.left == 0:
            raise Killed
        self.left -= 1
        return self.whole.crops(batch, size, rng)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["autoencoder", "diffusion", "noise_predictor"])
def test_a_killed_run_resumes_bit_for_bit(
    stage: str, base: Path, photographs: Photographs, tmp_path: Path
) -> None:
    settings = config(stage, checkpoint_seconds=0, sample_steps=0)
    torch.manual_seed(1)
    trained(settings, [base], photographs, tmp_path / "whole")
    torch.manual_seed(1)
    with pytest.raises(Killed):
        trained(settings, [base], Dying(photographs, left=3), tmp_path / "killed")  # type: ignore[arg-type]
    torch.manual_seed(2)  # other initial weights: the checkpoint must replace them all
    trained(settings, [base], photographs, tmp_path / "killed")
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


@pytest.mark.parametrize("loss", ["pixel", "luma", "latent", "perceptual", "texture", "adversarial"])
def test_each_loss_alone_moves_the_predictor(loss: str, base: Path, photographs: Photographs) -> None:
    only = {"pixel": 0.0, loss: 1.0}
    stage = stage_of(config("noise_predictor", loss=only, from_base=True), [base])
    outcome = stage.step(batch_for(stage, photographs))
    assert set(outcome.losses) == {loss}
    outcome.losses[loss].backward()
    gradients = [p.grad for p in stage.trained.parameters() if p.grad is not None]
    assert gradients
    assert any(gradient.abs().sum() > 0 for gradient in gradients)


def test_a_loss_of_weight_zero_is_not_computed(base: Path, photographs: Photographs) -> None:
    stage = stage_of(config("noise_predictor", loss={"pixel": 1.0}), [base])
    assert stage.discriminator is None
    assert set(stage.step(batch_for(stage, photographs)).losses) == {"pixel"}


def test_low_starts_are_spared_from_realism(base: Path, photographs: Photographs) -> None:
    loss = {"pixel": 0.0, "perceptual": 1.0, "realism_none": 100, "realism_full": 200}
    found = {}
    for start in (100, 150, 200):
        stage = stage_of(config("noise_predictor", loss=loss, timesteps=(start,), from_base=True), [base])
        found[start] = stage.step(batch_for(stage, photographs)).losses["perceptual"].item()
    assert found[100] == 0
    assert 0 < found[150] < found[200]


def test_frozen_networks_stay_as_they_are(base: Path, photographs: Photographs, tmp_path: Path) -> None:
    stage: Any = trained(config("noise_predictor", sample_steps=0), [base], photographs, tmp_path)
    before = load_file(base / "vae" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(before[name], value) for name, value in stage.autoencoder.state_dict().items())


def test_training_lowers_the_loss(photographs: Photographs, tmp_path: Path) -> None:
    settings = config("autoencoder", steps=150, learning_rate=5e-3, sample_steps=0)
    torch.manual_seed(0)
    begun = stage_of(settings, [])
    before = begun.step(batch_for(begun, photographs, 8)).losses["pixel"].item()
    stage = trained(settings, [], photographs, tmp_path)
    assert stage.step(batch_for(stage, photographs, 8)).losses["pixel"].item() < 0.7 * before


def test_the_schedule_warms_up_and_falls() -> None:
    settings = config("diffusion", steps=100, warmup=10)
    rates = [learning_rate(settings, step) for step in range(100)]
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert max(rates) == settings.learning_rate


def test_the_discriminators_rate_is_its_own() -> None:
    settings = config("noise_predictor", steps=100, warmup=10, loss={"discriminator_rate": 2e-3})
    rates = [discriminator_rate(settings, step) for step in range(100)]
    assert rates[0] == pytest.approx(2e-4)
    assert set(rates[9:]) == {2e-3}


def test_batches_depend_on_seed_step_and_rank_alone(photographs: Photographs) -> None:
    def crops(seed: int, step: int, rank: int) -> Tensor:
        return replace(photographs).crops(4, 32, generator(seed, step, Draw.CROPS, rank))

    assert torch.equal(crops(7, 11, 1), crops(7, 11, 1))
    for other in ((7, 12, 1), (8, 11, 1), (7, 11, 0)):
        assert not torch.equal(crops(7, 11, 1), crops(*other))


@pytest.mark.parametrize("workers", [0, 3])
def test_batches_made_ahead_come_in_order(workers: int) -> None:
    made: list[int] = []

    def make(step: int) -> int:
        made.append(step)
        return step * step

    coming = ahead(make, range(100), workers)
    assert [next(coming) for _ in range(4)] == [0, 1, 4, 9]
    coming.close()
    assert len(made) <= 4 + 2 * workers
    assert list(ahead(make, range(3), workers)) == [0, 1, 4]


def test_photographs_on_disk_give_the_same_crops(photographs_folder: Path, photographs: Photographs) -> None:
    on_disk = Photographs.load(photographs_folder, longest_sides=(96,), in_memory=False)
    assert all(each.kept is None for each in on_disk.pictures)
    one, other = (each.crops(4, 32, generator(0, 0, Draw.CROPS)) for each in (photographs, on_disk))
    assert torch.equal(one, other)


def test_photographs_that_do_not_serve_are_told(photographs_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="2 are not 256 pixels high and wide"):
        Photographs.load(photographs_folder, smallest=256)
    with pytest.raises(ConfigError, match="no photographs found"):
        Photographs.load(tmp_path)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"broken\.png"):
        Photographs.load(tmp_path)


def test_a_training_that_diverges_ends_with_a_sound_checkpoint(
    photographs: Photographs, tmp_path: Path
) -> None:
    wild = config("autoencoder", steps=400, learning_rate=1e9, warmup=0, checkpoint_seconds=0, sample_steps=0)
    with pytest.raises(InvsrError, match="diverges at step"):
        trained(wild, [], photographs, tmp_path)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert all(value.isfinite().all() for value in state["networks"]["trained"].values())


def test_a_checkpoint_of_another_configuration_is_refused(
    base: Path, photographs: Photographs, tmp_path: Path
) -> None:
    trained(config("noise_predictor", loss={"pixel": 1.0}, sample_steps=0), [base], photographs, tmp_path)
    for changes in ({}, {"network": {"latent_channels": 4, "width": 16, "depth": 1}, "loss": {"pixel": 1.0}}):
        with pytest.raises(ConfigError, match="was not made by this configuration"):
            trained(config("noise_predictor", **changes), [base], photographs, tmp_path)


def test_samples_show_averaged_weights_and_do_not_disturb(
    base: Path, photographs: Photographs, tmp_path: Path
) -> None:
    for folder, every in (("without", 0), ("with", 2)):
        torch.manual_seed(0)
        settings = config("noise_predictor", from_base=True, sample_steps=every)
        trained(settings, [base], photographs, tmp_path / folder)
    without, shown = (
        load_file(tmp_path / folder / "noise_predictor" / "diffusion_pytorch_model.safetensors")
        for folder in ("without", "with")
    )
    assert all(torch.equal(without[name], value) for name, value in shown.items())
    sheets = sorted((tmp_path / "with" / "samples").iterdir())
    assert [sheet.name for sheet in sheets] == ["step-2.png", "step-4.png"]
    pixels = [np.array(Image.open(sheet)) for sheet in sheets]
    assert pixels[0].shape == (6 * 32, 3 * 32, 3)
    given, made, truth = (slice(column * 32, (column + 1) * 32) for column in range(3))
    assert np.array_equal(pixels[0][:, given], pixels[1][:, given])
    assert np.array_equal(pixels[0][:, truth], pixels[1][:, truth])
    assert not np.array_equal(pixels[0][:, made], pixels[1][:, made])


@pytest.mark.parametrize("stage", ["autoencoder", "diffusion"])
def test_the_other_stages_show_samples_too(stage: str, base: Path, photographs: Photographs) -> None:
    begun = stage_of(config(stage), [base])
    with torch.no_grad():
        columns = begun.shown(batch_for(begun, photographs))
    assert [column.shape for column in columns] == [(3, 3, 32, 32)] * 3


def test_progress_tells_losses_pace_and_what_is_left(
    base: Path, photographs: Photographs, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    settings = config("noise_predictor", report_steps=2, sample_steps=0)
    trained(settings, [base], photographs, tmp_path)
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("step ")]
    assert [line.split()[1] for line in lines] == ["2/5", "4/5"]
    for part in ("pixel", "latent", "perceptual", "adversarial", "discriminator", "real", "fake"):
        assert f" {part} " in lines[0]
    assert lines[0].endswith("0 h 0 min left")
    assert " s/step " in lines[0]


def test_a_deeper_network_restores_as_its_base_at_first(base: Path) -> None:
    torch.manual_seed(0)
    picture, latents, at = torch.rand(1, 3, 16, 16), torch.rand(1, 4, 8, 8), torch.tensor([199])
    autoencoder = parts.network([base], "vae")
    deeper = parts.grown(copy.deepcopy(autoencoder), {"decoder_blocks": (2, 3)})
    assert len(deeper.state_dict()) > len(autoencoder.state_dict())
    assert torch.equal(deeper.decode(latents).sample, autoencoder.decode(latents).sample)
    predictor = parts.noise_predictor([base])
    deeper = parts.grown(copy.deepcopy(predictor), {"depth": 3, "full_depth": 2, "full_width": 8})
    assert len(deeper.state_dict()) > len(predictor.state_dict())
    torch.testing.assert_close(deeper(picture, at).mean, predictor(picture, at).mean, rtol=0, atol=1e-6)
    assert parts.grown(predictor, {}) is predictor


def test_a_network_does_not_grow_wider_nor_at_its_encoder(base: Path) -> None:
    with pytest.raises(ConfigError, match="not wider"):
        parts.grown(parts.noise_predictor([base]), {"width": 16})
    with pytest.raises(ConfigError, match="encoder_blocks"):
        parts.grown(parts.network([base], "vae"), {"encoder_blocks": (1, 2)})
    with pytest.raises(ConfigError, match=r"network: .*depht"):
        parts.grown(parts.noise_predictor([base]), {"depht": 3})


def test_a_grown_stage_trains_what_is_new(base: Path, photographs: Photographs) -> None:
    settings = config(
        "noise_predictor",
        from_base=True,
        also_train=("decoder",),
        network={"full_depth": 1, "full_width": 8},
        autoencoder={"decoder_blocks": (2, 2)},
    )
    stage = stage_of(settings, [base])
    assert stage.trained["noise_predictor"].full is not None
    stage.step(batch_for(stage, photographs)).losses["pixel"].backward()
    new = stage.trained["decoder"].eighth[1].conv2.weight
    assert new.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in stage.autoencoder.encoder.parameters())


def test_the_epsilon_loss_teaches_the_unet_that_is_trained_along(
    base: Path, photographs: Photographs
) -> None:
    loss = {"pixel": 0.0, "epsilon": 0.5}
    stage = stage_of(config("noise_predictor", loss=loss, also_train=("unet",)), [base])
    outcome = stage.step(batch_for(stage, photographs))
    assert set(outcome.losses) == {"epsilon"}
    outcome.losses["epsilon"].backward()
    assert sum(p.grad.abs().sum() for p in stage.trained["unet"].parameters()) > 0
    assert all(p.grad is None for p in stage.trained["noise_predictor"].parameters())


def test_features_tell_pictures_apart(base: Path) -> None:
    autoencoder = CompactAutoencoder.from_pretrained(base / "vae")
    picture = torch.rand(2, 3, 32, 32) * 2 - 1
    assert feature_distance(autoencoder, picture, picture).abs().max() < 1e-6
    near = feature_distance(autoencoder, picture + 0.02 * torch.randn(picture.shape), picture)
    far = feature_distance(autoencoder, picture + 0.5 * torch.randn(picture.shape), picture)
    assert (near < far).all()


@pytest.mark.slow
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


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"steps": 0, "learning_rat": 1}, ["steps: ", "learning_rat: there is no such setting"]),
        ({"data": {"crop": 20}, "timesteps": [0]}, ["data.crop: ", "timesteps.0: "]),
        ({"data": {"noise": 0.6, "blur": 0.5}}, ["data: realistic, noise and blur are shares"]),
        ({"loss": {"perceptual": 1.0}}, ["the stage autoencoder has no perceptual"]),
        ({"loss": {"pixel": 0}}, ["all are switched off"]),
        ({"loss": {"pixel": -1}}, ["loss.pixel: "]),
        ({"also_train": ["unet"]}, ["only the stage noise_predictor knows also_train"]),
    ],
)
def test_errors_of_a_configuration_are_told_together(
    changes: dict[str, Any], told: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump({"stage": "autoencoder", "steps": 1, **changes}))
    with pytest.raises(ConfigError) as caught:
        TrainConfig.read(path)
    for each in [str(path), *told]:
        assert each in str(caught.value)


def test_kept_configurations_have_names() -> None:
    assert TrainConfig.read("diffusion") == TrainConfig.read(CONFIGS / "diffusion.yaml")
    with pytest.raises(ConfigError, match=r"no configuration nothing.*autoencoder, diffusion"):
        TrainConfig.read("nothing")


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_kept_configurations_are_valid_and_name_no_validation_picture(path: Path) -> None:
    names = TrainConfig.read(path).data.names()
    assert len(names) > 30 or path.stem == "sd-turbo"
    apart = ("Bridge_by", "life_by", "umang_by", "LadyBird", "EveningGlow", "Kite")
    assert not [each for each in names if any(other in each for other in apart)]


def test_the_list_of_settings_in_the_manual_is_whole() -> None:
    manual = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    names = [name for name in TrainConfig.model_fields if name not in ("data", "loss")]
    names += [f"data.{name}" for name in DataConfig.model_fields]
    names += [f"loss.{name}" for name in LossConfig.model_fields]
    assert [name for name in names if f"| `{name}` |" not in manual] == []


def test_an_exported_model_is_small_whole_and_anonymous(base: Path, tmp_path: Path) -> None:
    out = tmp_path / "exported"
    export([base], out)
    assert "_name_or_path" not in "".join(file.read_text() for file in out.rglob("config.json"))
    weights = load_file(out / "vae" / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    assert (tmp_path / "exported.lock.json").is_file()
    assert InvSR.load(out).restore(torch.rand(1, 3, 8, 8)).shape == (1, 3, 32, 32)
    with pytest.raises(ConfigError, match="vae"):
        export([tmp_path], tmp_path / "nothing")
    (out / "left").touch()
    export([base], out)
    assert not (out / "left").exists(), "an earlier one is replaced"


def test_an_export_replaces_nothing_but_an_exported_model(base: Path, tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("of somebody")
    with pytest.raises(ConfigError, match="something else"):
        export([base], tmp_path)
    assert (tmp_path / "kept").read_text() == "of somebody"
    with pytest.raises(ConfigError, match="one of the parts"):
        export([base], base)


def test_between_two_models_there_is_a_model(base: Path, photographs: Photographs, tmp_path: Path) -> None:
    settings = config("noise_predictor", from_base=True, also_train=("decoder", "unet"), sample_steps=0)
    trained(settings, [base], photographs, tmp_path / "new")
    file = "noise_predictor/diffusion_pytorch_model.safetensors"
    blend(base, tmp_path / "new", 0.75, tmp_path / "between")
    old, new, found = (load_file(folder / file) for folder in (base, tmp_path / "new", tmp_path / "between"))
    for name, value in found.items():
        torch.testing.assert_close(value, 0.25 * old[name] + 0.75 * new[name])
    assert any(not torch.equal(found[name], new[name]) for name in found)
    deeper = parts.grown(parts.noise_predictor([base]), {"depth": 3})
    deeper.save_pretrained(tmp_path / "new" / "noise_predictor")
    with pytest.raises(ConfigError, match="different shapes"):
        blend(base, tmp_path / "new", 0.75, tmp_path / "between")


def test_blur_takes_detail_and_noise_adds_some() -> None:
    sharp = torch.rand(1, 3, 64, 64)
    plain = degrade.bicubic(sharp)
    assert degrade.blurred(sharp).std() < 0.6 * plain.std()
    grain = degrade.noisy(sharp, np.random.default_rng(0)) - plain
    assert grain.std() == pytest.approx(degrade.NOISE_SIGMA, rel=0.1)
    assert torch.equal(grain, degrade.noisy(sharp, np.random.default_rng(0)) - plain)


def test_a_batch_shows_each_fault_as_often_as_asked_for() -> None:
    gravel = torch.rand(8, 3, 64, 64)
    plain = degrade.bicubic(gravel)
    shares = DataConfig(realistic=0.25, noise=0.25, blur=0.125)
    poor = degraded(gravel, shares, np.random.default_rng(0))
    assert torch.equal(poor, degraded(gravel, shares, np.random.default_rng(0)))
    assert [torch.equal(found, without) for found, without in zip(poor, plain, strict=True)] == [
        *[False] * 5,
        *[True] * 3,
    ]
    assert poor[4].std() < plain[4].std()  # the blurred one
    assert torch.equal(degraded(gravel, DataConfig(realistic=0), np.random.default_rng(0)), plain)


def test_bare_noise_is_of_any_strength_and_nothing_else() -> None:
    grey = torch.full((64, 3, 64, 64), 0.5)
    grain = degrade.any_noise(grey, np.random.default_rng(0)) - degrade.bicubic(grey)
    strengths = grain.std((1, 2, 3))
    assert strengths.min() < 0.1 * degrade.STRONGEST_NOISE
    assert 0.8 * degrade.STRONGEST_NOISE < strengths.max() < 1.2 * degrade.STRONGEST_NOISE
    assert grain.mean().abs() < 0.003


def test_luma_s_distance_is_psnr_upside_down_and_every_picture_s_alike() -> None:
    sharp = torch.zeros(2, 3, 16, 16)
    near, far = sharp + 0.1, sharp + 0.2
    decibels = 10 / np.log(10) * (luma_distance(far, sharp) - luma_distance(near, sharp))
    assert decibels.tolist() == pytest.approx([6.02] * 2, abs=0.05)
    assert luma_distance(sharp, sharp).isfinite().all()
    hidden = torch.tensor([0.0, 0.114, -0.587])[:, None, None]  # a change of colour alone
    torch.testing.assert_close(luma_distance(sharp + hidden, sharp), luma_distance(sharp, sharp))


def test_texture_counts_the_strength_of_detail_and_not_its_phase() -> None:
    generator = torch.Generator().manual_seed(0)
    grain = torch.randn(2, 3, 64, 64, generator=generator) * 0.1
    other = torch.randn(2, 3, 64, 64, generator=generator) * 0.1
    flat = torch.zeros(2, 3, 64, 64)
    assert texture_distance(grain, grain).abs().max() == 0
    same_strength, half, none = (texture_distance(each, grain) for each in (other, 0.5 * other, flat))
    assert (same_strength < half).all()
    assert (half < none).all()
    assert same_strength.max() < 0.2
    assert none.min() > 1
