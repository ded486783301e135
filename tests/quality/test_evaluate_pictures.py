"""`invsr-daemon evaluate` on small pieces of photographs, with filters and the tiny model."""

from __future__ import annotations

import io
import json
import shutil
import socket
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from skimage import data
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio

from invsr_daemon import hub
from invsr_daemon.cli.main import main
from invsr_daemon.errors import ConfigError
from invsr_daemon.quality.metrics.optional import _offline, optional_metrics
from invsr_daemon.quality.picture_methods import MethodSpec, parse_methods
from invsr_daemon.quality.sheet import CELL, sheet_size
from invsr_daemon.settings.settings import Settings

SIZE = (132, 100)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two photographs of 135x101, and things that are neither photograph nor film."""
    photographs = tmp_path / "sharp"
    photographs.mkdir()
    for name, left in (("astronaut", 180), ("chelsea", 100)):
        Image.fromarray(getattr(data, name)()[60:161, left : left + 135]).save(photographs / f"{name}.png")
    (photographs / "notes.txt").write_text("not a picture")
    (photographs / ".hidden.png").write_bytes(b"")
    return photographs


@pytest.fixture
def model(tmp_path: Path, tiny_model_dir: Path) -> Path:
    return Path(shutil.copytree(tiny_model_dir, tmp_path / "tiny"))


def run(*words: object) -> Result:
    return CliRunner().invoke(main, ["evaluate", *map(str, words)])


def measured(*words: object, into: Path) -> dict[str, Any]:
    result = run(*words, "--json", into)
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(into.read_text(encoding="utf-8"))
    return found


def numbers(report: dict[str, Any]) -> dict[str, Any]:
    """Every picture's metrics by its name, without times."""
    return {
        picture["name"]: {
            label: {name: value for name, value in result.items() if name != "seconds"}
            for label, result in picture["results"].items()
        }
        for picture in report["pictures"]
    }


