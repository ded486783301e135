"""Which inputs a command line names, and where their results go."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from invsr_daemon.batch.targets import find_targets
from invsr_daemon.errors import ConfigError
from invsr_daemon.settings.reading import load


def placed(inputs: list[str], output: str | None = None, **options: str) -> dict[str, str]:
    """Each input with its result's path, without a suffix where the format decides it."""
    targets = find_targets([Path(each) for each in inputs], output, load(None, dict(options)))
    here = Path.cwd()
    return {str(path): str(target.path("").relative_to(here)) for path, target in targets.places.items()}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("t/a.png", "t/b.jpg", "t/f.avi", "t/f.mp4", "t/f.wmv", "u/a.png", "u/g.mkv", "u/g.mp4"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("output", "place"),
    [
        (None, "t/a_restored"),
        ("out/", "out/a"),
        ("out", "out/a"),
        ("out.v2", "out.v2/a"),
        ("out.v2/", "out.v2/a"),
        ("Dr. Who/", "Dr. Who/a"),
        ("out.png/", "out.png/a"),
        ("x.PNG", "x.PNG"),
        ("deep/er/x.mp4", "deep/er/x.mp4"),
        ("t", "t/a_restored"),
        ("t/", "t/a_restored"),
    ],
)
def test_a_slash_or_no_known_suffix_means_a_folder(output: str | None, place: str) -> None:
    assert placed(["t/a.png"], output) == {"t/a.png": place}


@pytest.mark.parametrize(
    ("inputs", "output", "said"),
    [
        (["t/a.png", "t/b.jpg"], "single.png", "-o single.png: several results need a folder (single.png/"),
        (["t"], "single.png", "-o single.png: several results need a folder"),
        (["t/a.png"], "t/b.jpg/", "-o t/b.jpg/: not a folder"),
        (["t"], "t", "-o t: results of a folder need another folder than its own"),
        (["t/a.png", "u/a.png"], "out", "t/a.png and u/a.png would both become"),
        (["t/a.png", "u"], "out", "t/a.png and u/a.png would both become"),
    ],
)
def test_what_cannot_be_is_refused(inputs: list[str], output: str, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        placed(inputs, output)


@pytest.mark.parametrize("inputs", [["t"], ["t/f.avi", "t/f.mp4", "t/f.wmv"]])
def test_films_of_one_folder_with_one_name_are_numbered(inputs: list[str]) -> None:
    films = {name: place for name, place in placed(inputs, "out").items() if "/f." in name}
    assert films == {"t/f.mp4": "out/f", "t/f.avi": "out/f (2)", "t/f.wmv": "out/f (3)"}


def test_what_keeps_its_suffix_is_not_numbered() -> None:
    assert placed(["u"], "out") == {"u/a.png": "out/a", "u/g.mkv": "out/g", "u/g.mp4": "out/g"}
    assert set(placed(["u"], "out", **{"video.container": "mkv"}).values()) == {"out/a", "out/g", "out/g (2)"}


def test_a_file_that_is_named_twice_is_done_once(folder: Path) -> None:
    assert list(placed(["t/a.png", str(folder / "t/a.png"), "t/a.png"], "out")) == ["t/a.png"]
