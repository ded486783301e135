"""Chunks and the source's other streams become one film in which nothing is lost or moved."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.stream import AttachmentStream, Disposition

from invsr_daemon.errors import ConfigError, OutputError, ResourceError
from invsr_daemon.media.assemble import ChunkFile, assemble
from invsr_daemon.media.decode import decode_chunk
from invsr_daemon.media.probe import plan_chunks, probe_video
from invsr_daemon.media.rehearsal import plan_layout
from invsr_daemon.records import Chunk, Film
from tests.support.mediafiles import (
    MANY_PIXELS,
    VFR,
    Copy,
    Sound,
    Subtitles,
    decoded,
    encode_chunks,
    make_film,
    packets,
    pass_through,
    times,
    video_packets,
    video_settings,
)

OPEN_GOP = {"x264-params": "open-gop=1"}
LONG = {"preset": "medium", "x264-params": "bframes=3:b-adapt=0:b-pyramid=normal"}
FILMS: dict[str, dict[str, Any]] = {
    "plain.mp4": {},
    "b-frames.mp4": {"b_frames": 2, "pts": VFR},
    "open-gop.mkv": {"b_frames": 2, "options": OPEN_GOP, "pts": VFR},
    "vfr.ts": {"b_frames": 2, "pts": VFR},
    "xvid.avi": {"codec": "mpeg4", "b_frames": 2},
    "vfr.avi": {"codec": "mpeg4", "pts": VFR},
    "h264.avi": {"b_frames": 2},
    "raw.h264": {"b_frames": 2, "container": "h264"},
    "quick.mov": {"codec": "prores_ks", "pix_fmt": "yuv422p10le", "pts": range(12)},
    "loop.gif": {"codec": "gif", "pix_fmt": "rgb8", "time_base": Fraction(1, 100), "pts": VFR},
    "ntsc.nut": {"b_frames": 2, "time_base": Fraction(1001, 30000), "rate": Fraction(30000, 1001)},
    "vfr.nut": {"b_frames": 2, "time_base": Fraction(1, 90000), "pts": [7 * each * each for each in VFR]},
    "late.mp4": {"pts": range(50, 70), "mux_options": {"movie_timescale": "12800"}, "b_frames": 2},
    "late.mkv": {"pts": range(50, 70)},
    "early.mp4": {"pts": range(-4, 20), "b_frames": 2},
    "odd.mkv": {"codec": "ffv1", "pix_fmt": "yuv444p", "size": (65, 49)},
    "one.mp4": {"pts": [0]},
    "one-late.mkv": {"pts": [5]},
    "two.mp4": {"pts": [0, 7]},
    "two.mkv": {"pts": [0, 7]},
}


@pytest.mark.parametrize("name", FILMS)
def test_every_frame_keeps_its_time_and_its_duration(tmp_path: Path, name: str) -> None:
    make_film(tmp_path / name, **FILMS[name])
    settings = video_settings(preset="veryfast", options=(("bf", "2"), ("x264-params", "b-adapt=0")))
    copy = pass_through(tmp_path / name, settings=settings)
    expected = times(copy.source)
    assert times(copy.result) == expected
    assert last_duration(copy.result) == last_duration(copy.source)


TAIL = [
    0,
    3003,
    6006,
    9009,
    12012,
    15015,
    18018,
    22000,
    25003,
    28006,
    31009,
    34012,
    37015,
    42000,
    45003,
    48006,
]


@pytest.mark.parametrize("count", range(8, 17))
@pytest.mark.parametrize("b_frames", [0, 2])
@pytest.mark.parametrize("target", [5, 99])
def test_a_film_ends_when_its_source_does(tmp_path: Path, target: int, b_frames: int, count: int) -> None:
    """Whether or not the last packet is the last frame, in the source or in the result."""
    made = tmp_path / "a.mp4"
    make_film(made, b_frames=2, pts=TAIL[:count], time_base=Fraction(1, 90000))
    options = (("bf", str(b_frames)), ("x264-params", "b-adapt=0"), ("b-pyramid", "normal"))
    copy = pass_through(made, settings=video_settings(preset="veryfast", options=options), target=target)
    assert ends(copy.path) == ends(made)
    assert copy.result.last_duration == copy.source.last_duration
    remuxed = pass_through(copy.path, container="mkv")
    assert remuxed.result.last_duration == round(copy.source.last_duration / 90)


def ends(path: Path) -> tuple[Fraction, int]:
    """When the video ends in seconds, and the whole file in microseconds, by its own word."""
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        assert video.time_base is not None
        return ((video.start_time or 0) + (video.duration or 0)) * video.time_base, container.duration or 0


def last_duration(film: Film) -> Fraction:
    return film.last_duration * film.info.time_base


@pytest.mark.parametrize("name", ["b-frames.mp4", "vfr.nut", "ntsc.nut", "early.mp4"])
@pytest.mark.parametrize("target", [1, 2, 5, 99])
def test_decoding_times_rise_strictly_and_come_before_presentation(
    tmp_path: Path, name: str, target: int
) -> None:
    make_film(tmp_path / name, **FILMS[name])
    settings = video_settings(
        preset="veryfast", options=(("bf", "3"), ("x264-params", "b-adapt=0"), ("b-pyramid", "normal"))
    )
    copy = pass_through(tmp_path / name, settings=settings, target=target)
    found = [(packet.dts, packet.pts) for packet in video_packets(copy.path)]
    assert all(dts is not None and pts is not None and dts <= pts for dts, pts in found)
    decoding = [dts for dts, _ in found if dts is not None]
    assert decoding == sorted(set(decoding))
    if target == 99:
        assert any(dts != pts for dts, pts in found), "the encoder should reorder"


def stream_kinds(path: Path) -> list[str]:
    with av.open(str(path)) as container:
        return [stream.type for stream in container.streams]


def assert_copied(copy: Copy, source: int, result: int) -> None:
    before, after = packets(copy.source.info.path, source), packets(copy.path, result)
    assert before
    assert [packet.md5 for packet in after] == [packet.md5 for packet in before]
    assert [packet.time for packet in after] == [packet.time for packet in before]


@pytest.mark.parametrize(
    ("name", "codecs"),
    [
        ("a.mp4", ("aac", "mp2")),
        ("a.mkv", ("aac", "pcm_s16le", "mp2")),
        ("a.mov", ("aac", "pcm_s16le")),
        ("a.avi", ("mp2",)),
    ],
)
def test_sound_is_copied_byte_by_byte(tmp_path: Path, name: str, codecs: tuple[str, ...]) -> None:
    codec = "mpeg4" if name == "a.avi" else "libx264"
    sounds = [Sound(each) for each in codecs]
    make_film(tmp_path / name, codec=codec, b_frames=2, pts=VFR, sounds=sounds)
    copy = pass_through(tmp_path / name)
    assert copy.layout.copied == tuple(range(1, len(codecs) + 1))
    assert copy.layout.notes == ()
    for index in copy.layout.copied:
        assert_copied(copy, index, index)


@pytest.mark.parametrize("start", [0, 1001, 24000])
def test_sound_that_begins_before_or_after_the_film(tmp_path: Path, start: int) -> None:
    """AAC begins 1024 samples before its first sound: at 0 its first timestamp is negative."""
    make_film(
        tmp_path / "a.mp4", sounds=[Sound(start=start)], b_frames=2, mux_options={"movie_timescale": "48000"}
    )
    copy = pass_through(tmp_path / "a.mp4")
    first = packets(tmp_path / "a.mp4", 1)[0].time
    assert first == Fraction(start - 1024, 48000)
    assert_copied(copy, 1, 1)


def test_sound_of_a_transport_stream(tmp_path: Path) -> None:
    """AAC loses its ADTS headers there, which MP4 does not want; mp2 stays byte for byte."""
    make_film(tmp_path / "a.ts", sounds=[Sound(), Sound("mp2")], b_frames=2)
    copy = pass_through(tmp_path / "a.ts")
    assert copy.layout.container == "mp4"
    for index in (1, 2):
        before, after = packets(tmp_path / "a.ts", index), packets(copy.path, index)
        assert len(before) == len(after)
        for one, other in zip(before, after, strict=True):
            assert one.time is not None
            assert other.time is not None
            assert abs(one.time - other.time) <= Fraction(1, 90000)
    assert [p.md5 for p in packets(copy.path, 2)] == [p.md5 for p in packets(tmp_path / "a.ts", 2)]


def test_everything_around_the_film_in_matroska(tmp_path: Path) -> None:
    make_film(
        tmp_path / "a.mkv",
        sounds=[Sound(language="fre"), Sound("pcm_s16le", language="ger", disposition=Disposition.default)],
        subtitles=[Subtitles("ass", "eng"), Subtitles("subrip", "spa")],
        attachment=b"font" * 100,
        chapters=3,
        rotation=90,
        sample_aspect_ratio=Fraction(4, 3),
        metadata={"title": "A film", "artist": "Somebody"},
    )
    copy = pass_through(tmp_path / "a.mkv")
    assert copy.layout.container == "mkv"
    assert copy.layout.copied == (1, 2, 3, 4, 5)
    assert copy.layout.notes == ()
    with av.open(str(tmp_path / "a.mkv")) as source, av.open(str(copy.path)) as result:
        for before, after in zip(source.streams, result.streams, strict=True):
            assert after.type == before.type
            assert after.metadata.get("language") == before.metadata.get("language")
            assert after.disposition == before.disposition
            if isinstance(before, AttachmentStream):
                assert isinstance(after, AttachmentStream)
                assert (after.name, after.mimetype, after.data) == (before.name, before.mimetype, before.data)
        assert result.chapters() == source.chapters()
        assert result.metadata["title"] == "A film"
        assert result.metadata["ARTIST"] == "Somebody"
    for index in (1, 2, 3, 4):
        assert_copied(copy, index, index)
    assert copy.result.info.display_matrix == copy.source.info.display_matrix is not None
    assert copy.result.info.sample_aspect_ratio == Fraction(4, 3)


def test_everything_around_the_film_in_mp4(tmp_path: Path) -> None:
    make_film(
        tmp_path / "a.mp4",
        b_frames=2,
        sounds=[Sound(language="fra"), Sound(language="deu")],
        subtitles=[Subtitles("mov_text")],
        chapters=2,
        rotation=180,
        cover=True,
        metadata={"title": "A film"},
    )
    copy = pass_through(tmp_path / "a.mp4")
    assert copy.layout.container == "mp4"
    assert copy.layout.notes == (), "the list of chapters is a stream, but the muxer's own"
    with av.open(str(tmp_path / "a.mp4")) as source, av.open(str(copy.path)) as result:
        assert sorted(stream.type for stream in result.streams) == sorted(s.type for s in source.streams)
        languages = [stream.metadata.get("language") for stream in result.streams.audio]
        assert languages == ["fra", "deu"]
        titles = [(each["start"] * (each["time_base"] or 0), each["metadata"]) for each in result.chapters()]
        assert titles == [(0, {"title": "Chapter 1"}), (Fraction(1, 5), {"title": "Chapter 2"})]
        assert result.metadata["title"] == "A film"
        covers = [stream.index for stream in result.streams if stream.disposition & Disposition.attached_pic]
        own = [stream.index for stream in source.streams if stream.disposition & Disposition.attached_pic]
    for index in (1, 2, 3):
        assert_copied(copy, index, index)
    assert [p.md5 for p in packets(copy.path, covers[0])] == [
        p.md5 for p in packets(tmp_path / "a.mp4", own[0])
    ]
    assert copy.result.info.display_matrix == copy.source.info.display_matrix is not None


LAYOUTS: list[tuple[str, dict[str, Any], str, str]] = [
    ("a.mp4", {"sounds": [Sound()]}, "auto", "mp4"),
    ("a.mov", {"sounds": [Sound("pcm_s16le")]}, "auto", "mov"),
    ("a.mkv", {"sounds": [Sound()]}, "auto", "mkv"),
    ("a.ts", {"sounds": [Sound()]}, "auto", "mp4"),
    ("a.avi", {"codec": "mpeg4", "sounds": [Sound("pcm_s16le")]}, "auto", "mkv"),
    ("a.nut", {"subtitles": [Subtitles("ass")]}, "auto", "mkv"),
    ("a.mkv", {}, "mp4", "mp4"),
    ("a.mp4", {}, "mkv", "mkv"),
    ("a.mkv", {}, "nut", "nut"),
]


@pytest.mark.parametrize(("name", "properties", "wanted", "expected"), LAYOUTS)
def test_the_container_is_chosen(
    tmp_path: Path, name: str, properties: dict[str, Any], wanted: str, expected: str
) -> None:
    make_film(tmp_path / name, **properties)
    copy = pass_through(tmp_path / name, container=wanted)
    assert copy.layout.container == expected
    assert len(times(copy.result)) == 24
    kinds = [kind for kind in stream_kinds(copy.path) if kind != "video"]
    assert kinds == [other.type for other in copy.source.info.others]


def test_notes_tell_what_was_left_out(tmp_path: Path) -> None:
    make_film(tmp_path / "a.mkv", sounds=[Sound()], subtitles=[Subtitles("ass")], attachment=b"font" * 20)
    copy = pass_through(tmp_path / "a.mkv", container="mp4")
    assert copy.layout.copied == (1,)
    assert (
        copy.layout.notes
        == (
            "stream 2 (subtitle ssa) was left out: mp4 cannot hold it",
            "stream 3 (attachment attachment) was left out: mp4 cannot hold it",
        )
        or "ass" in copy.layout.notes[0]
    )
    assert_copied(copy, 1, 1)


def test_rounded_timestamps_are_told(tmp_path: Path) -> None:
    make_film(tmp_path / "a.nut", time_base=Fraction(1, 90000), pts=range(0, 24000, 1001))
    film = probe_video(tmp_path / "a.nut", MANY_PIXELS)
    assert any("milliseconds" in note for note in plan_layout(film.info, "mkv").notes)
    assert plan_layout(film.info, "mp4").notes == ()


def test_an_unknown_container_is_refused(tmp_path: Path) -> None:
    make_film(tmp_path / "a.mkv", pts=range(2))
    with pytest.raises(ConfigError, match="'avi' is none of auto, mp4, mov, mkv, nut"):
        plan_layout(probe_video(tmp_path / "a.mkv", MANY_PIXELS).info, "avi")


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv"])
def test_hevc_is_tagged_as_apple_wants_it(tmp_path: Path, name: str) -> None:
    make_film(tmp_path / name, pts=range(9))
    copy = pass_through(tmp_path / name, settings=video_settings(codec="hevc"), target=4)
    with av.open(str(copy.path)) as container:
        context = container.streams.video[0].codec_context
        assert context.name == "hevc"
        assert name == "a.mkv" or context.codec_tag == "hvc1"
    assert len(decoded(copy.path)) == 9


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_the_same_source_gives_the_same_bytes(tmp_path: Path, name: str) -> None:
    (tmp_path / "again").mkdir()
    make_film(tmp_path / name, sounds=[Sound()], b_frames=2, chapters=2, metadata={"title": "x"})
    first = pass_through(tmp_path / name).path.read_bytes()
    assert pass_through(tmp_path / name).path.read_bytes() == first


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_the_joined_film_decodes_and_seeks(tmp_path: Path, name: str) -> None:
    make_film(tmp_path / name, b_frames=2, sounds=[Sound()], pts=range(30))
    settings = video_settings(preset="veryfast", options=(("bf", "3"),))
    copy = pass_through(tmp_path / name, settings=settings, target=10)
    frames = decoded(copy.path)
    assert len(frames) == 30
    assert not any(frame.is_corrupt for frame in frames)
    source = [
        frame for chunk in plan_chunks(copy.source, 99) for frame in decode_chunk(copy.source.info, chunk)
    ]
    result = [
        frame for chunk in plan_chunks(copy.result, 99) for frame in decode_chunk(copy.result.info, chunk)
    ]
    for one, other in zip(source, result, strict=True):
        assert np.abs(one.pixels.astype(int) - other.pixels).mean() < 6, "frames in another order"
    assert {0, 10, 20} <= {point.frame for point in copy.result.seek_points}
    with av.open(str(copy.path)) as container:
        video = container.streams.video[0]
        container.seek(copy.result.pts[13], stream=video)
        first = next(container.decode(video))
        assert first.pts == copy.result.pts[10]


def test_chunks_that_do_not_hold_the_film_are_refused(tmp_path: Path) -> None:
    make_film(tmp_path / "a.mkv")
    film = probe_video(tmp_path / "a.mkv", MANY_PIXELS)
    files = encode_chunks(film, tmp_path, video_settings(), 8)
    with pytest.raises(OutputError, match="16 of 24 frames"):
        assemble(film, files[:2], plan_layout(film.info, "mkv"), tmp_path / "out.mkv")
    gone = [*files[:2], ChunkFile(files[2].chunk, tmp_path / "gone.nut")]
    with pytest.raises(OutputError):
        assemble(film, gone, plan_layout(film.info, "mkv"), tmp_path / "out.mkv")
    moved = Chunk(2, 16, tuple(pts + 7 for pts in files[2].chunk.pts), None)
    with pytest.raises(OutputError):
        assemble(
            film,
            [*files[:2], replace(files[2], chunk=moved)],
            plan_layout(film.info, "mkv"),
            tmp_path / "out.mkv",
        )


@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_a_full_disk_is_not_the_sources_fault(tmp_path: Path, container: str) -> None:
    make_film(tmp_path / "a.mkv", sounds=[Sound()])
    film = probe_video(tmp_path / "a.mkv", MANY_PIXELS)
    files = encode_chunks(film, tmp_path, video_settings(), 99)
    with pytest.raises(ResourceError, match="is full"):
        assemble(film, files, plan_layout(film.info, container), Path("/dev/full"))
    with pytest.raises(OutputError, match="assembling the film into /proc failed"):
        assemble(film, files, plan_layout(film.info, container), Path("/proc/film.mkv"))


def test_a_container_that_cannot_hold_the_codec(tmp_path: Path) -> None:
    make_film(tmp_path / "a.mov", pts=range(2))
    info = probe_video(tmp_path / "a.mov", MANY_PIXELS).info
    assert plan_layout(info, "auto", "hevc").container == "mov"
    assert plan_layout(info, "auto", "ffv1").container == "mkv"
    with pytest.raises(ConfigError, match="mov cannot hold ffv1"):
        plan_layout(info, "mov", "ffv1")


STUDIO_CODECS: dict[str, dict[str, Any]] = {
    "prores": {
        "codec": "prores_ks",
        "pixel_format": "yuv422p10le",
        "preset": "",
        "options": (("profile", "3"),),
    },
    "dnxhr": {
        "codec": "dnxhd",
        "pixel_format": "yuv422p",
        "preset": "",
        "options": (("profile", "dnxhr_hq"),),
    },
}


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.nut"])
@pytest.mark.parametrize("codec", STUDIO_CODECS)
def test_codecs_of_studios(tmp_path: Path, codec: str, name: str) -> None:
    """NUT cannot hold them: their chunks lie in MOV. The film goes to MOV, or stays in MKV where that can."""
    size, base = (256, 128), Fraction(1001, 30000) if name == "a.nut" else Fraction(1, 1000)
    make_film(tmp_path / name, b_frames=2, pts=[7 * each for each in VFR], time_base=base, size=size)
    copy = pass_through(tmp_path / name, settings=video_settings(**STUDIO_CODECS[codec]), target=5)
    assert copy.layout.container == ("mkv" if (codec, name) == ("prores", "a.mkv") else "mov")
    assert sorted(tmp_path.glob("a-*.mov")), "chunk files"
    assert times(copy.result) == times(copy.source)
    assert copy.result.info.codec == {"dnxhr": "dnxhd"}.get(codec, codec)
    matrix = 1 if codec == "dnxhr" else copy.source.info.colour.matrix
    assert copy.result.info.colour == replace(copy.source.info.colour, matrix=matrix)
    assert len(decoded(copy.path)) == len(VFR)
    expected = encoded_bytes(copy.source, tmp_path, codec)
    assert [bytes(packet) for packet in video_packets(copy.path)] == expected, "packets as they were encoded"


def encoded_bytes(film: Film, folder: Path, codec: str) -> list[bytes]:
    (file,) = encode_chunks(film, folder, video_settings(**STUDIO_CODECS[codec]), 99)
    return [bytes(packet) for packet in video_packets(file.path)]


@pytest.mark.parametrize(
    ("native", "codec", "container"),
    [
        ("a.mp4", "ffv1", "mkv"),
        ("a.mov", "ffv1", "mkv"),
        ("a.mp4", "prores_ks", "mov"),
        ("a.mkv", "prores_ks", "mkv"),
        ("a.mkv", "dnxhd", "mov"),
        ("a.mp4", "dnxhd", "mov"),
        ("a.mp4", "qtrle", "mov"),
        ("a.mp4", "huffyuv", "nut"),
        ("a.mp4", "av1", "mp4"),
    ],
)
def test_a_codec_goes_where_it_is_at_home(tmp_path: Path, native: str, codec: str, container: str) -> None:
    make_film(tmp_path / native, pts=range(2))
    info = probe_video(tmp_path / native, MANY_PIXELS).info
    assert plan_layout(info, "auto", codec).container == container
