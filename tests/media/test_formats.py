"""Formats that are only read, names that tell another format, and files that are refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from invsr_daemon.errors import InputError
from invsr_daemon.files.inputs import opened
from invsr_daemon.files.publishing import PublishPolicy
from invsr_daemon.media.image import Picture, probe_image, read_image
from invsr_daemon.media.image_writing import write_image
from invsr_daemon.media.probe import probe_video
from invsr_daemon.media.source import OpenFile
from invsr_daemon.records import ImageSettings, ImageTask
from invsr_daemon.settings.settings import Settings
from invsr_daemon.wire.plans import Job, Plan, Target
from invsr_daemon.workers.media import plan_job
from tests.support.mediafiles import make_film

MANY_PIXELS = 10**6
NOISE = np.random.default_rng(0)
RGB8 = NOISE.integers(0, 256, (40, 56, 3)).astype(np.uint8)
RGB16 = NOISE.integers(0, 65536, (40, 56, 3)).astype(np.uint16)


def planned(path: Path, **settings: Any) -> Plan:
    whole = Settings(state_dir=path.parent / "state", **settings)
    model = whole.model_settings(Path("/model"), "fingerprint")
    policy = PublishPolicy("fail", None, None)
    job = Job(path, Target(path.parent / "out", path.stem), whole, model, "name", policy)
    with opened(path) as source:
        return plan_job(job, OpenFile(path, source))


def read(path: Path) -> Picture:
    info = probe_image(path, MANY_PIXELS)
    assert info is not None
    return read_image(info)


@pytest.mark.parametrize("name", ["a.avif", "a.gif", "a.jp2", "a.ppm", "a.tga"])
def test_a_picture_that_cannot_be_written_becomes_a_png(tmp_path: Path, name: str) -> None:
    image = Image.fromarray(RGB8)
    image.save(tmp_path / name)
    plan = planned(tmp_path / name)
    (task,) = plan.tasks
    assert isinstance(task, ImageTask), "not a film of one frame"
    assert plan.output.name == "a.png"
    assert task.output.name == "image.png"
    with Image.open(tmp_path / name) as again:
        assert np.array_equal(read(tmp_path / name).pixels, np.asarray(again.convert("RGB")))


@pytest.mark.parametrize("name", ["a.avif", "a.gif"])
def test_one_that_moves_is_a_film(tmp_path: Path, name: str) -> None:
    Image.fromarray(RGB8).save(tmp_path / name, save_all=True, append_images=[Image.fromarray(RGB8[::-1])])
    plan = planned(tmp_path / name)
    assert plan.film is not None
    assert plan.frames == 2
    assert plan.output.name == "a.mp4"


@pytest.mark.parametrize(("name", "grey"), [("a.ppm", False), ("a.pgm", True), ("a.jp2", True)])
def test_deep_ones_stay_deep(tmp_path: Path, name: str, grey: bool) -> None:
    path, pixels = tmp_path / name, RGB16[..., :1] if grey else RGB16
    if name == "a.jp2":
        Image.fromarray(pixels[..., 0]).save(path)
    else:
        path.write_bytes((b"P5" if grey else b"P6") + b" 56 40 65535\n" + pixels.astype(">u2").tobytes())
    picture = read(path)
    assert picture.grey == grey
    assert np.array_equal(picture.pixels, np.broadcast_to(pixels, RGB16.shape))


def test_a_film_is_no_targa(tmp_path: Path) -> None:
    """A Targa begins with nothing of its own; an MPEG stream may look like one."""
    make_film(tmp_path / "a.mpg", codec="mpeg1video", pts=range(4))
    data = bytearray((tmp_path / "a.mpg").read_bytes())
    data[16] = 24
    (tmp_path / "a.mpg").write_bytes(data)
    assert probe_image(tmp_path / "a.mpg", MANY_PIXELS) is None
    Image.fromarray(RGB8).save(tmp_path / "a.tga")
    (tmp_path / "a.tga").rename(tmp_path / "unnamed")
    assert np.array_equal(read(tmp_path / "unnamed").pixels, RGB8), "by its end"


@pytest.mark.parametrize(
    ("format", "name", "result"),
    [
        ("PNG", "wrong.mp4", "wrong.png"),
        ("PNG", "png.jpg", "png.png"),
        ("JPEG", "a.JPEG", "a.jpeg"),
        ("JPEG", "a.png", "a.jpg"),
        ("TIFF", "a.tiff", "a.tiff"),
        ("TIFF", "a.bmp", "a.tif"),
        ("WEBP", "none", "none.webp"),
        ("JPEG", "a.jpg.part", "a.jpg.jpg"),
    ],
)
def test_the_results_name_tells_its_format(tmp_path: Path, format: str, name: str, result: str) -> None:
    Image.fromarray(RGB8).save(tmp_path / name, format)
    assert planned(tmp_path / name).output.name == result


def test_a_film_under_a_pictures_name(tmp_path: Path) -> None:
    make_film(tmp_path / "a.mp4", pts=range(3))
    (tmp_path / "a.mp4").rename(tmp_path / "wrong.jpg")
    assert planned(tmp_path / "wrong.jpg").output.name == "wrong.mp4"


def test_what_a_picture_loses_is_in_its_plan(tmp_path: Path) -> None:
    Image.fromarray(RGB8).convert("RGBA").save(tmp_path / "a.png")
    plan = planned(tmp_path / "a.png", image={"format": "jpeg"})
    assert plan.notes == ("its transparency is left out: JPEG has no room for that",)


BEGINNINGS = {
    "DPX": b"SDPX\0\0\x20\0V2.0",
    "OpenEXR": b"\x76\x2f\x31\x01\x02\0\0\0channels",
    "Photoshop (PSD)": b"8BPS\0\x01",
    "SVG": b'<?xml version="1.0"?>\n<!-- made by hand -->\n<svg xmlns="http://www.w3.org/2000/svg">',
    "PDF": b"%PDF-1.7\n",
    "HEIC": b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic",
    "JPEG XL": b"\xff\x0a\xfa\x1f",
    "Radiance HDR": b"#?RADIANCE\n",
    "ZIP": b"PK\x03\x04",
}


@pytest.mark.parametrize("kind", BEGINNINGS)
def test_well_known_files_are_refused_by_name(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a.png").write_bytes(BEGINNINGS[kind] + bytes(1000))
    with pytest.raises(InputError) as caught:
        planned(tmp_path / "a.png")
    assert str(caught.value) == f"{kind} is not supported"


def test_a_tiff_of_floating_point_numbers(tmp_path: Path) -> None:
    write_image(Picture(RGB8), "TIFF", ImageSettings("same", 95), tmp_path / "a.tif")
    data = bytearray((tmp_path / "a.tif").read_bytes())
    bits = data.index((8).to_bytes(2, "little") * 3)
    data[bits : bits + 6] = (32).to_bytes(2, "little") * 3
    (tmp_path / "a.tif").write_bytes(data)
    assert probe_image(tmp_path / "a.tif", MANY_PIXELS) is None
    with pytest.raises(
        InputError, match=r"^the TIFF is damaged, or of a kind that is not supported \(such as 32"
    ):
        probe_video(tmp_path / "a.tif", MANY_PIXELS)


def test_a_deep_avif_is_cut_and_says_so(tmp_path: Path) -> None:
    options = {"svtav1-params": "avif=1"}
    make_film(
        tmp_path / "a.avif",
        codec="libsvtav1",
        pix_fmt="yuv420p10le",
        pts=[0],
        container="avif",
        options=options,
    )
    plan = planned(tmp_path / "a.avif")
    assert plan.film is None
    assert plan.notes == ("its 10 bits per channel are cut to 8",)
