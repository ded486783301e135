"""Files that cost more to read than they are worth: holes, padding, promises of millions of frames."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from invsr_daemon.errors import InputError
from invsr_daemon.files.inputs import opened
from invsr_daemon.files.publishing import PublishPolicy
from invsr_daemon.media import sizes
from invsr_daemon.media.image import probe_image
from invsr_daemon.media.probe import probe_video
from invsr_daemon.media.sizes import SPARSE_SIZE, Silence, check_file
from invsr_daemon.media.source import OpenFile
from invsr_daemon.settings.settings import Settings
from invsr_daemon.wire.plans import Job, Plan, Target
from invsr_daemon.workers.media import plan_job
from tests.support.mediafiles import make_film

HOLE = 2**40


def planned(path: Path, **limits: Any) -> Plan:
    settings = Settings.model_validate({"state_dir": path.parent / "state", "limits": limits})
    target, model = Target(path.parent / "out", path.stem), settings.model_settings(Path("/model"))
    job = Job(path, target, settings, model, "name", PublishPolicy())
    with opened(path) as descriptor:
        return plan_job(job, OpenFile(path, descriptor))


def picture(path: Path) -> Path:
    Image.fromarray(np.zeros((24, 32, 3), np.uint8)).save(path)
    return path


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.avif", "a.gif", "a.jp2", "a.mp4", "a.mkv", "a.ts"])
def test_a_file_followed_by_a_hole_is_refused_by_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if path.suffix in (".mp4", ".mkv", ".ts"):
        make_film(path)
    else:
        picture(path)
    os.truncate(path, HOLE)
    with pytest.raises(InputError, match="it is sparse"):
        planned(path)


def test_a_small_hole_does_no_harm(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png")
    os.truncate(path, SPARSE_SIZE - 1)
    assert planned(path).frames == 1


def test_a_file_that_is_all_there_is_not_sparse(tmp_path: Path) -> None:
    path = tmp_path / "zeros"
    path.write_bytes(bytes(2 * SPARSE_SIZE))
    with path.open("rb") as file:
        check_file(file.fileno(), 2**40)


def test_the_size_of_an_input_is_limited(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"limits\.max_input_size"):
        planned(path, max_input_size=path.stat().st_size - 1)
    assert planned(path, max_input_size=path.stat().st_size).frames == 1


def test_frames_and_duration_of_a_film_are_limited(tmp_path: Path) -> None:
    make_film(tmp_path / "a.mp4", pts=range(0, 400, 40))
    assert planned(tmp_path / "a.mp4", max_frames=10, max_duration=15).frames == 10
    with pytest.raises(InputError, match=r"limits\.max_frames"):
        planned(tmp_path / "a.mp4", max_frames=9)
    with pytest.raises(InputError, match=r"limits\.max_duration"):
        planned(tmp_path / "a.mp4", max_duration=10)


def test_a_film_that_does_not_say_how_long_it_is_is_limited_too(tmp_path: Path) -> None:
    make_film(tmp_path / "a.h264", pts=range(10))
    with pytest.raises(InputError, match=r"limits\.max_frames"):
        planned(tmp_path / "a.h264", max_frames=9)


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.avif", "a.jp2", "a.tif", "a.bmp"])
def test_a_padded_picture_is_refused(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "EXTRA_BYTES", 4096)
    path = picture(tmp_path / name)
    info = probe_image(path, 10**6)
    assert info is not None
    with path.open("ab") as file:
        file.write(bytes(24 * 32 * sizes.PIXEL_BYTES + 4096))
    with pytest.raises(InputError, match="far more than a picture of 32x24"):
        probe_image(path, 10**6)
    if path.suffix != ".avif":  # which may be a film
        with pytest.raises(InputError, match="can need"):
            probe_image(path, 24 * 32 - 1)


def test_bytes_without_a_new_frame_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_film(tmp_path / "a.mpg", codec="mpeg1video", pts=range(10))
    with (tmp_path / "a.mpg").open("ab") as film:
        film.write(bytes(4 * 2**20))
    assert len(probe_video(tmp_path / "a.mpg", 10**6).pts) == 10
    monkeypatch.setattr(Silence.__init__, "__defaults__", (2**20,))
    with pytest.raises(InputError, match="1 MiB of it were read without finding another frame"):
        probe_video(tmp_path / "a.mpg", 10**6)
