"""Chunk files: exact times, the source's colours, and nothing under a name that is not whole."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.codec.codec import UnknownCodecError
from numpy.typing import NDArray

from invsr_daemon.errors import ConfigError, DiskFullError, OutputError, ResourceError
from invsr_daemon.media import encode
from invsr_daemon.media.decode import RgbFrame, decode_chunk
from invsr_daemon.media.encode import (
    chunk_suffix,
    encoder_name,
    film_losses,
    film_size,
    open_chunk,
    pixel_format,
    writing_error,
)
from invsr_daemon.media.probe import plan_chunks, probe_video
from invsr_daemon.media.trial import encoding_problem
from invsr_daemon.records import Colour, Film
from tests.support.mediafiles import MANY_PIXELS, VFR, decoded, flat, make_film, pass_through, video_settings

COLOURS = [(200, 30, 90), (20, 180, 60), (40, 60, 220), (255, 255, 255), (0, 0, 0), (128, 128, 128)]
UNTAGGED = Colour(2, 2, 2, 0)
TAGS = {
    "untagged": UNTAGGED,
    "601": Colour(6, 6, 6, 1),
    "709": Colour(1, 1, 1, 1),
    "full": Colour(1, 1, 1, 2),
    "2020": Colour(9, 9, 14, 1),
}


def small_film(folder: Path, **properties: Any) -> Film:
    make_film(folder / "film.mkv", pts=range(5), **properties)
    return probe_video(folder / "film.mkv", MANY_PIXELS)


def colours(film: Film) -> NDArray[np.int64]:
    (chunk,) = plan_chunks(film, 9)
    return np.stack([frame.pixels for frame in decode_chunk(film.info, chunk)]).astype(np.int64)


@pytest.mark.parametrize("tags", TAGS)
@pytest.mark.parametrize("rgb", COLOURS)
def test_colours_come_out_as_they_went_in(tmp_path: Path, tags: str, rgb: tuple[int, int, int]) -> None:
    make_film(tmp_path / "film.mp4", colour=TAGS[tags], paint=flat(*rgb), pts=range(3))
    copy = pass_through(tmp_path / "film.mp4")
    before, after = colours(copy.source), colours(copy.result)
    assert np.abs(before - rgb).max() <= 3, "swscale is off by up to 3 when the source is made"
    assert np.abs(after - before).max() <= 2
    if tags != "full":
        assert np.abs(after - rgb).max() <= 2


@pytest.mark.parametrize("tags", TAGS)
@pytest.mark.parametrize("rgb", COLOURS)
def test_colours_in_a_codec_that_knows_one_matrix(
    tmp_path: Path, tags: str, rgb: tuple[int, int, int]
) -> None:
    make_film(tmp_path / "film.mp4", colour=TAGS[tags], paint=flat(*rgb), pts=range(2), size=(256, 128))
    settings = video_settings(codec="dnxhd", pixel_format="yuv422p", options=(("profile", "dnxhr_hq"),))
    copy = pass_through(tmp_path / "film.mp4", settings=replace(settings, preset=""))
    frame = decoded(copy.path)[0]
    assert frame.colorspace == copy.result.info.colour.matrix == 1
    assert np.abs(colours(copy.source) - colours(copy.result)).max() <= 3


@pytest.mark.parametrize("codec", ["h264", "hevc", "ffv1", "av1"])
@pytest.mark.parametrize("container", ["mkv", "mp4"])
@pytest.mark.parametrize("tags", ["untagged", "709", "full"])
def test_results_are_tagged(tmp_path: Path, codec: str, container: str, tags: str) -> None:
    if (codec, container) == ("ffv1", "mp4"):
        container = "nut"
    make_film(tmp_path / "film.mkv", colour=TAGS[tags], pts=range(2))
    preset = {"ffv1": ""}.get(codec, "ultrafast")
    settings = video_settings(codec=codec, preset=preset)
    copy = pass_through(tmp_path / "film.mkv", settings=settings, container=container)
    for frame in decoded(copy.path):
        expected = (6, 1) if tags == "untagged" else (TAGS[tags].matrix, TAGS[tags].range)
        if container != "nut":  # which keeps no tags, like FFV1
            assert (frame.colorspace, frame.color_range) == expected
    if container != "nut":
        assert copy.result.info.colour == copy.source.info.colour


def test_untagged_hd_is_tagged_709(tmp_path: Path) -> None:
    make_film(tmp_path / "film.mp4", size=(1280, 64), pts=range(2))
    frame = decoded(pass_through(tmp_path / "film.mp4").path)[0]
    assert (frame.colorspace, frame.color_range) == (1, 1)


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_ten_bits_stay_ten_bits(tmp_path: Path, codec: str) -> None:
    rgb = (51400, 7700, 23130)
    make_film(tmp_path / "film.mkv", pix_fmt="yuv444p10le", paint=flat(*rgb), pts=range(2))
    settings = video_settings(codec=codec, crf=1)
    copy = pass_through(tmp_path / "film.mkv", settings=settings)
    assert decoded(copy.path)[0].format.name == "yuv444p10le"
    (chunk,) = plan_chunks(copy.result, 9)
    for frame in decode_chunk(copy.result.info, chunk):
        assert frame.pixels.dtype == np.uint16
        assert np.abs(frame.pixels.astype(int) - rgb).max() <= 4 * 64


RGB_ENCODERS = [("ffv1", "bgr0", ""), ("libx264rgb", "rgb24", "ultrafast"), ("hevc", "gbrp", "ultrafast")]


@pytest.mark.parametrize(("codec", "format", "preset"), RGB_ENCODERS)
def test_rgb_formats_have_no_matrix_and_the_full_range(
    tmp_path: Path, codec: str, format: str, preset: str
) -> None:
    make_film(tmp_path / "film.mkv", codec="ffv1", pix_fmt="bgr0", size=(65, 49), pts=range(4))
    settings = video_settings(codec=codec, pixel_format=format, preset=preset, crf=0)
    copy = pass_through(tmp_path / "film.mkv", settings=settings, container="mkv")
    assert (copy.result.info.width, copy.result.info.height) == (65, 49)
    whole = plan_chunks(copy.source, 9)[0], plan_chunks(copy.result, 9)[0]
    frames = [
        list(decode_chunk(film.info, chunk))
        for film, chunk in zip((copy.source, copy.result), whole, strict=True)
    ]
    exact = codec != "hevc"
    for frame, other in zip(*frames, strict=True):
        difference = np.abs(frame.pixels.astype(int) - other.pixels)
        assert difference.max() == 0 if exact else difference.mean() < 2


def test_odd_sizes_become_even_where_chroma_is_subsampled(tmp_path: Path) -> None:
    film = small_film(tmp_path, codec="ffv1", pix_fmt="yuv444p", size=(65, 49))
    assert film_size(film.info, video_settings(), 4.0) == (260, 196)
    assert film_size(film.info, video_settings(), 1.0) == (65, 49)
    assert film_size(film.info, video_settings(pixel_format="yuv420p"), 1.0) == (64, 48)
    settings = video_settings(codec="ffv1", pixel_format="bgr0")
    assert film_size(film.info, settings, 1.0) == (65, 49)
    assert film_size(film.info, settings, 1.5) == (98, 74)


def test_a_chunk_file_keeps_every_gap_exactly(tmp_path: Path) -> None:
    make_film(tmp_path / "film.nut", pts=VFR, time_base=Fraction(1001, 30000))
    film = probe_video(tmp_path / "film.nut", MANY_PIXELS)
    (chunk,) = plan_chunks(film, 99)
    with open_chunk(tmp_path / "c.nut", film.info, chunk, video_settings(), 1.0) as encoder:
        for frame in decode_chunk(film.info, chunk):
            encoder.encode(frame)
    found = [Fraction(frame.pts or 0) * (frame.time_base or 0) for frame in decoded(tmp_path / "c.nut")]
    assert [time - found[0] for time in found] == [Fraction(each * 1001, 30000) for each in VFR]


def write_chunk(film: Film, path: Path, **settings: Any) -> None:
    (chunk,) = plan_chunks(film, 99)
    with open_chunk(path, film.info, chunk, video_settings(**settings), 1.0) as encoder:
        for frame in decode_chunk(film.info, chunk):
            encoder.encode(frame)


WRONG_SETTINGS: list[tuple[dict[str, Any], str]] = [
    ({"codec": "nope"}, "no encoder 'nope'"),
    ({"codec": "aac"}, "'aac' does not encode video"),
    ({"preset": "nope"}, "preset.*nope"),
    ({"codec": "hevc", "preset": "nope"}, "preset.*nope"),
    ({"pixel_format": "nonsense"}, "video.pixel_format: h264 takes .*yuv420p.*not 'nonsense'"),
    ({"pixel_format": "rgb24"}, "not 'rgb24'"),
    ({"codec": "rawvideo", "pixel_format": "nonsense", "preset": ""}, "no 'nonsense'"),
    ({"options": (("nonsense", "1"),)}, "knows no nonsense"),
]


@pytest.mark.parametrize(("settings", "message"), WRONG_SETTINGS)
def test_wrong_settings_are_told(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    film = small_film(tmp_path)
    with pytest.raises(ConfigError, match=message) as caught:
        write_chunk(film, tmp_path / "c.nut", **settings)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "c.nut").exists()


def test_options_reach_the_encoder(tmp_path: Path) -> None:
    film = small_film(tmp_path)
    write_chunk(film, tmp_path / "a.nut")
    write_chunk(film, tmp_path / "b.nut", options=(("crf", "50"),))
    assert (tmp_path / "b.nut").stat().st_size < (tmp_path / "a.nut").stat().st_size


def test_names_of_codecs() -> None:
    assert encoder_name("h264") == "libx264"
    assert encoder_name("libx265") == "libx265"


SAMPLINGS: list[tuple[str, int, tuple[int, int], float, str]] = [
    ("h264", 8, (2, 2), 4, "yuv420p"),
    ("h264", 8, (2, 2), 1, "yuv420p"),
    ("h264", 12, (2, 2), 4, "yuv420p10le"),
    ("mpeg4", 10, (2, 2), 1, "yuv420p"),
    ("h264", 8, (1, 1), 2, "yuv420p"),
    ("h264", 8, (1, 1), 1.9, "yuv444p"),
    ("h264", 10, (1, 1), 1, "yuv444p10le"),
    ("hevc", 10, (2, 1), 1, "yuv422p10le"),
    ("h264", 8, (2, 1), 1.5, "yuv422p"),
    ("h264", 8, (1, 2), 1, "yuv444p"),
    ("h264", 8, (4, 1), 1, "yuv422p"),
    ("h264", 8, (4, 4), 1, "yuv420p"),
    ("av1", 10, (1, 1), 1, "yuv420p10le"),
    ("prores_ks", 8, (2, 2), 4, "yuv422p10le"),
    ("prores_ks", 10, (1, 1), 1, "yuv444p10le"),
    ("dnxhd", 8, (2, 2), 4, "yuv422p"),
    ("rawvideo", 8, (1, 1), 1, "yuv444p"),
]


@pytest.mark.parametrize(("codec", "depth", "sampling", "scale", "format"), SAMPLINGS)
def test_no_chroma_is_lost_where_the_encoder_can(
    tmp_path: Path, codec: str, depth: int, sampling: tuple[int, int], scale: float, format: str
) -> None:
    info = replace(small_film(tmp_path).info, depth=depth, subsampling=sampling)
    settings = video_settings(codec=codec)
    assert pixel_format(settings, info, scale) == format
    lost = {("mpeg4", 10): ("10 bits",), ("h264", 12): ("12 bits",), ("av1", 10): ("chroma",)}.get(
        (codec, depth), ()
    )
    notes = film_losses(info, settings, scale)
    assert len(notes) == len(lost)
    assert all(word in note for word, note in zip(lost, notes, strict=True))


@pytest.mark.parametrize(
    ("pix_fmt", "sampling"),
    [
        ("yuv420p", (2, 2)),
        ("yuv422p", (2, 1)),
        ("yuv444p10le", (1, 1)),
        ("yuv411p", (4, 1)),
        ("gray", (2, 2)),
    ],
)
def test_the_sources_sampling_is_found_and_kept(
    tmp_path: Path, pix_fmt: str, sampling: tuple[int, int]
) -> None:
    film = small_film(tmp_path, codec="ffv1", pix_fmt=pix_fmt)
    assert film.info.subsampling == sampling
    copy = pass_through(tmp_path / "film.mkv")
    assert copy.result.info.subsampling == (min(2, sampling[0]), sampling[1])


def test_colours_of_single_pixels_survive(tmp_path: Path) -> None:
    def paint(index: int, size: tuple[int, int]) -> NDArray[np.uint8]:
        picture = flat(200, 30, 90)(index, size)
        picture[::2] = (20, 180, 60)
        return picture.astype(np.uint8)

    make_film(tmp_path / "film.mkv", codec="ffv1", pix_fmt="yuv444p", paint=paint, pts=range(2))
    kept = pass_through(tmp_path / "film.mkv", settings=video_settings(crf=1))
    assert np.abs(colours(kept.source) - colours(kept.result)).max() <= 6
    lost = pass_through(tmp_path / "film.mkv", settings=video_settings(crf=1, pixel_format="yuv420p"))
    assert np.abs(colours(lost.source) - colours(lost.result)).max() > 50


CHUNK_FILES = pytest.mark.parametrize(("codec", "suffix"), [("ffv1", ".nut"), ("prores_ks", ".mov")])


@CHUNK_FILES
def test_an_exception_leaves_nothing_under_the_final_name(tmp_path: Path, codec: str, suffix: str) -> None:
    film = small_film(tmp_path)
    (chunk,) = plan_chunks(film, 99)
    path = tmp_path / f"c{suffix}"
    with (  # noqa: PT012
        pytest.raises(RuntimeError, match="midway"),
        open_chunk(path, film.info, chunk, video_settings(codec=codec, preset=""), 1.0) as encoder,
    ):
        encoder.encode(RgbFrame(0, np.zeros((48, 64, 3), np.uint8)))
        assert not path.exists()
        raise RuntimeError("midway")
    assert not path.exists()


@CHUNK_FILES
def test_two_attempts_write_two_files_and_the_first_to_end_gives_the_name(
    tmp_path: Path, codec: str, suffix: str
) -> None:
    film = small_film(tmp_path)
    assert chunk_suffix(codec) == suffix
    (tmp_path / "work").mkdir()
    path = tmp_path / "work" / f"a{suffix}"
    (chunk,) = plan_chunks(film, 99)
    settings = video_settings(codec=codec, preset="")
    with open_chunk(path, film.info, chunk, settings, 1.0) as slow:
        write_chunk(film, path, codec=codec, preset="")
        whole, inode = path.read_bytes(), path.stat().st_ino
        for pts in chunk.pts[:1]:
            slow.encode(RgbFrame(pts, np.zeros((48, 64, 3), np.uint8)))
    assert (path.read_bytes(), path.stat().st_ino) == (whole, inode)
    assert list(path.parent.iterdir()) == [path]


@CHUNK_FILES
def test_a_full_disk_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str, suffix: str) -> None:
    film = small_film(tmp_path)
    (tmp_path / "full").symlink_to("/dev/full")
    monkeypatch.setattr(encode, "attempt_at", lambda _: tmp_path / "full")
    with pytest.raises(ResourceError, match="is full"):
        write_chunk(film, tmp_path / f"c{suffix}", codec=codec, preset="")
    assert not (tmp_path / f"c{suffix}").exists()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_so_does_a_quota_that_is_used_up(code: int) -> None:
    error = OSError(code, os.strerror(code))
    assert isinstance(writing_error(error, Path("work/chunk.partial"), "encoding"), DiskFullError)


@pytest.mark.parametrize("code", [errno.EIO, errno.EROFS, errno.ESTALE])
def test_so_does_a_disk_that_fails_as_it_does_while_files_are_synced(code: int) -> None:
    error = OSError(code, os.strerror(code))
    assert writing_error(error, Path("work/chunk.partial"), "encoding").retryable


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="failed"):
        write_chunk(small_film(tmp_path), Path("/proc/c.nut"))


def test_a_rename_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    film = small_film(tmp_path)
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OutputError, match="finishing a chunk"):
        write_chunk(film, tmp_path / "c.nut")
    assert not (tmp_path / "c.nut").exists()


def test_an_unchanged_chunk_has_unchanged_bytes(tmp_path: Path) -> None:
    film = small_film(tmp_path)
    for codec, preset in (("h264", "medium"), ("hevc", "ultrafast"), ("ffv1", "")):
        for name in ("a.nut", "b.nut"):
            write_chunk(film, tmp_path / name, codec=codec, preset=preset)
        assert (tmp_path / "a.nut").read_bytes() == (tmp_path / "b.nut").read_bytes()


SHORT_CHUNKS = """
import sys
from pathlib import Path
from tests.support.mediafiles import make_film, pass_through, times, video_settings

