"""What muxers would refuse after hours is mended, left out or refused while a film is looked at."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import pytest
from av.packet import Packet
from av.stream import Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from hypothesis import given
from hypothesis import strategies as st

from invsr_daemon.media.probe import probe_video, rising_times
from invsr_daemon.media.rehearsal import Nothing, Trial
from invsr_daemon.media.steps import STEP_SECONDS, Steps
from invsr_daemon.media.verify import verify_film
from tests.support.mediafiles import (
    Copy,
    Sound,
    Subtitles,
    errors_of,
    make_film,
    packets,
    pass_through,
    times,
)

BASE = Fraction(1, 90_000)


def restored(path: Path, container: str = "auto") -> Copy:
    """Through chunks and assembly, and looked at as a result is."""
    copy = pass_through(path, container=container)
    verify_film(copy.path, copy.source, copy.layout)
    return copy


def joined(path: Path, *parts: Path) -> Path:
    """As `cat a b > c`."""
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


@pytest.mark.parametrize("container", ["mov", "mkv"])
def test_a_timecode_track(tmp_path: Path, container: str) -> None:
    make_film(tmp_path / "a.mov", metadata={"timecode": "01:02:03:04"}, sounds=(Sound(),))
    copy = restored(tmp_path / "a.mov", container=container)
    assert [other.type for other in copy.source.info.others] == ["audio", "data"]
    assert copy.layout.copied == (1,)
    assert copy.layout.notes == () or container == "mkv"
    with av.open(str(copy.path)) as film:
        stated = {key.lower(): value for key, value in film.streams.video[0].metadata.items()}
    assert stated["timecode"] == "01:02:03:04"


@pytest.mark.parametrize(
    ("suffix", "codec"), [("vob", "mpeg2video"), ("mpg", "mpeg2video"), ("mkv", "libx264")]
)
def test_joined_films_go_on_where_the_first_one_ended(tmp_path: Path, suffix: str, codec: str) -> None:
    first = tmp_path / f"a.{suffix}"
    sound = Sound(codec="ac3", seconds=1.0) if suffix == "vob" else Sound(codec="mp2", seconds=1.0)
    make_film(first, codec=codec, pts=range(25), sounds=(sound,))
    copy = restored(joined(tmp_path / f"b.{suffix}", first, first))
    found = times(copy.result)
    assert len(found) == 50
    gaps = [float(later - earlier) for earlier, later in pairwise(found)]
    assert gaps == pytest.approx([0.04] * 49, abs=0.002)
    assert "its clock starts again at frame 25: it goes on there" in copy.source.info.notes
    with av.open(str(copy.path)) as film:
        dts = [packet.dts * packet.time_base for packet in film.demux(audio=0) if packet.dts is not None]
    sounds = [float(each) for each in dts]
    assert sounds == sorted(sounds)
    assert sounds[-1] - sounds[0] == pytest.approx(2.0, abs=0.15)


def test_a_main_film_that_is_not_the_first_one(tmp_path: Path) -> None:
    make_film(tmp_path / "small.mkv", size=(32, 32), pts=range(3))
    make_film(tmp_path / "main.mkv", pts=range(8))
    with (
        av.open(str(tmp_path / "small.mkv")) as small,
        av.open(str(tmp_path / "main.mkv")) as main,
        av.open(str(tmp_path / "two.mkv"), "w") as two,
    ):
        copies = [two.add_stream_from_template(source.streams.video[0]) for source in (small, main)]
        copies[0].disposition, copies[1].disposition = Disposition(0), Disposition.default
        for source, copy in zip((small, main), copies, strict=True):
            for packet in source.demux(video=0):
                if packet.size:
                    packet.stream = copy
                    two.mux(packet)
    copied = restored(tmp_path / "two.mkv")
    assert copied.source.info.stream == 1
    with av.open(str(copied.path)) as film:
        assert [stream.codec_context.width for stream in film.streams.video] == [32, 64]
        assert sum(1 for packet in film.demux(video=1) if packet.size) == 8


def test_dv_has_a_rate_that_is_no_clock(tmp_path: Path) -> None:
    sound = Sound(codec="pcm_s16le", seconds=0.12)
    make_film(tmp_path / "a.dv", codec="dvvideo", size=(720, 576), pts=range(3), sounds=(sound,))
    copy = restored(tmp_path / "a.dv")
    assert copy.source.info.rate == 25
    assert len(copy.result.pts) == 3


def test_colours_that_cannot_be_converted_are_refused_before_work(tmp_path: Path) -> None:
    make_film(tmp_path / "a.mkv", options={"x264-params": "colormatrix=YCgCo"})
    assert errors_of(tmp_path / "a.mkv").startswith("its colours (YCgCo) cannot be converted to RGB")


def test_a_muxer_that_refuses_packets_is_heard(tmp_path: Path) -> None:
    make_film(tmp_path / "a.mkv", sounds=(Sound(codec="aac"),))
    with av.open(str(tmp_path / "a.mkv")) as source:
        sound = source.streams.audio[0]
        good, bad = Trial("mp4", sound), Trial("mp4", sound)
        first, second = list(source.demux(sound))[:2]
        good.mux(first)
        good.mux(second)
        assert good.end() is None
        for dts in (1000, 10):
            packet = Packet(b"sound")
            packet.pts = packet.dts = dts
            packet.time_base = Fraction(1, 1000)
            bad.mux(packet)
        assert bad.end() == "Invalid argument"


def test_nothing_is_kept_of_what_is_rehearsed() -> None:
    nothing = Nothing()
    nothing.write(bytes(100))
    nothing.seek(20)
    nothing.write(bytes(10))
    assert (nothing.tell(), nothing.seek(0, 2)) == (30, 100)


@given(st.lists(st.integers(-(10**6), 10**6), min_size=1), st.sampled_from(["mp4", "mkv", "mov"]))
def test_mended_times_rise(given_times: Sequence[int], container: str) -> None:
    steps = Steps(container)
    last: int | None = None
    mended = 0
    for dts in given_times:
        packet = Packet(b"")
        packet.pts, packet.dts, packet.time_base, packet.duration = dts + 5, dts, BASE, 40
        steps.mend(1, packet)
        assert packet.dts is not None
        assert packet.pts is not None
        assert packet.pts >= packet.dts
        if last is not None:
            assert packet.dts >= last if container == "mkv" else packet.dts > last
        mended += packet.dts != dts and steps.mended[1] > mended
        last = packet.dts
    if given_times == sorted(set(given_times)):
        assert steps.mended[1] == 0


def test_a_mended_step_is_one_in_a_muxers_own_units() -> None:
    steps = Steps("mp4")
    for dts in (900, 899):
        packet = Packet(b"")
        packet.pts, packet.dts, packet.time_base = dts, dts, BASE
        steps.mend(0, packet)
    assert packet.dts is not None
    assert (packet.dts - 900) * BASE >= STEP_SECONDS


def test_a_film_without_other_streams_is_not_read_again(tmp_path: Path) -> None:
    make_film(tmp_path / "a.mkv")
    assert probe_video(tmp_path / "a.mkv", 10**6).info.others == ()


@pytest.mark.parametrize(("codec", "name"), [("mjpeg", "front.jpg"), ("png", "front.png")])
def test_a_cover_stays_an_attachment_of_its_name(tmp_path: Path, codec: str, name: str) -> None:
    picture = av.CodecContext.create(codec, "w")
    assert isinstance(picture, VideoCodecContext)
    picture.width, picture.height, picture.time_base = 32, 32, Fraction(1)
    picture.pix_fmt = "yuvj420p" if codec == "mjpeg" else "rgb24"
    frame = VideoFrame(32, 32, picture.pix_fmt)
    frame.pts = 0
    cover = b"".join(bytes(packet) for packet in [*picture.encode(frame), *picture.encode(None)])
    make_film(tmp_path / "a.mkv", sounds=(Sound(),), covers={name: cover})
    copy = restored(tmp_path / "a.mkv")
    assert copy.layout.notes == ()
    for path in (tmp_path / "a.mkv", copy.path):
        with av.open(str(path)) as film:
            (found,) = [stream for stream in film.streams if stream.disposition & Disposition.attached_pic]
            assert found.metadata["filename"] == name
            assert bytes(next(film.demux(found))) == cover


def test_a_cover_of_an_mp4_becomes_one_in_matroska(tmp_path: Path) -> None:
    make_film(tmp_path / "a.mp4", cover=True)
    copy = restored(tmp_path / "a.mp4", container="mkv")
    with av.open(str(copy.path)) as film:
        (found,) = [stream for stream in film.streams if stream.disposition & Disposition.attached_pic]
        assert found.metadata["filename"].startswith("cover.")


def test_subtitles_of_a_part_stay_with_it(tmp_path: Path) -> None:
    first = tmp_path / "a.mkv"
    make_film(first, pts=range(25), subtitles=(Subtitles(lines=((100, 50, "one"), (400, 50, "two"))),))
    copy = restored(joined(tmp_path / "b.mkv", first, first))
    shown = [packet.time for packet in packets(copy.path, 1)]
    assert [float(time) for time in shown if time is not None] == pytest.approx([0.1, 0.4, 1.1, 1.4])


def test_a_frame_that_is_far_ahead_is_no_part() -> None:
    times_given = [*range(0, 400, 40), 10_000, *range(440, 800, 40)]
    rising, notes, joints = rising_times(times_given, 40, 200)
    assert joints == ()
    assert rising == sorted(set(rising))
    assert rising[-1] < 10_020, "it is in step again soon"
    assert len(notes) == 1


def test_a_packet_that_comes_late_moves_no_other() -> None:
    steps = Steps("mkv")
    found = []
    for dts in (10_000, 20_000, 15_000, 30_000, 40_000):
        packet = Packet(b"")
        packet.pts, packet.dts, packet.time_base = dts, dts, Fraction(1, 1000)
        steps.mend(2, packet)
        found.append(packet.dts)
    assert found == [10_000, 20_000, 20_000, 30_000, 40_000]


def test_sound_of_a_codec_that_nobody_knows_is_left_out_by_name(tmp_path: Path) -> None:
    make_film(tmp_path / "a.mkv", sounds=(Sound(codec="pcm_s16le"),))
    unknown = (tmp_path / "a.mkv").read_bytes().replace(b"A_PCM/INT/LIT", b"A_XYZ/INT/LIT")
    (tmp_path / "b.mkv").write_bytes(unknown)
    copy = restored(tmp_path / "b.mkv")
    assert copy.layout.carried == ()
    assert any("was left out" in note for note in copy.layout.notes)