def error_line(result: Result) -> str:
    """The single line on stderr of a command that was refused as a wrong option."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    return str(line)


def test_table_json_and_sheet(folder: Path, model: Path, tmp_path: Path) -> None:
    spec = f"{model}:tile=32:timesteps=200,100:color=none"
    sheet, out = tmp_path / "sheet.png", tmp_path / "out.json"
    result = run(folder, "--methods", f"bicubic,{spec}", "--seed", 7, "--json", out, "--sheet", sheet)
    assert result.exit_code == 0, result.output

    report = json.loads(out.read_text())
    assert report["settings"] == {
        "degradation": "bicubic",
        "seed": 7,
        "device": "cpu",
        "limit": None,
        "crop": None,
        "frames": 4,
        "guidance_scale": 1.0,
        "scale": 4,
        "border": 4,
    }
    assert report["versions"]["torch"] == torch.__version__
    bicubic, tiny = report["methods"]
    assert bicubic.keys() == {"label", "name", "fingerprint", "mean"}
    assert tiny["fingerprint"] == hub.fingerprint(model)
    assert (tiny["timesteps"], tiny["color_fix"], tiny["tile"]) == ([200, 100], "none", 32)
    assert [picture["name"] for picture in report["pictures"]] == ["astronaut.png", "chelsea.png"]
    assert all(picture["size"] == list(SIZE) for picture in report["pictures"])
    for method in report["methods"]:
        each = [picture["results"][method["label"]] for picture in report["pictures"]]
        for name in ("PSNR", "SSIM"):
            assert method["mean"][name] == pytest.approx(np.mean([one[name] for one in each]))
        pixels = 2 * SIZE[0] * SIZE[1] / 1e6
        assert method["mean"]["s/MPix"] == pytest.approx(sum(one["seconds"] for one in each) / pixels)
        assert method["mean"]["NIQE"] is None

    heading, names, first, second, truth, *notes = result.stdout.splitlines()
    assert heading == "2 pictures; degradation bicubic; seed 7; cpu"
    assert names.split() == ["method", "PSNR", "SSIM", "NIQE", "s/MPix"]
    assert first.split()[:4] == [
        "bicubic",
        f"{bicubic['mean']['PSNR']:.2f}",
        f"{bicubic['mean']['SSIM']:.4f}",
        "-",
    ]
    assert second.startswith(spec)
    assert truth.split() == ["truth", "-", "-", "-", "-"]
    assert len({len(line) for line in (names, first, second, truth)}) == 1
    assert notes[0] == "NIQE: no value for 4 of 4 results (fewer than 9 patches of 96x96 pixels)"
    assert {note.split()[0] for note in notes[1:]} == set(report["not_available"])
    assert [line.split(":")[0] for line in result.stderr.splitlines()] == ["astronaut.png", "chelsea.png"]

    with Image.open(sheet) as picture:
        assert picture.size == sheet_size(rows=2, columns=4)
        assert picture.format == "PNG"


def test_bicubic_is_what_it_says(folder: Path, tmp_path: Path) -> None:
    """The whole way of one number, gone again with Pillow and scikit-image."""
    report = measured(folder, "--methods", "bicubic", into=tmp_path / "out.json")
    truth = Image.open(folder / "astronaut.png").crop((1, 0, 133, 100))
    small = truth.resize((33, 25), Image.Resampling.BICUBIC)
    result = small.resize(SIZE, Image.Resampling.BICUBIC)
    lumas = [rgb2ycbcr(np.asarray(picture))[4:-4, 4:-4, 0] for picture in (truth, result)]
    expected = peak_signal_noise_ratio(*lumas, data_range=255)
    # Pillow and torch round the reduction a little differently.
    assert numbers(report)["astronaut.png"]["bicubic"]["PSNR"] == pytest.approx(expected, abs=0.02)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_numbers_in_any_order(folder: Path, model: Path, tmp_path: Path) -> None:
    methods = ("--methods", f"bicubic,{model}:tile=32", "--degradation", "realistic")
    files = [folder / "astronaut.png", folder / "chelsea.png"]
    first = numbers(measured(folder, *methods, "--seed", 3, into=tmp_path / "1.json"))
    assert numbers(measured(*reversed(files), *methods, "--seed", 3, into=tmp_path / "2.json")) == first
    alone = numbers(measured(files[1], *methods, "--seed", 3, into=tmp_path / "3.json"))
    assert alone == {"chelsea.png": first["chelsea.png"]}
    other = numbers(measured(folder, *methods, "--seed", 4, into=tmp_path / "4.json"))
    assert all(other[name]["bicubic"] != first[name]["bicubic"] for name in first)


def test_poor_pictures_have_no_truth(folder: Path, tmp_path: Path) -> None:
    options = ("--degradation", "none", "--methods", "bicubic,lanczos", "--sheet", tmp_path / "sheet.png")
    report = measured(folder, *options, into=tmp_path / "out.json")
    first = report["pictures"][0]
    assert first["size"] == [4 * 135, 4 * 101]
    assert first["results"]["bicubic"].keys() == {"NIQE", "seconds"}
    assert first["results"]["bicubic"]["NIQE"] > 0
    assert first["truth"] == {}
    with Image.open(tmp_path / "sheet.png") as picture:
        assert picture.size == sheet_size(rows=2, columns=3)


def test_limit_and_crop(folder: Path, tmp_path: Path) -> None:
    options = ("--methods", "bicubic", "--limit", 1, "--crop", 66)
    report = measured(folder, *options, into=tmp_path / "out.json")
    assert [(picture["name"], picture["size"]) for picture in report["pictures"]] == [
        ("astronaut.png", [64, 64])
    ]


def test_the_first_frames_of_a_film(tmp_path: Path) -> None:
    film = tmp_path / "film.mkv"
    with av.open(film, "w") as container:
        stream = container.add_stream("ffv1", rate=Fraction(25))
        stream.width, stream.height, stream.pix_fmt = 64, 48, "bgr0"
        for number in range(5):
            pixels = data.coffee()[100:148, 100 + 8 * number : 164 + 8 * number]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24")))
        container.mux(stream.encode())
    report = measured(film, "--methods", "bicubic", "--frames", 2, into=tmp_path / "out.json")
    assert [picture["name"] for picture in report["pictures"]] == ["film.mkv#0", "film.mkv#1"]
    still = tmp_path / "still.png"
    Image.fromarray(data.coffee()[100:148, 108:172]).save(still)
    alone = measured(still, "--methods", "bicubic", into=tmp_path / "still.json")
    expected = numbers(alone)["still.png"]["bicubic"]["PSNR"]
    assert numbers(report)["film.mkv#1"]["bicubic"]["PSNR"] == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--degradation", "rain"), "must be one of bicubic, blur, noise, realistic, none"),
        (("--methods", "foo"), "no model 'foo'"),
        (("--methods", "default:speed=9"), "there is no option 'speed'"),
        (("--methods", "default:steps=many"), "whole numbers are expected"),
        (("--methods", "default:start=2000"), "must descend strictly within 1000..1"),
        (("--methods", "default:timesteps=100,200"), "must descend strictly"),
        (("--methods", "default:timesteps=200:steps=2"), "timesteps excludes"),
        (("--methods", "default:color=blue"), "color must be one of"),
        (("--methods", "default:tile=33"), "tile must be a multiple"),
        (("--methods", "bicubic:steps=1"), "bicubic has no options"),
        (("--methods", "bicubic,lanczos,bicubic"), "given twice"),
        (("--methods", ","), "no method was given"),
        (("--limit", "0"), "--limit must be at least 1"),
        (("--device", "abacus"), "torch knows no such device"),
        (("--json", "nowhere/out.json"), "there is no folder"),
        (("--seed", "-1"), "seed"),
    ],
)
def test_wrong_options_are_one_line(folder: Path, options: tuple[str, ...], message: str) -> None:
    assert message in error_line(run(folder, *options))


def test_an_empty_folder_is_one_line(tmp_path: Path) -> None:
    assert "there is no film or picture in" in error_line(run(tmp_path))


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "empty"), (b"text", "not a film or picture"), (None, "too few")]
)
def test_a_bad_file_is_named_in_one_line(tmp_path: Path, content: bytes | None, message: str) -> None:
    file = tmp_path / "bad.png"
    if content is None:
        Image.new("RGB", (40, 28)).save(file)
    else:
        file.write_bytes(content)
    result = run(file, "--methods", "bicubic")
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert str(file) in line
    assert message in line


def test_equal_pictures_have_no_psnr_and_json_no_infinity(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "black.png")
    report = measured(tmp_path / "black.png", "--methods", "bicubic", into=tmp_path / "out.json")
    assert report["methods"][0]["mean"]["PSNR"] is None
    assert report["methods"][0]["mean"]["SSIM"] == pytest.approx(1)


def test_the_grammar_of_methods() -> None:
    settings = Settings(color_fix="ycbcr", steps=2, tile=64)
    text = (
        "bicubic, lanczos,default:timesteps=200,100,50:tile=32,./my.model:steps=3:color=none,"
        "m:start=150,n:start=200:steps=2"
    )
    assert parse_methods(text, settings) == (
        MethodSpec("bicubic", "bicubic"),
        MethodSpec("lanczos", "lanczos"),
        MethodSpec("default:timesteps=200,100,50:tile=32", "default", (200, 100, 50), "ycbcr", 32),
        MethodSpec("./my.model:steps=3:color=none", "./my.model", (200, 100, 50), "none", 64),
        MethodSpec("m:start=150", "m", (150,), "ycbcr", 64),
        MethodSpec("n:start=200:steps=2", "n", (200, 100), "ycbcr", 64),
    )
    assert parse_methods("default", settings)[0].timesteps == (200, 100)


def test_a_known_model_that_was_not_pulled_is_explained(tmp_path: Path, folder: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f"models_dir: {tmp_path}\n")
    assert "models pull sd-turbo" in error_line(run(folder, "-c", config, "--methods", "sd-turbo"))
    with pytest.raises(ConfigError, match="there is no option"):
        parse_methods("sd-turbo:stpes=1", Settings())


def test_optional_metrics_are_offered_or_explained() -> None:
    offer = optional_metrics(torch.device("cpu"))
    names = {metric.name for metric in offer.available} | offer.missing.keys()
    assert names == {"LPIPS", "CLIP-IQA", "MUSIQ"}
    assert not {metric.name for metric in offer.available} & offer.missing.keys()


def test_nothing_is_downloaded_for_them() -> None:
    with _offline(), pytest.raises(OSError, match="not on this machine"):
        socket.create_connection(("localhost", 9))
    assert socket.getaddrinfo("127.0.0.1", 9)


def test_the_sheet_shows_the_busiest_piece(tmp_path: Path) -> None:
    """Detail in one corner of a grey picture: that corner is in the last cell, the truth."""
    pixels = np.full((2 * CELL, 3 * CELL, 3), 128, np.uint8)
    pixels[CELL:, 2 * CELL :] = np.random.default_rng(0).integers(0, 256, (CELL, CELL, 3))
    Image.fromarray(pixels).save(tmp_path / "corner.png")
    result = run(tmp_path / "corner.png", "--methods", "bicubic", "--sheet", tmp_path / "sheet.png")
    assert result.exit_code == 0, result.output
    shown = np.asarray(Image.open(io.BytesIO((tmp_path / "sheet.png").read_bytes())))
    left = sheet_size(rows=1, columns=2)[0]
    top = sheet_size(rows=0, columns=1)[1]
    np.testing.assert_array_equal(shown[top : top + CELL, left : left + CELL], pixels[CELL:, 2 * CELL :])
