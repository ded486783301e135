"""Models that go, or are exchanged, while the real daemon works with them."""

from __future__ import annotations

import os
import shutil
import signal
from contextlib import suppress
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.support.command import wait_until
from tests.support.daemons import Site, film, picture, stop

pytestmark = pytest.mark.slow  # starts processes, or computes for long


@pytest.fixture
def site(tmp_path: Path, tiny_model_dir: Path) -> Site:
    """A site whose model lies in a folder of its own."""
    shutil.copytree(tiny_model_dir, tmp_path / "model")
    return Site.make(tmp_path / "site", model=str(tmp_path / "model"), tile=64)


def drop_pictures(site: Site, *seeds: int) -> None:
    for seed in seeds:
        site.drop(picture(site.path / "a.png", seed=seed), f"{seed}.png")


def wait_for_all(site: Site, count: int) -> None:
    wait_until(lambda: [row.state for row in site.jobs()] == ["done"] * count, "all are done")


def held(site: Site) -> str:
    return str((site.status()["daemon"] or {}).get("held"))


def change_weights(model: Path) -> None:
    """Other numbers in the same files."""
    path = model / "unet" / "diffusion_pytorch_model.safetensors"
    changed = {name: tensor * 1.5 for name, tensor in load_file(path).items()}
    save_file(changed, path.with_suffix(".part"), {"format": "pt"})
    path.with_suffix(".part").replace(path)


def test_while_a_model_is_away_work_waits(site: Site, tmp_path: Path) -> None:
    model, away = tmp_path / "model", tmp_path / "away"
    with site.daemon() as process:
        drop_pictures(site, 1)
        wait_for_all(site, 1)
        model.rename(away)
        drop_pictures(site, 2, 3, 4)
        wait_until(lambda: "model" in held(site), "it is held")
        away.rename(model)
        wait_for_all(site, 4)
        assert stop(process) == 0
    assert {row.attempts for row in site.jobs()} == {1}, "none was lost"


def test_a_film_is_of_one_model_although_it_was_exchanged_meanwhile(site: Site, tmp_path: Path) -> None:
    site.drop(film(tmp_path / "film.mp4"))
    with site.daemon() as process:
        wait_until(lambda: len(site.chunks()) >= 1, "a finished chunk")
        change_weights(tmp_path / "model")
        for pid in site.workers():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        site.wait_for("film.mp4", "done")
        mixed = (site.outbox / "film.mp4").read_bytes()
        site.drop(tmp_path / "film.mp4", "again.mp4")
        site.wait_for("again.mp4", "done")
        assert stop(process) == 0
    assert "was changed since the job was planned" in site.log
    assert mixed == (site.outbox / "again.mp4").read_bytes(), "all of it is of the new model"
