"""Chunks partition a film, and decoding them one by one gives what decoding it whole gives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from invsr_daemon.errors import InputError
from invsr_daemon.media import decode
from invsr_daemon.media.decode import RgbFrame, decode_chunk
from invsr_daemon.media.probe import plan_chunks, probe_video
from invsr_daemon.records import Chunk, Colour, Film, SeekPoint, VideoInfo
from tests.support.mediafiles import MANY_PIXELS, VFR, Sound, make_film

OPEN_GOP = {"x264-params": "open-gop=1"}
INFO = VideoInfo(
    path=Path("film.mkv"),
    container="matroska",
    stream=0,
    codec="h264",
    width=64,
    height=48,
    depth=8,
    time_base=Fraction(1, 1000),
    rate=Fraction(25),
    colour=Colour(6, 2, 2, 1),
    sample_aspect_ratio=None,
    display_matrix=None,
    others=(),
    notes=(),
)


@st.composite
def films(draw: st.DrawFn) -> Film:
    count = draw(st.integers(1, 400))
    keyframes = sorted(draw(st.sets(st.integers(0, count - 1))) | ({0} if draw(st.booleans()) else set()))
    points = tuple(SeekPoint(frame, 40 * frame - 80) for frame in keyframes)
    return Film(INFO, tuple(range(0, 40 * count, 40)), 40, points)


@given(films(), st.integers(1, 120))
def test_chunks_partition_the_film_in_order(film: Film, target: int) -> None:
    chunks = plan_chunks(film, target)
    assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
    assert sum((chunk.pts for chunk in chunks), ()) == film.pts
    assert all(film.pts[chunk.start] == chunk.pts[0] for chunk in chunks)
    assert all(1 <= len(chunk.pts) <= target for chunk in chunks)


@given(films(), st.integers(2, 120))
def test_cuts_fall_on_keyframes_where_there_are_any(film: Film, target: int) -> None:
    keyframes = {point.frame for point in film.seek_points}
    chunks = plan_chunks(film, target)
    for before, chunk in pairwise(chunks):
        candidates = keyframes & set(range(before.start + target // 2, before.start + target + 1))
        if candidates:
            assert chunk.start == max(candidates)
        else:
            assert chunk.start == before.start + target


@given(films(), st.integers(1, 120))
def test_every_chunk_knows_the_last_keyframe_before_it(film: Film, target: int) -> None:
    for chunk in plan_chunks(film, target):
        before = [point for point in film.seek_points if point.frame <= chunk.start]
        assert chunk.seek == (before[-1] if before else None)


@given(films(), st.integers(1, 120), st.integers(0, 40), st.integers(0, 40))
def test_what_lies_around_chunks_is_no_part_of_them(film: Film, target: int, before: int, after: int) -> None:
    alone = plan_chunks(film, target)
    for chunk, same in zip(plan_chunks(film, target, (before, after)), alone, strict=True):
        assert replace(chunk, before=(), after=(), seek=same.seek) == same
        assert chunk.decoded == film.pts[max(0, chunk.start - before) : chunk.own.stop + after]
        assert chunk.first == max(0, chunk.start - before)
        keyframes = [point for point in film.seek_points if point.frame <= chunk.first]
        assert chunk.seek == (keyframes[-1] if keyframes else None)


@given(films(), st.integers(1, 120))
def test_chunks_depend_on_film_and_target_alone(film: Film, target: int) -> None:
    assert plan_chunks(film, target) == plan_chunks(replace(film), target)


FILMS: dict[str, dict[str, Any]] = {
    "plain.mp4": {},
    "b-frames.mp4": {"b_frames": 2, "pts": VFR, "sounds": [Sound()]},
    "open-gop.mp4": {"b_frames": 2, "options": OPEN_GOP},
    "open-gop.mkv": {"b_frames": 2, "options": OPEN_GOP, "pts": VFR, "sounds": [Sound()]},
    "open-gop.ts": {"b_frames": 2, "options": OPEN_GOP, "sounds": [Sound()]},
    "hevc.mp4": {"codec": "libx265", "pts": range(24)},
    "hevc.ts": {"codec": "libx265", "pts": range(24)},
    "vfr.ts": {"b_frames": 2, "pts": VFR},
    "intra-refresh.ts": {"options": {"intra-refresh": "1"}},
    "xvid.avi": {"codec": "mpeg4", "b_frames": 2, "sounds": [Sound("mp2")]},
    "vfr.avi": {"codec": "mpeg4", "pts": VFR},
    "h264.avi": {"b_frames": 2},
    "dvd.mpg": {"codec": "mpeg2video", "b_frames": 2},
    "raw.h264": {"b_frames": 2, "container": "h264"},
    "ten-bit.mkv": {"pix_fmt": "yuv420p10le", "b_frames": 2},
    "loop.gif": {"codec": "gif", "pix_fmt": "rgb8", "time_base": Fraction(1, 100), "pts": VFR},
    "early.mp4": {"pts": range(-4, 20), "b_frames": 2},
    "late.mkv": {"pts": range(100, 124), "b_frames": 2},
    "flash.flv": {"b_frames": 2},
    "film.nut": {"b_frames": 2, "pts": VFR, "time_base": Fraction(1001, 30000)},
}


def whole(film: Film) -> list[RgbFrame]:
    (chunk,) = plan_chunks(film, len(film.pts))
    return list(decode_chunk(film.info, chunk))


def assert_same(frames: list[RgbFrame], expected: list[RgbFrame]) -> None:
    assert [frame.pts for frame in frames] == [frame.pts for frame in expected]
    for frame, other in zip(frames, expected, strict=True):
        assert np.array_equal(frame.pixels, other.pixels), f"frame at {frame.pts}"


@pytest.mark.parametrize("name", FILMS)
def test_chunks_together_are_the_whole_film(tmp_path: Path, name: str) -> None:
    make_film(tmp_path / name, **FILMS[name])
    film = probe_video(tmp_path / name, MANY_PIXELS)
    expected = whole(film)
    assert tuple(frame.pts for frame in expected) == film.pts
    assert len({frame.pixels.tobytes() for frame in expected}) == len(expected), "frames must differ"
    for target in (3, 8, 11):
        chunks = plan_chunks(film, target)
        assert_same([frame for chunk in chunks for frame in decode_chunk(film.info, chunk)], expected)


@pytest.mark.parametrize("name", FILMS)
def test_chunks_are_decoded_with_what_lies_around_them(tmp_path: Path, name: str) -> None:
    make_film(tmp_path / name, **FILMS[name])
    film = probe_video(tmp_path / name, MANY_PIXELS)
    expected = whole(film)
    for chunk in plan_chunks(film, 8, (5, 6)):
        around = expected[chunk.first : chunk.own.stop + 6]
        assert_same(list(decode_chunk(film.info, chunk)), around)


def test_any_cutting_of_an_open_gop_film_gives_the_same_frames(tmp_path: Path) -> None:
    """Every single frame as a chunk, with every seek point that may be told."""
    make_film(tmp_path / "a.mkv", b_frames=2, options=OPEN_GOP, pts=VFR)
    film = probe_video(tmp_path / "a.mkv", MANY_PIXELS)
    expected = whole(film)
    for start in range(len(film.pts)):
        for seek in [None, *(point for point in film.seek_points if point.frame <= start)]:
            chunk = Chunk(0, start, film.pts[start : start + 2], seek)
            assert_same(list(decode_chunk(film.info, chunk)), expected[start : start + 2])


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of frames decoded so far, as the only element."""
    count = [0]
    original = decode._frames

    def counting(*arguments: Any) -> Iterator[Any]:
        for frame in original(*arguments):
            count[0] += 1
            yield frame

    monkeypatch.setattr(decode, "_frames", counting)
    return count


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.nut", "a.flv"])
def test_a_chunk_is_not_decoded_from_the_beginning(tmp_path: Path, name: str, counted: list[int]) -> None:
    make_film(tmp_path / name, b_frames=2, pts=range(60))
    film = probe_video(tmp_path / name, MANY_PIXELS)
    chunk = plan_chunks(film, 10)[-1]
    assert chunk.start == 50
    assert len(list(decode_chunk(film.info, chunk))) == 10
    assert counted[0] <= 2 * 10 + 3


