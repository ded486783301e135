"""TIFFs that Pillow cuts or misreads come out as they are, or are refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from invsr_daemon.errors import InputError
from invsr_daemon.media.image import Picture, probe_image, read_image
from invsr_daemon.media.image_writing import write_image
from invsr_daemon.records import ImageInfo, ImageSettings
from tests.support.inks import inks_profile

NOISE = np.random.default_rng(0)
RGB16 = NOISE.integers(0, 65536, (48, 64, 3)).astype(np.uint16)
GREY16 = RGB16[..., 0]
RGB8 = (RGB16 >> 8).astype(np.uint8)
BEHIND = (np.arange(48 * 64, dtype=np.uint16) + 9000).reshape(48, 64, 1)


def probed(path: Path) -> ImageInfo:
    found = probe_image(path, 10**6)
    assert found is not None
    return found


def written(path: Path, samples: NDArray[Any], **how: Any) -> Picture:
    tifffile.imwrite(path, samples, **how)
    return read_image(probed(path))


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"tile": (16, 16)},
        {"tile": (16, 32), "compression": "adobe_deflate", "predictor": True},
        {"rowsperstrip": 7, "compression": "lzw", "predictor": True},
        {"compression": "packbits"},
        {"byteorder": ">"},
        {"bigtiff": True},
    ],
    ids=str,
)
def test_sixteen_bits_come_out_as_they_are(tmp_path: Path, how: dict[str, Any]) -> None:
    assert np.array_equal(written(tmp_path / "a.tif", RGB16, photometric="rgb", **how).pixels, RGB16)
    grey = written(tmp_path / "b.tif", GREY16, **how)
    assert grey.grey
    assert np.array_equal(grey.pixels, np.dstack([GREY16] * 3))


def test_so_do_planes_one_for_each_channel(tmp_path: Path) -> None:
    planes = np.moveaxis(RGB16, -1, 0)
    read = written(tmp_path / "a.tif", planes, photometric="rgb", planarconfig="separate")
    assert np.array_equal(read.pixels, RGB16)


def test_bigtiff_of_8_bits(tmp_path: Path) -> None:
    read = written(tmp_path / "a.tif", RGB8, photometric="rgb", bigtiff=True, description="a spring")
    assert np.array_equal(read.pixels, RGB8)
    assert read.extras.exif is not None
    assert b"a spring" in read.extras.exif


def test_where_white_is_zero_greys_are_turned(tmp_path: Path) -> None:
    read = written(tmp_path / "a.tif", GREY16, photometric="miniswhite")
    assert np.array_equal(read.pixels[..., 0], 65535 - GREY16)


def test_twelve_bits_are_spread_over_sixteen(tmp_path: Path) -> None:
    top = (1 << 12) - 1
    samples = np.linspace(0, top, 48 * 64).round().astype(np.uint16).reshape(48, 64)
    read = written(tmp_path / "a.tif", samples, bitspersample=12)
    assert (read.pixels[0, 0, 0], read.pixels[-1, -1, 0]) == (0, 65535)
    assert np.abs(read.pixels[..., 0] / 65535 - samples / top).max() < 1e-5


def test_a_fourth_channel_that_is_not_transparency_is_left_out(tmp_path: Path) -> None:
    """As scanners have it for infrared."""
    read = written(tmp_path / "a.tif", np.dstack([RGB16, BEHIND]), photometric="rgb", extrasamples=[0])
    assert np.array_equal(read.pixels, RGB16)
    assert read.alpha is None
    (note,) = probed(tmp_path / "a.tif").notes
    assert note == "left out: 1 further channel (neither colour nor transparency)"


def test_transparency_stays(tmp_path: Path) -> None:
    samples = np.dstack([RGB16, BEHIND])
    read = written(tmp_path / "a.tif", samples, photometric="rgb", extrasamples=["unassalpha"])
    assert read.alpha is not None
    assert np.array_equal(np.dstack([read.pixels, read.alpha]), samples)
    assert ("alpha", 0) in probed(tmp_path / "a.tif").held


def test_colours_that_were_multiplied_with_transparency_are_so_no_longer(tmp_path: Path) -> None:
    alpha = np.full((48, 64, 1), 32768, np.uint16)
    multiplied = np.dstack([(RGB16.astype(np.uint64) * 32768 // 65535).astype(np.uint16), alpha])
    read = written(tmp_path / "a.tif", multiplied, photometric="rgb", extrasamples=["assocalpha"])
    assert np.abs(read.pixels.astype(int) - RGB16).max() <= 2


@pytest.mark.parametrize("deep", [False, True])
def test_inks_are_converted_by_their_profile(tmp_path: Path, deep: bool) -> None:
    """Full cyan is no light of screens: without a profile it would be (0, 255, 255)."""
    inks = np.zeros((48, 64, 4), np.uint16 if deep else np.uint8)
    inks[..., 0] = np.iinfo(inks.dtype).max
    read = written(tmp_path / "a.tif", inks, photometric="separated", iccprofile=inks_profile())
    assert read.pixels.dtype == np.uint8
    red, green, blue = read.pixels[0, 0]
    assert red < 40
    assert 120 < green < 170
    assert 190 < blue < 240
    notes = probed(tmp_path / "a.tif").notes
    assert "its colours are converted from CMYK to sRGB by its ICC profile" in notes
    assert any("cut to 8" in note for note in notes) == deep


def test_so_are_those_of_a_jpeg(tmp_path: Path) -> None:
    cyan = Image.new("CMYK", (64, 48), (255, 0, 0, 0))
    cyan.save(tmp_path / "a.jpg", quality=95, icc_profile=inks_profile())
    assert read_image(probed(tmp_path / "a.jpg")).pixels[0, 0, 1] < 170


def test_smaller_copies_are_left_out(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(RGB8, photometric="rgb")
        tiff.write(RGB8[::2, ::2], photometric="rgb", subfiletype=1)
        tiff.write(RGB8[::4, ::4], photometric="rgb")
    found = probed(tmp_path / "a.tif")
    assert found.notes == ("left out: 2 smaller pages",)
    assert np.array_equal(read_image(found).pixels, RGB8)


@pytest.mark.parametrize("samples", [RGB8, RGB16], ids=["8", "16"])
def test_a_thumbnail_in_front_is_not_taken_for_the_picture(tmp_path: Path, samples: NDArray[Any]) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(samples[::3, ::3], photometric="rgb", subfiletype=1)
        tiff.write(samples, photometric="rgb")
    found = probed(tmp_path / "a.tif")
    assert (found.width, found.height) == (64, 48)
    assert np.array_equal(read_image(found).pixels, samples)


@pytest.mark.parametrize(
    ("samples", "how", "said"),
    [
        (GREY16.astype(np.float32), {}, "32 bits per channel"),
        (GREY16.astype(np.int16), {}, "no whole numbers"),
        (np.stack([RGB16, RGB16]), {"photometric": "rgb"}, "several pages"),
    ],
    ids=["float32", "int16", "pages"],
)
def test_what_is_not_read_is_refused_by_name(
    tmp_path: Path, samples: NDArray[Any], how: dict[str, Any], said: str
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", samples, **how)
    with pytest.raises(InputError, match=said):
        probe_image(tmp_path / "a.tif", 10**6)


def test_other_readers_see_what_was_written(tmp_path: Path) -> None:
    read = written(tmp_path / "a.tif", RGB16, photometric="rgb", tile=(16, 16), compression="lzw")
    write_image(read, "TIFF", ImageSettings("same", 95), tmp_path / "b.tif")
    assert np.array_equal(tifffile.imread(tmp_path / "b.tif"), RGB16)
