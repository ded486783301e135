"""The commands beside `process`: what they print, and how they end."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from invsr_daemon.errors import ConfigError
from invsr_daemon.settings.reading import load
from invsr_daemon.settings.settings import MOST_STEPS
from invsr_daemon.timesteps import LARGEST_START
from tests.support.command import Home

pytestmark = pytest.mark.slow  # starts processes, or computes for long


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_known_models_are_listed_with_their_licences(home: Home) -> None:
    finished = home.run("models", "list")
    assert finished.code == 0
    default, turbo = finished.out.splitlines()
    assert default.split()[:2] == ["default", "installed"]
    assert "Apache-2.0" in default
    assert "not installed" in turbo
    assert "S-Lab" in turbo


def test_the_embedded_model_has_a_path_and_verifies(home: Home) -> None:
    path = Path(home.run("models", "path", "default").out.strip())
    assert (path / "vae" / "config.json").is_file()
    finished = home.run("models", "verify", "default")
    assert (finished.code, finished.err) == (0, "")


def test_a_model_that_is_not_there_is_said_in_one_line(home: Home) -> None:
    for verb, code in (("path", 2), ("verify", 1)):
        finished = home.run("models", verb, "sd-turbo", "-c", _models_in(home.path))
        assert finished.code == code
        (line,) = finished.err.splitlines()
        assert "sd-turbo" in line


def test_a_hub_out_of_reach_is_said_in_one_line(home: Home) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
    finished = home.run("models", "pull", "sd-turbo", "--endpoint", endpoint, "-c", _models_in(home.path))
    assert finished.code == 1
    assert endpoint in finished.err
    assert "Traceback" not in finished.err


def _models_in(folder: Path) -> Path:
    path = folder / "config.yaml"
    path.write_text(f"models_dir: {folder / 'models'}\n")
    return path


def test_a_file_of_settings_is_checked(home: Home) -> None:
    path = home.path / "config.yaml"
    path.write_text("scale: 2\n")
    for arguments in ((path,), ("-c", path)):
        assert home.run("config", "check", *arguments).out == f"{path} is right\n"
    assert home.run("config", "check").code == 2
    path.write_text(
        "{model: nope, results: {owner: nobodyhere}, devices: gpu7, video: {codec: nope, crf: 99},"
        f" presets: {{a: {{scale: 9, workers: 2}}, b: {{model: {home.path}, video: {{codec: none-such}}}}}}}}"
    )
    finished = home.run("config", "check", path)
    assert finished.code == 2
    lines = [line.removeprefix(f"invsr-daemon: {path}: ") for line in finished.err.splitlines()]
    assert [line.partition(": ")[0] for line in lines] == [
        "devices",
        "video.crf",
        "presets.a.workers",
        "presets.a.scale",
        "model",
        "results.owner",
        "presets.b.model",
        "video.codec",
        "presets.b.video.codec",
    ]


@pytest.mark.parametrize("name", ["path", "pull", "verify"])
def test_a_model_that_nobody_knows_is_wrong_usage(home: Home, name: str) -> None:
    finished = home.run("models", name, "nope")
    assert finished.code == 2
    assert "'nope'" in finished.err


def test_help_tells_the_ranges_that_hold(home: Home) -> None:
    told = " ".join(home.run("process", "--help").out.split())
    assert f"denoising steps, 1 to {MOST_STEPS}:" in told
    assert f"from {LARGEST_START} down" in told
    for name, words in (("scale", "1 to 4 times"), ("tile", "16 to 4096")):
        low, high = re.findall(r"\d+", words)
        for value in (low, high):
            load(None, {name: value})
        for value in (float(low) - 1, float(high) + 1):
            with pytest.raises(ConfigError):
                load(None, {name: value})
        assert words in told


@pytest.mark.parametrize("arguments", [(), ("nonsense",), ("process",), ("models", "pull")])
def test_wrong_usage_has_exit_code_2(home: Home, arguments: tuple[str, ...]) -> None:
    finished = home.run(*arguments)
    assert finished.code == 2
    assert "Usage:" in finished.out + finished.err


def test_the_version_is_the_packages(home: Home) -> None:
    from invsr_daemon import __version__

    assert __version__ in home.run("--version").out
