"""NIQE: its parts against independent references, its verdicts on photographs of known damage."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from scipy.ndimage import gaussian_filter  # type: ignore[import-untyped]
from scipy.optimize import brentq  # type: ignore[import-untyped]
from scipy.special import gamma  # type: ignore[import-untyped]
from skimage import data
from torch import Tensor

from invsr_daemon.quality.metrics import niqe as module
from invsr_daemon.quality.metrics.niqe import (
    FEATURES,
    FEWEST_PATCHES,
    PATCH,
    Pristine,
    distance,
    fit,
    fit_aggd,
    mscn,
    niqe,
    packaged_pristine,
    patch_features,
)

PHOTOGRAPHS = ("astronaut", "coffee", "chelsea")


def photograph(name: str) -> Image.Image:
    return Image.fromarray(getattr(data, name)())


def tensor(picture: Image.Image | NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255


def blurred(picture: Image.Image) -> Tensor:
    return tensor(picture.filter(ImageFilter.GaussianBlur(1.5)))


def noisy(picture: Image.Image) -> Tensor:
    noise = np.random.default_rng(0).normal(0, 15, (picture.height, picture.width, 3))
    return tensor((np.asarray(picture) + noise).clip(0, 255).astype(np.uint8))


def reduced_and_enlarged(picture: Image.Image) -> Tensor:
    small = picture.resize((picture.width // 4, picture.height // 4), Image.Resampling.BICUBIC)
    return tensor(small.resize(picture.size, Image.Resampling.BICUBIC))


def reference_aggd(samples: NDArray[np.float64]) -> tuple[float, float, float]:
    """The same moments, their equation solved by root finding instead of a table."""
    left = math.sqrt(np.mean(samples[samples < 0] ** 2))
    right = math.sqrt(np.mean(samples[samples > 0] ** 2))
    g = left / right
    wanted = np.mean(np.abs(samples)) ** 2 / np.mean(samples**2) * (g**3 + 1) * (g + 1) / (g**2 + 1) ** 2
    alpha = brentq(lambda a: gamma(2 / a) ** 2 / (gamma(1 / a) * gamma(3 / a)) - wanted, 0.2, 10)
    to_scale = math.sqrt(gamma(1 / alpha) / gamma(3 / alpha))
    return alpha, left * to_scale, right * to_scale


def aggd_samples(alpha: float, left: float, right: float, count: int, seed: int) -> NDArray[np.float64]:
    """Draws: a side in proportion to its scale, then a generalised Gaussian of that scale."""
    rng = np.random.default_rng(seed)
    sizes = rng.gamma(1 / alpha, size=count) ** (1 / alpha)
    return np.where(rng.random(count) < left / (left + right), -left * sizes, right * sizes)


@pytest.mark.parametrize("name", PHOTOGRAPHS)
@pytest.mark.parametrize("damage", [blurred, noisy, reduced_and_enlarged])
def test_damage_scores_worse(name: str, damage: Callable[[Image.Image], Tensor]) -> None:
    sharp, worse = niqe(tensor(photograph(name))), niqe(damage(photograph(name)))
    assert sharp is not None
    assert worse is not None
    assert worse > sharp + 1


def test_more_blur_scores_worse() -> None:
    picture = photograph("chelsea")
    scores = [niqe(tensor(picture.filter(ImageFilter.GaussianBlur(sigma)))) for sigma in (0.5, 1, 2, 4)]
    known = [score for score in scores if score is not None]
    assert known == sorted(known)
    assert len(known) == 4


@settings(max_examples=30)
@given(
    alpha=st.floats(0.5, 4),
    left=st.floats(0.1, 2),
    right=st.floats(0.1, 2),
    seed=st.integers(0, 2**32),
)
def test_the_parameters_of_synthetic_samples_are_recovered(
    alpha: float, left: float, right: float, seed: int
) -> None:
    samples = aggd_samples(alpha, left, right, 200_000, seed)
    found = fit_aggd(torch.from_numpy(samples)[None])
    assert found.alpha.item() == pytest.approx(alpha, rel=0.1)
    assert found.left.item() == pytest.approx(left, rel=0.1)
    assert found.right.item() == pytest.approx(right, rel=0.1)
    deviation = float(samples.std() / math.sqrt(len(samples)))
    assert found.mean.item() == pytest.approx(samples.mean(), abs=5 * deviation + 0.02 * (left + right))


@settings(max_examples=30)
@given(alpha=st.floats(0.5, 4), left=st.floats(0.1, 2), right=st.floats(0.1, 2), seed=st.integers(0, 2**32))
def test_moment_matching_agrees_with_root_finding(alpha: float, left: float, right: float, seed: int) -> None:
    samples = aggd_samples(alpha, left, right, 2000, seed)
    found = fit_aggd(torch.from_numpy(samples)[None])
    expected = reference_aggd(samples)
    assert (found.alpha.item(), found.left.item(), found.right.item()) == pytest.approx(expected, rel=5e-3)


def test_coefficients_agree_with_scipy() -> None:
    grey = np.asarray(photograph("coffee").convert("L"), dtype=np.float64)[:200, :150]
    mean = gaussian_filter(grey, 7 / 6, mode="nearest", radius=3)
    deviation = np.sqrt(np.abs(gaussian_filter(grey**2, 7 / 6, mode="nearest", radius=3) - mean**2))
    coefficients, found = mscn(torch.from_numpy(grey)[None, None])
    np.testing.assert_allclose(found[0, 0].numpy(), deviation, atol=1e-3)
    np.testing.assert_allclose(coefficients[0, 0].numpy(), (grey - mean) / (deviation + 1), atol=1e-3)


def test_a_patch_has_eighteen_features_at_two_scales() -> None:
    picture = tensor(photograph("coffee"))[:, : 2 * PATCH + 5, : 3 * PATCH + 90]
    features = patch_features(picture)
    assert features.shape == (6, FEATURES)
    coefficients, _ = mscn(module._grey(picture)[..., : 2 * PATCH, : 3 * PATCH])
    second = coefficients[0, 0, :PATCH, PATCH : 2 * PATCH].numpy()
    alpha, left, right = reference_aggd(second.flatten())
    assert features[1, :2].tolist() == pytest.approx([alpha, (left + right) / 2], rel=5e-3)
    # In the paper's order: the products with the neighbours beside, below, and on both diagonals.
    for index, shift in enumerate([(0, 1), (1, 0), (1, 1), (1, -1)]):
        alpha, left, right = reference_aggd((second * np.roll(second, shift, (0, 1))).flatten())
        mean = (right - left) * gamma(2 / alpha) / gamma(1 / alpha)
        found = features[1, 2 + 4 * index : 6 + 4 * index].tolist()
        assert found == pytest.approx([alpha, mean, left, right], rel=1e-2, abs=1e-3)


def test_pixels_beyond_the_last_whole_patch_do_not_count() -> None:
    picture = tensor(photograph("astronaut"))
    assert niqe(picture) == niqe(picture[:, : 5 * PATCH, : 5 * PATCH])


def test_a_mirrored_picture_scores_alike() -> None:
    picture = tensor(photograph("astronaut"))[:, : 5 * PATCH, : 5 * PATCH]
    assert niqe(picture.flip(2)) == pytest.approx(niqe(picture), rel=0.1)


@pytest.mark.parametrize(
    "picture",
    [
        torch.rand(3, 40, 600, generator=torch.Generator().manual_seed(0)),
        torch.rand(3, 2 * PATCH, 4 * PATCH, generator=torch.Generator().manual_seed(0)),
        torch.full((3, 5 * PATCH, 5 * PATCH), 0.0),
        torch.full((3, 5 * PATCH, 5 * PATCH), 0.7),
    ],
    ids=["lower than a patch", "eight patches", "black", "grey"],
)
def test_too_little_to_judge_gives_no_number(picture: Tensor) -> None:
    assert niqe(picture) is None


def test_black_bars_do_not_count() -> None:
    picture = tensor(photograph("astronaut"))[:, : 4 * PATCH, : 4 * PATCH]
    bars = torch.cat([picture, torch.zeros(3, 2 * PATCH, 4 * PATCH)], dim=1)
    assert len(patch_features(bars)) <= 5 * 4  # the first row of the bars sees the picture's edge


def test_the_shape_is_checked() -> None:
    with pytest.raises(ValueError, match=r"\[3,H,W\]"):
        niqe(torch.zeros(1, 3, 300, 300))


def test_only_sharp_patches_are_fitted() -> None:
    picture = tensor(photograph("astronaut"))
    assert 0 < len(patch_features(picture, 0.75)) < len(patch_features(picture, 0.4)) < 25


def test_the_distance_is_the_published_one() -> None:
    features = patch_features(tensor(photograph("astronaut"))).numpy()
    pristine = packaged_pristine()
    apart = pristine.mean.numpy() - features.mean(axis=0)
    between = (pristine.covariance.numpy() + np.cov(features, rowvar=False)) / 2
    expected = math.sqrt(apart @ np.linalg.solve(between, apart))
    assert niqe(tensor(photograph("astronaut"))) == pytest.approx(expected, rel=1e-6)


def test_the_packaged_statistics_are_whole() -> None:
    pristine = packaged_pristine()
    assert pristine.mean.shape == (FEATURES,)
    assert torch.equal(pristine.covariance, pristine.covariance.T)
    assert torch.linalg.eigvalsh(pristine.covariance).min() > 0
    assert pristine.patches > 5 * FEATURES
    lines = module.TRAINING_LIST.read_text().splitlines()
    assert list(pristine.names) == [line for line in lines if line and not line.startswith("#")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three photographs, each several times side by side: enough sharp patches; and a list of two."""
    for name in PHOTOGRAPHS:
        whole = np.tile(np.asarray(photograph(name)), (1, 8, 1))
        Image.fromarray(whole).save(tmp_path / f"{name}.png", compress_level=1)
    (tmp_path / "names.txt").write_text("# two of three\nastronaut\ncoffee\n")
    return tmp_path


