"""Pictures keep depth, transparency, profile and the way up; what is none, or a broken one, is refused."""

from __future__ import annotations

import errno
import os
import struct
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

from invsr_daemon.errors import ConfigError, InputError, OutputError, ResourceError
from invsr_daemon.media import image_writing
from invsr_daemon.media.extras import Extras
from invsr_daemon.media.image import SUFFIX, Picture, probe_image, read_image
from invsr_daemon.media.image_writing import LONGEST_SIDE, check_side, image_format, write_image
from invsr_daemon.media.probe import probe_video
from invsr_daemon.records import ImageSettings

MANY_PIXELS = 10**6
SAME = ImageSettings("same", 95)
NOISE = np.random.default_rng(0)
RGB8 = NOISE.integers(0, 256, (40, 56, 3)).astype(np.uint8)
ALPHA8 = NOISE.integers(0, 256, (40, 56)).astype(np.uint8)
RGB16 = NOISE.integers(0, 65536, (40, 56, 3)).astype(np.uint16)
ALPHA16 = NOISE.integers(0, 65536, (40, 56)).astype(np.uint16)
GREY16 = np.repeat(RGB16[..., :1], 3, axis=2)
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
ORIENTATION = 0x0112


def smooth() -> NDArray[np.uint8]:
    y, x = np.mgrid[:40, :56]
    picture: NDArray[np.uint8] = np.stack([x * 4, y * 6, 255 - x * 4], axis=-1).astype(np.uint8)
    return picture


def read(path: Path) -> Picture:
    info = probe_image(path, MANY_PIXELS)
    if info is None:  # no picture: then it is taken for a film
        probe_video(path, MANY_PIXELS)
        pytest.fail("a picture became a film")
    picture = read_image(info)
    assert picture.pixels.shape == (info.height, info.width, 3)
    assert picture.pixels.dtype == (np.uint16 if info.depth == 16 else np.uint8)
    return picture


def errors_of(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


DEEP = {
    "rgb": Picture(RGB16),
    "rgba": Picture(RGB16, ALPHA16),
    "grey": Picture(GREY16, grey=True),
    "grey with alpha": Picture(GREY16, ALPHA16, grey=True),
}


@pytest.mark.parametrize("kind", DEEP)
@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bits_stay_exact(tmp_path: Path, format: str, kind: str) -> None:
    picture = DEEP[kind]
    path = tmp_path / f"a{SUFFIX[format]}"
    write_image(picture, format, SAME, path)
    again = read(path)
    assert np.array_equal(again.pixels, picture.pixels)
    if picture.alpha is None:
        assert again.alpha is None
        assert again.grey == picture.grey
    else:
        assert again.alpha is not None
        assert np.array_equal(again.alpha, picture.alpha)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bit_greys_of_others(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(RGB16[..., 0]).save(tmp_path / f"a{suffix}")
    picture = read(tmp_path / f"a{suffix}")
    assert picture.grey
    assert np.array_equal(picture.pixels, GREY16)


LOSSLESS = ["PNG", "TIFF", "BMP"]


@pytest.mark.parametrize("format", LOSSLESS)
def test_eight_bits_stay_exact(tmp_path: Path, format: str) -> None:
    write_image(Picture(RGB8), format, SAME, tmp_path / "a.bin")
    assert np.array_equal(read(tmp_path / "a.bin").pixels, RGB8)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
def test_transparency_is_kept(tmp_path: Path, format: str) -> None:
    write_image(Picture(smooth(), ALPHA8), format, SAME, tmp_path / "a.bin")
    again = read(tmp_path / "a.bin")
    assert again.alpha is not None
    assert np.array_equal(again.alpha, ALPHA8)


def test_transparency_is_enlarged_with_the_picture(tmp_path: Path) -> None:
    alpha = np.zeros((40, 56), np.uint8)
    alpha[:, 28:] = 255
    large = np.repeat(np.repeat(RGB8, 4, axis=0), 4, axis=1)
    write_image(Picture(large, alpha), "PNG", SAME, tmp_path / "a.png")
    again = read(tmp_path / "a.png")
    assert again.alpha is not None
    assert again.alpha.shape == (160, 224)
    assert again.alpha[:, :100].max() == 0
    assert again.alpha[:, 124:].min() == 255


@pytest.mark.parametrize("mode", ["P", "L", "1", "LA", "RGBA", "CMYK", "YCbCr"])
@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "BMP"])
def test_every_kind_of_pixel_is_read_as_pillow_reads_it(tmp_path: Path, mode: str, format: str) -> None:
    path = tmp_path / "a.bin"
    try:
        Image.fromarray(smooth()).convert(mode).save(path, format)
    except OSError:
        return  # the format does not know the mode
    picture = read(path)
    with Image.open(path) as image:
        assert np.array_equal(picture.pixels, np.asarray(image.convert("RGB")))
        assert picture.grey == (image.mode in ("L", "1"))
        assert (picture.alpha is not None) == (image.mode in ("LA", "RGBA"))
    write_image(picture, format, SAME, tmp_path / "out.bin")
    assert read(tmp_path / "out.bin").grey == picture.grey or picture.alpha is not None