def test_a_seek_point_that_lies_falls_back_to_the_beginning(tmp_path: Path) -> None:
    make_film(tmp_path / "a.mkv", b_frames=2, pts=range(60))
    film = probe_video(tmp_path / "a.mkv", MANY_PIXELS)
    expected = whole(film)
    behind = SeekPoint(12, film.pts[50])
    chunk = Chunk(0, 12, film.pts[12:20], behind)
    assert_same(list(decode_chunk(film.info, chunk)), expected[12:20])


def test_a_missing_frame_is_an_error(tmp_path: Path) -> None:
    make_film(tmp_path / "a.mkv")
    film = probe_video(tmp_path / "a.mkv", MANY_PIXELS)
    beyond = Chunk(0, 20, (*film.pts[20:], 9999), film.seek_points[-1])
    with pytest.raises(InputError, match="only 4 of 5 frames from frame 20 on"):
        list(decode_chunk(film.info, beyond))
    elsewhere = Chunk(0, 20, (film.pts[20], film.pts[21] + 1), film.seek_points[-1])
    with pytest.raises(InputError, match="a frame was expected at 841, not at 840"):
        list(decode_chunk(film.info, elsewhere))


def test_leaving_early_closes_the_file(tmp_path: Path) -> None:
    make_film(tmp_path / "a.mkv")
    film = probe_video(tmp_path / "a.mkv", MANY_PIXELS)
    frames = decode_chunk(film.info, plan_chunks(film, 24)[0])
    assert next(frames).pts == 0
    assert isinstance(frames, Iterator)


def test_deep_films_come_as_sixteen_bits(tmp_path: Path) -> None:
    make_film(tmp_path / "a.mkv", pix_fmt="yuv420p10le", pts=range(2))
    make_film(tmp_path / "b.mkv", pts=range(2))
    kinds = [whole(probe_video(tmp_path / name, MANY_PIXELS))[0].pixels.dtype for name in ("a.mkv", "b.mkv")]
    assert kinds == [np.uint16, np.uint8]