def run(folder: Path, longest_side: int) -> None:
    wanted = {"--photographs": folder, "--names": folder / "names.txt", "--longest-side": longest_side}
    module.main([str(word) for pair in [*wanted.items(), ("--out", folder / "out.npz")] for word in pair])


@pytest.mark.slow
def test_the_command_fits_the_named_photographs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(folder, 10_000)
    stored = Pristine.read(folder / "out.npz")
    expected = fit([tensor(Image.open(folder / f"{name}.png")) for name in stored.names], stored.names)
    assert stored.names == ("astronaut", "coffee")
    assert f"{stored.patches} sharp patches of 2 photographs" in capsys.readouterr().out
    assert stored.patches == expected.patches > FEATURES
    assert torch.equal(stored.mean, expected.mean)
    assert torch.equal(stored.covariance, expected.covariance)


def test_the_command_refuses_what_is_too_little(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(folder, 400)
    assert "sharp patches are too few" in capsys.readouterr().err
    (folder / "names.txt").write_text("nowhere\n")
    with pytest.raises(SystemExit):
        run(folder, 400)
    assert "no photographs found" in capsys.readouterr().err


def test_nine_patches_are_enough() -> None:
    picture = tensor(photograph("astronaut"))[:, : 3 * PATCH, : 3 * PATCH]
    assert FEWEST_PATCHES == 9
    assert niqe(picture) is not None


def test_frames_together_are_judged_by_all_their_patches() -> None:
    """Two halves of a picture, each too small alone, are as good as the whole."""
    picture = tensor(photograph("astronaut"))[:, : 4 * PATCH, : 4 * PATCH]
    halves = [patch_features(half) for half in (picture[:, : 2 * PATCH], picture[:, 2 * PATCH :])]
    assert distance(halves[0]) is None
    assert distance(torch.cat(halves)) == pytest.approx(niqe(picture), rel=0.1)
