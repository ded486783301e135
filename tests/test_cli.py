"""The commands beside `process`: what they print, and how they end."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from .command import Home


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
    for verb in ("path", "verify"):
        finished = home.run("models", verb, "sd-turbo", "-c", _models_in(home.path))
        assert finished.code == 1
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


@pytest.mark.parametrize("arguments", [(), ("nonsense",), ("process",), ("models", "pull")])
def test_wrong_usage_has_exit_code_2(home: Home, arguments: tuple[str, ...]) -> None:
    finished = home.run(*arguments)
    assert finished.code == 2
    assert "Usage:" in finished.out + finished.err


def test_the_version_is_the_packages(home: Home) -> None:
    from invsr_daemon import __version__

    assert __version__ in home.run("--version").out
