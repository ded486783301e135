"""What a picture's file holds beside its pixels goes along, and what cannot is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngImageFile, PngInfo
from PIL.TiffImagePlugin import TiffImageFile

from invsr_daemon.media.extras import EXIF_IFD, GPS_IFD, ORIENTATION, PIXEL_SIZE_TAGS, Extras
from invsr_daemon.media.image import SUFFIX, Picture, probe_image, read_image
from invsr_daemon.media.image_writing import image_format, picture_losses, write_image
from invsr_daemon.records import ImageInfo, ImageSettings

MANY_PIXELS = 10**6
SAME = ImageSettings("same", 95)
NOISE = np.random.default_rng(0)
RGB8 = NOISE.integers(0, 256, (40, 56, 3)).astype(np.uint8)
RGB16 = NOISE.integers(0, 65536, (40, 56, 3)).astype(np.uint16)
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
INKS = PROFILE[:16] + b"CMYK" + PROFILE[20:]
GREYS = PROFILE[:16] + b"GRAY" + PROFILE[20:]
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description xmp:Rating="5" tiff:Orientation="6"'
    b' tiff:ImageWidth="56"><exif:PixelXDimension>56</exif:PixelXDimension></rdf:Description>'
    b"</rdf:RDF></x:xmpmeta>"
)
KEPT_XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description xmp:Rating="5">'


def camera_exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x010F] = "A camera"
    exif.get_ifd(EXIF_IFD).update({40962: 56, 40963: 40, 0x829A: 0.01})
    return exif


def through(path: Path, format: str = "same") -> tuple[Path, tuple[str, ...]]:
    """A picture read, enlarged twofold and written; the result and the notes about it."""
    info = probed(path)
    picture = read_image(info)
    written = image_format(info, ImageSettings(format, 90))
    output = path.with_name(f"{path.stem}.restored{SUFFIX[written]}")
    large = np.repeat(np.repeat(picture.pixels, 2, axis=0), 2, axis=1)
    write_image(replace(picture, pixels=large), written, ImageSettings(format, 90), output)
    again = read_image(probed(output))
    assert again.pixels.dtype == picture.pixels.dtype or info.depth == 16
    if written in ("PNG", "TIFF", "BMP") and again.pixels.dtype == large.dtype:
        assert np.array_equal(again.pixels, large)
    return output, picture_losses(info, written)


def probed(path: Path) -> ImageInfo:
    info = probe_image(path, MANY_PIXELS)
    assert info is not None
    return info


def extras(path: Path) -> Extras:
    return read_image(probed(path)).extras


WITH_XMP: dict[str, dict[str, Any]] = {
    "JPEG": {"xmp": XMP},
    "WEBP": {"xmp": XMP},
    "PNG": {},
    "TIFF": {},
}


def save(path: Path, format: str) -> None:
    """A picture with everything that its format has room for."""
    options: dict[str, Any] = {
        "exif": camera_exif(),
        "icc_profile": PROFILE,
        "dpi": (300, 150),
        **WITH_XMP[format],
    }
    if format == "PNG":
        texts = PngInfo()
        texts.add_text("Title", "Grüße")
        texts.add_text("Author", "Ω", zip=True)
        texts.add_itxt("XML:com.adobe.xmp", XMP.decode())
        options["pnginfo"] = texts
    if format == "JPEG":
        options["comment"] = b"a comment"
    if format == "TIFF":
        options["exif"][700] = XMP
        options["exif"] = options["exif"].tobytes()  # an object's inner directory is not written
    Image.fromarray(RGB8).save(path, format, **options)


@pytest.mark.parametrize("format", WITH_XMP)
def test_everything_goes_along(tmp_path: Path, format: str) -> None:
    save(tmp_path / "a.bin", format)
    output, notes = through(tmp_path / "a.bin")
    assert notes == ()
    found = extras(output)
    assert found.xmp is not None
    assert found.xmp.startswith(KEPT_XMP)
    assert found.icc_profile == PROFILE
    with Image.open(output) as image:
        tags = image.getexif()
        assert tags[0x010F] == "A camera"
        inner = tags.get_ifd(EXIF_IFD)
        assert inner[0x829A] == 0.01
        assert image.size == (80, 112), "XMP's orientation counts"
        assert tuple(inner[tag] for tag in PIXEL_SIZE_TAGS) == image.size, "not the source's"
        if format != "WEBP":
            assert image.info["dpi"] == pytest.approx((300, 150), abs=0.02)
        if format == "JPEG":
            assert image.info["comment"] == b"a comment"
        if isinstance(image, PngImageFile):
            assert image.text["Title"] == "Grüße"
            assert image.text["Author"] == "Ω"


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "PNG", "TIFF"])
@pytest.mark.parametrize("wanted", ["jpeg", "webp", "png", "tiff", "bmp"])
def test_what_another_format_has_no_room_for_is_named(tmp_path: Path, format: str, wanted: str) -> None:
    save(tmp_path / "a.bin", format)
    output, notes = through(tmp_path / "a.bin", wanted)
    before, after = extras(tmp_path / "a.bin"), extras(output)
    for name, called in {"exif": "EXIF", "xmp": "XMP", "icc_profile": "ICC", "dpi": "dpi"}.items():
        lost = getattr(before, name) is not None and getattr(after, name) is None
        assert lost == any(called in note for note in notes), (name, notes)
    assert (format == "PNG" and wanted != "png") == any("PNG texts" in note for note in notes)
    assert (format == "JPEG" and wanted not in ("jpeg", "png")) == any("comment" in note for note in notes)


@pytest.mark.parametrize("compression", ["raw", "packbits", "tiff_lzw", "tiff_adobe_deflate"])
@pytest.mark.parametrize("deep", [False, True])
def test_a_tiff_stays_compressed_as_it_was(tmp_path: Path, compression: str, deep: bool) -> None:
    pixels = RGB16 if deep else RGB8
    details = Extras(icc_profile=PROFILE, xmp=KEPT_XMP, dpi=(600.0, 300.5))
    picture = Picture(pixels, extras=details, compression=compression)
    write_image(picture, "TIFF", SAME, tmp_path / "a.tif")
    output, notes = through(tmp_path / "a.tif")
    assert notes == ()
    with Image.open(output) as image:
        assert isinstance(image, TiffImageFile)
        assert image.info["compression"] == compression
    assert extras(output) == extras(tmp_path / "a.tif")
    found = extras(output)
    assert (found.icc_profile, found.xmp) == (PROFILE, KEPT_XMP)
    assert found.dpi == pytest.approx((600, 300.5))


def test_a_deep_png_keeps_it_all(tmp_path: Path) -> None:
    exif = camera_exif().tobytes()
    details = Extras(PROFILE, exif, KEPT_XMP, (300.0, 300.0), (("Title", "Grüße"),), None)
    write_image(Picture(RGB16, extras=details), "PNG", SAME, tmp_path / "a.png")
    output, notes = through(tmp_path / "a.png")
    assert notes == ()
    found = extras(output)
    assert replace(found, exif=None, dpi=None) == replace(details, exif=None, dpi=None)
    assert found.dpi == pytest.approx((300, 300), abs=0.02)
    with Image.open(output) as image:
        assert [image.getexif().get_ifd(EXIF_IFD)[tag] for tag in PIXEL_SIZE_TAGS] == [112, 80]
    _, notes = through(tmp_path / "a.png", "tiff")
    assert notes == ("its PNG texts are left out: TIFF has no room for that",)


@pytest.mark.parametrize("compression", ["raw", "packbits", "tiff_lzw", "tiff_adobe_deflate"])
@pytest.mark.parametrize("deep", [False, True])
def test_a_compressed_tiff_keeps_its_exif(tmp_path: Path, compression: str, deep: bool) -> None:
    details = Extras(exif=camera_exif().tobytes())
    picture = Picture(RGB16 if deep else RGB8, extras=details, compression=compression)
    write_image(picture, "TIFF", SAME, tmp_path / "a.tif")
    output, notes = through(tmp_path / "a.tif")
    assert notes == ()
    with Image.open(output) as image:
        assert image.info["compression"] == compression
        assert image.getexif()[0x010F] == "A camera"
        assert image.getexif().get_ifd(EXIF_IFD)[0x829A] == pytest.approx(0.01)


@pytest.mark.parametrize("format", ["jpeg", "png", "webp", "tiff"])
@pytest.mark.parametrize("deep", [False, True])
def test_texts_that_are_not_ascii_stay(tmp_path: Path, format: str, deep: bool) -> None:
    copyright, owner = "© 2024".encode(), "Jürgen".encode()
    tags = camera_exif()
    tags[0x8298], tags.get_ifd(EXIF_IFD)[0xA430] = "#" * len(copyright), "+" * len(owner)
    exif = tags.tobytes().replace(b"#" * len(copyright), copyright).replace(b"+" * len(owner), owner)
    picture = Picture(RGB16 if deep else RGB8, extras=Extras(exif=exif))
    write_image(picture, "PNG", SAME, tmp_path / "a.png")
    output, _ = through(tmp_path / "a.png", format)
    found = extras(output).exif
    assert found is not None
    assert copyright in found
    assert owner in found


def test_a_deep_tiff_keeps_its_exif(tmp_path: Path) -> None:
    exif = camera_exif()
    exif[0x9C9B] = "Grüße".encode("utf-16-le")
    exif[0x4746] = 5
    exif.get_ifd(GPS_IFD)[1] = "N"
    write_image(Picture(RGB16, extras=Extras(exif=exif.tobytes())), "TIFF", SAME, tmp_path / "a.tif")
    output, notes = through(tmp_path / "a.tif")
    assert notes == ()
    with Image.open(output) as image:
        tags = image.getexif()
        assert (tags[0x010F], tags[0x9C9B], tags[0x4746]) == ("A camera", exif[0x9C9B], 5)
        inner = tags.get_ifd(EXIF_IFD)
        assert inner == {40962: 112, 40963: 80, 0x829A: 0.01}
        assert tags.get_ifd(GPS_IFD) == {1: "N"}


def notes_of(path: Path, format: str = "same") -> tuple[str, ...]:
    return through(path, format)[1]


def test_transparency_that_is_lost_is_named(tmp_path: Path) -> None:
    Image.fromarray(np.dstack([RGB8, RGB8[..., 0]])).save(tmp_path / "a.png")
    assert notes_of(tmp_path / "a.png") == ()
    assert notes_of(tmp_path / "a.png", "jpeg") == (
        "its transparency is left out: JPEG has no room for that",
    )


def test_bits_that_are_lost_are_named(tmp_path: Path) -> None:
    write_image(Picture(RGB16), "PNG", SAME, tmp_path / "a.png")
    assert notes_of(tmp_path / "a.png", "webp") == (
        "its 16 bits per channel are cut to 8: WEBP holds no more",
    )


@pytest.mark.parametrize(("mode", "name"), [("CMYK", "a.jpg"), ("CMYK", "a.tif"), ("LAB", "a.tif")])
def test_another_colour_model_is_named(tmp_path: Path, mode: str, name: str) -> None:
    Image.fromarray(RGB8).convert(mode).save(tmp_path / name, icc_profile=INKS)
    notes = notes_of(tmp_path / name)
    assert f"its colours are converted from {mode} to RGB" in notes
    assert "its ICC profile is left out: it does not describe what is written" in notes
    assert extras(tmp_path / name).icc_profile is None


@pytest.mark.parametrize(("mode", "kept"), [("L", True), ("LA", False), ("RGB", False)])
def test_a_profile_of_greys_stays_with_greys(tmp_path: Path, mode: str, kept: bool) -> None:
    Image.fromarray(RGB8).convert(mode).save(tmp_path / "a.tif", icc_profile=GREYS)
    output, notes = through(tmp_path / "a.tif")
    assert (extras(output).icc_profile is not None) == kept
    assert any("ICC" in note for note in notes) != kept


@pytest.mark.parametrize("seed", range(60))
def test_damaged_exif_costs_no_picture(tmp_path: Path, seed: int) -> None:
    random, exif = Random(seed), camera_exif()
    exif[ORIENTATION] = 6
    exif.get_ifd(GPS_IFD)[1] = "N"
    data = bytearray(exif.tobytes())
    for _ in range(4):
        data[random.randrange(14, len(data))] = random.randrange(256)
    Image.fromarray(RGB8).save(tmp_path / "a.png", exif=bytes(data))
    for format in ("same", "jpeg", "webp", "tiff"):
        through(tmp_path / "a.png", format)
    write_image(
        replace(read_image(probed(tmp_path / "a.png")), pixels=RGB16), "TIFF", SAME, tmp_path / "b.tif"
    )
    assert np.array_equal(read_image(probed(tmp_path / "b.tif")).pixels, RGB16)


@pytest.mark.parametrize("name", ["exif", "xmp"])
def test_what_is_too_long_for_a_jpeg_is_named(tmp_path: Path, name: str) -> None:
    exif = camera_exif()
    exif[0x010E] = "x" * 70_000
    long = {"exif": Extras(exif=exif.tobytes()), "xmp": Extras(xmp=KEPT_XMP + b"x" * 70_000)}
    write_image(Picture(RGB8, extras=long[name]), "PNG", SAME, tmp_path / "a.png")
    output, notes = through(tmp_path / "a.png", "jpeg")
    assert getattr(extras(output), name) is None
    assert len(notes) == 1
    assert "bytes are too many for JPEG" in notes[0]