path = Path(sys.argv[1])
make_film(path, pts=range(2))
for target in (1, 2):
    copy = pass_through(path, target=target, settings=video_settings(codec="hevc"))
    assert times(copy.result) == times(copy.source), times(copy.result)
"""


@pytest.mark.slow
def test_a_chunk_shorter_than_the_encoders_delay(tmp_path: Path) -> None:
    """x265 sets no dts then: what was in that memory shifted every time, once it held a pointer."""
    done = subprocess.run(
        [sys.executable, "-c", SHORT_CHUNKS, tmp_path / "film.mkv"],
        env={**os.environ, "MALLOC_PERTURB_": "254"},  # fresh memory is never zero
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_sample_aspect_ratio_goes_along(tmp_path: Path) -> None:
    film = small_film(tmp_path)
    film = replace(film, info=replace(film.info, sample_aspect_ratio=Fraction(16, 11)))
    write_chunk(film, tmp_path / "c.nut")
    assert probe_video(tmp_path / "c.nut", MANY_PIXELS).info.sample_aspect_ratio == Fraction(16, 11)


TRIALS: list[tuple[dict[str, Any], str | None]] = [
    ({}, None),
    ({"codec": "prores_ks", "pixel_format": "yuv422p10le", "container": "mov"}, None),
    (
        {
            "codec": "dnxhd",
            "pixel_format": "yuv422p",
            "options": (("profile", "dnxhr_sq"),),
            "container": "mov",
        },
        None,
    ),
    ({"codec": "prores_ks", "pixel_format": "yuv422p10le", "container": "mp4"}, "mp4 cannot hold prores_ks"),
    ({"codec": "dnxhd", "pixel_format": "yuv422p", "container": "mkv"}, "mkv cannot hold dnxhd"),
    ({"codec": "dnxhd", "pixel_format": "yuv422p"}, "the encoder dnxhd refuses its settings"),
]


@pytest.mark.parametrize(("settings", "problem"), TRIALS)
def test_settings_are_tried_before_there_is_a_film(settings: dict[str, Any], problem: str | None) -> None:
    found = encoding_problem(video_settings(**settings))
    assert found == problem if problem is None else problem in (found or "")


def test_no_encoder_of_this_build_ends_in_a_traceback() -> None:
    for name in sorted(av.codecs_available):
        try:
            encoder = av.Codec(name, "w")
        except UnknownCodecError:
            continue
        if encoder.type == "video" and not encoder.experimental:
            problem = encoding_problem(video_settings(codec=encoder.name, preset=""))
            assert problem is None or "\n" not in problem