def test_a_palette_with_transparency(tmp_path: Path) -> None:
    image = Image.fromarray(smooth()).quantize(16)
    image.save(tmp_path / "a.png", transparency=3)
    picture = read(tmp_path / "a.png")
    assert picture.alpha is not None
    assert np.array_equal(picture.alpha == 0, np.asarray(image) == 3)


def test_damaged_transparency_does_not_come_from_lab(tmp_path: Path) -> None:
    Image.fromarray(smooth()).convert("LAB").save(tmp_path / "a.tif")
    assert read(tmp_path / "a.tif").alpha is None


UPRIGHT: dict[int, Any] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: np.rot90,
}


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_pictures_are_upright(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = tmp_path / "a.jpg"
    Image.fromarray(RGB8).save(path, exif=exif)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    picture = read(path)
    assert np.array_equal(picture.pixels, expected)
    write_image(picture, "JPEG", SAME, tmp_path / "out.jpg")
    with Image.open(tmp_path / "out.jpg") as image:
        assert image.size == (expected.shape[1], expected.shape[0])
        assert image.getexif().get(ORIENTATION, 1) == 1, "or viewers would turn it once more"


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
def test_lossless_pictures_are_upright(tmp_path: Path, format: str, orientation: int) -> None:
    path = tmp_path / "a.bin"
    Image.fromarray(RGB8).save(path, format, exif=turned(orientation), lossless=True)
    assert np.array_equal(read(path).pixels, UPRIGHT[orientation](RGB8))
    write_image(read(path), format, SAME, tmp_path / "out.bin")
    with Image.open(tmp_path / "out.bin") as image:
        assert image.getexif().get(ORIENTATION, 1) == 1
        assert image.size == UPRIGHT[orientation](RGB8).shape[1::-1]


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_deep_pictures_are_upright(tmp_path: Path, format: str, orientation: int) -> None:
    path = tmp_path / "a.bin"
    write_image(Picture(RGB16), format, SAME, path)
    turn = turn_png if format == "PNG" else turn_tiff
    path.write_bytes(turn(path.read_bytes(), orientation))
    assert np.array_equal(read(path).pixels, UPRIGHT[orientation](RGB16))


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


def turn_png(data: bytes, orientation: int) -> bytes:
    exif = turned(orientation).tobytes().removeprefix(b"Exif\0\0")
    return data[:33] + png_chunk(b"eXIf", exif) + data[33:]


def turn_tiff(data: bytes, orientation: int) -> bytes:
    """The same file with another directory at its end, which has the orientation too."""
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    entries = [data[start + 2 + 12 * number :][:12] for number in range(count)]
    entries = [entry for entry in entries if struct.unpack_from("<H", entry)[0] != ORIENTATION]
    entries.append(struct.pack("<HHIHH", ORIENTATION, 3, 1, orientation, 0))
    directory = (
        struct.pack("<H", len(entries))
        + b"".join(sorted(entries, key=lambda entry: bytes(entry)[1::-1]))
        + bytes(4)
    )
    data += bytes(len(data) % 2)
    return data[:4] + struct.pack("<I", len(data)) + data[8:] + directory


@pytest.mark.parametrize(
    ("format", "pixels"),
    [("PNG", RGB8), ("JPEG", RGB8), ("WEBP", RGB8), ("TIFF", RGB8), ("PNG", RGB16)],
    ids=["png", "jpeg", "webp", "tiff", "png16"],
)
def test_profiles_are_kept(tmp_path: Path, format: str, pixels: NDArray[Any]) -> None:
    write_image(Picture(pixels, extras=Extras(icc_profile=PROFILE)), format, SAME, tmp_path / "a.bin")
    assert read(tmp_path / "a.bin").extras.icc_profile == PROFILE


def test_a_profile_of_inks_is_not_given_to_light(tmp_path: Path) -> None:
    Image.fromarray(RGB8).convert("CMYK").save(tmp_path / "a.jpg", icc_profile=PROFILE)
    assert read(tmp_path / "a.jpg").extras.icc_profile is None


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"])
@pytest.mark.parametrize("format", ["TIFF", "PNG", "JPEG", "WEBP"])
def test_tags_describe_the_picture_and_not_another_file(
    tmp_path: Path, compression: str, format: str
) -> None:
    exif = Image.Exif()
    exif[0x010F] = "A camera"
    Image.fromarray(RGB8).save(tmp_path / "a.tif", compression=compression, exif=exif)
    picture = read(tmp_path / "a.tif")
    large = np.repeat(np.repeat(picture.pixels, 2, axis=0), 2, axis=1)
    write_image(replace(picture, pixels=large), format, SAME, tmp_path / "out.bin")
    again = read(tmp_path / "out.bin")
    assert again.pixels.shape == (80, 112, 3)
    if format in LOSSLESS:
        assert np.array_equal(again.pixels, large)
    with Image.open(tmp_path / "out.bin") as image:
        tags = image.getexif()
        assert tags[0x010F] == "A camera"
        assert tags.get(256, 112) == 112


@pytest.mark.parametrize("format", ["JPEG", "WEBP"])
def test_a_formats_longest_side_is_known(tmp_path: Path, format: str) -> None:
    longest = LONGEST_SIDE[format]
    check_side(format, longest, 8)
    write_image(Picture(np.zeros((8, longest, 3), np.uint8)), format, SAME, tmp_path / "a.bin")
    for size in ((longest + 1, 8), (8, longest + 1)):
        with pytest.raises(InputError, match=f"too long for {format}"):
            check_side(format, *size)


def test_the_settings_limit_holds_not_pillows(tmp_path: Path) -> None:
    Image.new("1", (15_000, 13_000)).save(tmp_path / "large.png")
    info = probe_image(tmp_path / "large.png", 15_000 * 13_000)
    assert info is not None
    assert (info.width, info.height) == (15_000, 13_000)
    with pytest.raises(InputError, match="15000x13000 exceeds the limit"):
        probe_image(tmp_path / "large.png", 15_000 * 13_000 - 1)


def test_the_content_decides_not_the_name(tmp_path: Path) -> None:
    Image.fromarray(RGB8).save(tmp_path / "photo.png", "JPEG")
    info = probe_image(tmp_path / "photo.png", MANY_PIXELS)
    assert info is not None
    assert (info.format, info.width, info.height, info.depth) == ("JPEG", 56, 40, 8)


@pytest.mark.parametrize(
    "name", ["a:b.png", "f%d.png", "-o.png", "x\ny.png", os.fsdecode(b"\xff.png"), "*.png"]
)
def test_hostile_names_are_only_names(tmp_path: Path, name: str) -> None:
    write_image(Picture(RGB16), "PNG", SAME, tmp_path / "plain.png")
    (tmp_path / "plain.png").rename(tmp_path / name)
    assert np.array_equal(read(tmp_path / name).pixels, RGB16)


def test_what_is_no_picture_is_left_to_others(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not a picture")
    assert probe_image(tmp_path / "text.png", MANY_PIXELS) is None
    for name in ("a.gif", "a.avif"):
        Image.fromarray(RGB8).save(
            tmp_path / name, save_all=True, append_images=[Image.fromarray(RGB8[::-1])]
        )
        assert probe_image(tmp_path / name, MANY_PIXELS) is None, "a film"


def test_what_is_no_regular_file(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    write_image(Picture(RGB8), "PNG", SAME, tmp_path / "a.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "a.png")
    assert "zero bytes" in errors_of(tmp_path / "empty.png")
    assert "symbolic link" in errors_of(tmp_path / "link.png")
    assert "not a regular file" in errors_of(tmp_path)


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
def test_animations_and_pages(tmp_path: Path, format: str) -> None:
    frames = [Image.fromarray(RGB8), Image.fromarray(RGB8[::-1])]
    frames[0].save(tmp_path / "a.bin", format, save_all=True, append_images=frames[1:])
    assert "has several pages, which is not supported" in errors_of(tmp_path / "a.bin")


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "BMP", "WEBP"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_pictures_that_are_cut_off(tmp_path: Path, format: str, part: float) -> None:
    Image.fromarray(RGB8).save(tmp_path / "a.bin", format)
    data = (tmp_path / "a.bin").read_bytes()
    (tmp_path / "a.bin").write_bytes(data[: int(len(data) * part)])
    assert errors_of(tmp_path / "a.bin")


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
@pytest.mark.parametrize("part", [0.3, 0.6, 0.95])
def test_deep_pictures_that_are_cut_off(tmp_path: Path, format: str, part: float) -> None:
    write_image(Picture(RGB16), format, SAME, tmp_path / "a.bin")
    data = (tmp_path / "a.bin").read_bytes()
    (tmp_path / "a.bin").write_bytes(data[: int(len(data) * part)])
    assert errors_of(tmp_path / "a.bin")


def test_a_damaged_deep_picture(tmp_path: Path) -> None:
    write_image(Picture(RGB16), "PNG", SAME, tmp_path / "a.png")
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[len(data) // 2] ^= 0xFF
    (tmp_path / "a.png").write_bytes(data)
    assert "damaged" in errors_of(tmp_path / "a.png")


def bomb(side: int) -> bytes:
    header = png_chunk(b"IHDR", side.to_bytes(4) * 2 + bytes([8, 2, 0, 0, 0]))
    return (
        b"\x89PNG\r\n\x1a\n"
        + header
        + png_chunk(b"IDAT", zlib.compress(bytes(1000)))
        + png_chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [1001, 12_000, 60_000, 2**31 - 1])
def test_absurd_dimensions(tmp_path: Path, side: int) -> None:
    (tmp_path / "a.png").write_bytes(bomb(side))
    assert "limit of 1000000 pixels" in errors_of(tmp_path / "a.png")


def test_tiny_pictures(tmp_path: Path) -> None:
    Image.fromarray(RGB8[:4, :4]).save(tmp_path / "a.png")
    assert "smaller than 8x8" in errors_of(tmp_path / "a.png")


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_thirty_two_bits_are_refused(tmp_path: Path, kind: type[np.float32] | type[np.int32]) -> None:
    Image.fromarray(RGB8[..., 0].astype(kind)).save(tmp_path / "a.tif")
    assert "32 bits" in errors_of(tmp_path / "a.tif")


def test_the_format_of_the_result(tmp_path: Path) -> None:
    Image.fromarray(RGB8).save(tmp_path / "a.jpg")
    info = probe_image(tmp_path / "a.jpg", MANY_PIXELS)
    assert info is not None
    assert image_format(info, SAME) == "JPEG"
    for written, format in (
        ("png", "PNG"),
        ("jpg", "JPEG"),
        ("jpeg", "JPEG"),
        ("tif", "TIFF"),
        ("webp", "WEBP"),
    ):
        assert image_format(info, ImageSettings(written, 90)) == format
    with pytest.raises(ConfigError, match=r"image.format: 'xcf' is none of same, png, jpeg"):
        image_format(info, ImageSettings("xcf", 90))


@pytest.mark.parametrize("format", ["JPEG", "WEBP"])
def test_quality_reaches_the_encoder(tmp_path: Path, format: str) -> None:
    errors = []
    for quality in (20, 95):
        path = tmp_path / f"{quality}.bin"
        write_image(Picture(smooth()), format, ImageSettings("same", quality), path)
        errors.append(float(np.abs(read(path).pixels.astype(int) - smooth()).mean()))
    assert errors[1] < errors[0]
    assert errors[1] < 2.5


def test_deep_pictures_in_shallow_formats(tmp_path: Path) -> None:
    deep = smooth().astype(np.uint16) * 257
    write_image(Picture(deep), "BMP", SAME, tmp_path / "a.bmp")
    assert np.array_equal(read(tmp_path / "a.bmp").pixels, smooth())


def test_the_same_picture_gives_the_same_bytes(tmp_path: Path) -> None:
    for format in SUFFIX:
        for picture in (Picture(RGB8, extras=Extras(icc_profile=PROFILE)), Picture(RGB16)):
            written = []
            for name in ("a.bin", "b.bin"):
                write_image(picture, format, SAME, tmp_path / name)
                written.append((tmp_path / name).read_bytes())
                (tmp_path / name).unlink()
            assert written[0] == written[1]


def test_writing_is_whole_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OutputError, match="writing PNG into /proc failed"):
        write_image(Picture(RGB8), "PNG", SAME, Path("/proc/a.png"))
    (tmp_path / "full").symlink_to("/dev/full")
    with monkeypatch.context() as patch:
        patch.setattr(image_writing, "attempt_at", lambda _: tmp_path / "full")
        with pytest.raises(ResourceError, match="is full"):
            write_image(Picture(RGB16), "PNG", SAME, tmp_path / "a.png")

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OutputError):
        write_image(Picture(RGB8), "PNG", SAME, tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()
