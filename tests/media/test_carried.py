"""What pictures of cameras, scanners and drawing programs hold comes along, or is named."""

from __future__ import annotations

import io
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from invsr_daemon.errors import InputError
from invsr_daemon.media.image import Picture, Pixels, probe_image, read_image
from invsr_daemon.media.image_writing import picture_losses, write_image
from invsr_daemon.records import ImageInfo, ImageSettings

NOISE = np.random.default_rng(0)
RGB8 = NOISE.integers(0, 256, (48, 64, 3)).astype(np.uint8)
RGB16 = NOISE.integers(0, 65536, (48, 64, 3)).astype(np.uint16)
SLOPE = np.broadcast_to(np.arange(64, dtype=np.uint8) * 3, (48, 64))
SMOOTH = np.ascontiguousarray(SLOPE[..., None].repeat(3, axis=2))
SAME = ImageSettings("same", 95)
# Two of IPTC's datasets: a headline and a keyword (IIM 4.2, section 1.5).
IPTC = b"\x1c\x02\x69\x00\x06Spring" + b"\x1c\x02\x19\x00\x05fjord"
HDR = (b"cICP", bytes((9, 16, 0, 1)))  # BT.2020, PQ
LINEAR = (b"gAMA", struct.pack(">I", 100_000))
PLAIN = (b"gAMA", struct.pack(">I", 45455))


def probed(path: Path) -> ImageInfo:
    found = probe_image(path, 10**6)
    assert found is not None
    return found


def jpeg(picture: Pixels, **options: object) -> bytes:
    written = io.BytesIO()
    Image.fromarray(picture).save(written, "JPEG", **{"quality": 90, **options})
    return written.getvalue()


def png(path: Path, *chunks: tuple[bytes, bytes]) -> Path:
    info = PngInfo()
    for kind, data in chunks:
        info.add(kind, data)
    Image.fromarray(RGB8).save(path, pnginfo=info)
    return path


def chunk(png: bytes, kind: bytes) -> bytes | None:
    at = png.find(kind)
    return None if at < 0 else png[at + 4 :][: int.from_bytes(png[at - 4 : at])]


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}], ids=str)
@pytest.mark.parametrize("picture", [RGB8, SMOOTH], ids=["noise", "smooth"])
def test_a_jpeg_that_lacks_its_end_marker_alone_is_whole(
    tmp_path: Path,
    picture: Pixels,
    options: dict[str, object],
) -> None:
    whole = jpeg(picture, **options)
    (tmp_path / "a.jpg").write_bytes(whole[:-2])
    with Image.open(io.BytesIO(whole)) as expected:
        assert np.array_equal(read_image(probed(tmp_path / "a.jpg")).pixels, np.asarray(expected))


@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=str)
@pytest.mark.parametrize("missing", [12, 40, 700])
def test_one_that_lacks_pixels_is_not(tmp_path: Path, missing: int, options: dict[str, object]) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg(RGB8, **options)[:-missing])
    with pytest.raises(InputError, match="truncated"):
        read_image(probed(tmp_path / "a.jpg"))


def test_of_several_pictures_in_a_camera_file_the_first_is_taken(tmp_path: Path) -> None:
    first, preview = Image.fromarray(RGB8), Image.fromarray(RGB8[::2, ::2])
    first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[preview], quality=95)
    found = probed(tmp_path / "a.jpg")
    assert (found.format, found.width, found.height) == ("JPEG", 64, 48)
    assert found.notes == ("left out: 1 further picture (previews, other views)",)
    with Image.open(io.BytesIO(jpeg(RGB8, quality=95))) as expected:
        assert np.array_equal(read_image(found).pixels, np.asarray(expected))


@pytest.mark.parametrize("lossless", [True, False])
def test_a_lossless_webp_stays_one(tmp_path: Path, lossless: bool) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()  # makes it an extended file
    Image.fromarray(RGB8).save(tmp_path / "a.webp", lossless=lossless, icc_profile=profile)
    read = read_image(probed(tmp_path / "a.webp"))
    write_image(replace(read, pixels=RGB8), "WEBP", SAME, tmp_path / "b.webp")
    with Image.open(tmp_path / "b.webp") as again:
        assert np.array_equal(np.asarray(again.convert("RGB")), RGB8) == lossless


@pytest.mark.parametrize("pixels", [RGB8, RGB16], ids=["8", "16"])
@pytest.mark.parametrize("kept", [HDR, LINEAR])
def test_what_the_colours_of_a_png_are_comes_along(
    tmp_path: Path,
    kept: tuple[bytes, bytes],
    pixels: Pixels,
) -> None:
    read = read_image(probed(png(tmp_path / "a.png", kept)))
    write_image(replace(read, pixels=pixels), "PNG", SAME, tmp_path / "b.png")
    assert chunk((tmp_path / "b.png").read_bytes(), kept[0]) == kept[1]


def test_where_it_cannot_it_is_named(tmp_path: Path) -> None:
    losses = picture_losses(probed(png(tmp_path / "a.png", LINEAR)), "JPEG")
    assert "what its colours are (gAMA, cHRM, cICP) is left out: JPEG has no room for that" in losses


def test_srgb_needs_no_word(tmp_path: Path) -> None:
    assert picture_losses(probed(png(tmp_path / "a.png", PLAIN)), "JPEG") == ()


def test_the_iptc_of_a_jpeg_comes_along(tmp_path: Path) -> None:
    resource = b"8BIM\x04\x04\0\0" + struct.pack(">I", len(IPTC)) + IPTC + bytes(len(IPTC) % 2)
    segment = b"Photoshop 3.0\0" + resource
    extra = b"\xff\xed" + struct.pack(">H", len(segment) + 2) + segment
    (tmp_path / "a.jpg").write_bytes(jpeg(RGB8, extra=extra))
    read = read_image(probed(tmp_path / "a.jpg"))
    write_image(read, "JPEG", SAME, tmp_path / "b.jpg")
    with Image.open(tmp_path / "b.jpg") as again:
        assert again.info["photoshop"] == {0x0404: IPTC}
    losses = picture_losses(probed(tmp_path / "a.jpg"), "PNG")
    assert losses == ("its IPTC is left out: PNG has no room for that",)


def test_pictures_without_any_of_it_are_as_they_were(tmp_path: Path) -> None:
    write_image(Picture(RGB8), "PNG", SAME, tmp_path / "a.png")
    assert probed(tmp_path / "a.png").held == ()
