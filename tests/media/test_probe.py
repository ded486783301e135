"""What a film holds is found exactly; what is no film, or a broken one, is refused in one line."""

from __future__ import annotations

import os
import struct
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Any

import av
import pytest
from PIL import Image

from invsr_daemon.errors import InputError
from invsr_daemon.media.probe import probe_video
from invsr_daemon.records import Colour, Film
from tests.support.mediafiles import (
    MANY_PIXELS,
    VFR,
    FilmSpec,
    Sound,
    Subtitles,
    errors_of,
    make_film,
    make_sound_only,
    times,
)

OPEN_GOP = {"x264-params": "open-gop=1"}


def probed(path: Path, **properties: Any) -> Film:
    make_film(path, **properties)
    return probe_video(path, MANY_PIXELS)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mov", "a.nut", "a.flv", "a.webm", "a.asf"])
@pytest.mark.parametrize("pts", [range(24), VFR], ids=["cfr", "vfr"])
def test_every_timestamp_is_found(tmp_path: Path, name: str, pts: tuple[int, ...]) -> None:
    codec = {"webm": "libvpx", "asf": "wmv2"}.get(name[2:], "libx264")
    b_frames = 2 if codec == "libx264" else 0
    film = probed(tmp_path / name, pts=pts, codec=codec, b_frames=b_frames)
    first = times(film)[0]
    assert [time - first for time in times(film)] == [Fraction(each, 25) for each in pts]
    assert film.info.rate == 25 or pts is VFR
    assert film.info.notes == ()


def test_time_base_and_numbers_are_the_containers_own(tmp_path: Path) -> None:
    film = probed(tmp_path / "a.mp4", b_frames=2)
    assert film.info.time_base == Fraction(1, 12800)
    assert film.pts == tuple(range(0, 24 * 512, 512))
    assert film.last_duration == 512
    assert probed(tmp_path / "a.mkv").info.time_base == Fraction(1, 1000)
    assert probed(tmp_path / "a.ts").info.time_base == Fraction(1, 90000)


def test_a_film_that_begins_late_begins_late(tmp_path: Path) -> None:
    film = probed(tmp_path / "a.mp4", pts=[50, 51, 55], mux_options={"movie_timescale": "12800"})
    assert times(film) == [Fraction(50, 25), Fraction(51, 25), Fraction(55, 25)]


@pytest.mark.parametrize("options", [{}, OPEN_GOP], ids=["closed", "open"])
@pytest.mark.parametrize("b_frames", [0, 2])
def test_seek_points_are_the_keyframes(tmp_path: Path, options: dict[str, str], b_frames: int) -> None:
    for name in ("a.mp4", "a.mkv", "a.ts"):
        film = probed(tmp_path / name, options=options, b_frames=b_frames)
        assert [point.frame for point in film.seek_points] == [0, 10, 20], name


def test_transport_streams_keep_vfr(tmp_path: Path) -> None:
    film = probed(tmp_path / "a.ts", pts=VFR, b_frames=2)
    assert [time - times(film)[0] for time in times(film)] == [Fraction(each, 25) for each in VFR]


def test_avi_with_gaps_is_not_taken_for_cut_off(tmp_path: Path) -> None:
    film = probed(tmp_path / "a.avi", codec="mpeg4", pts=VFR, sounds=[Sound("mp2")])
    assert times(film) == [Fraction(each, 25) for each in VFR]


ALPHA = [
    ("a.mov", {"codec": "prores_ks", "pix_fmt": "yuva444p10le"}, True),
    ("a.mkv", {"codec": "ffv1", "pix_fmt": "yuva420p"}, True),
    ("a.mkv", {"codec": "ffv1", "pix_fmt": "yuv420p"}, False),
    ("a.gif", {"codec": "gif", "pix_fmt": "rgb8", "time_base": Fraction(1, 100)}, False),
]


@pytest.mark.parametrize(("name", "properties", "transparent"), ALPHA)
def test_transparency_that_is_left_out_is_noted(
    tmp_path: Path, name: str, properties: dict[str, Any], transparent: bool
) -> None:
    film = probed(tmp_path / name, **properties)
    assert ("its transparency is left out" in film.info.notes) == transparent
    assert film.seek_points, "no less for that"


def test_a_transparent_gif_is_noted(tmp_path: Path) -> None:
    frames = [Image.new("RGBA", (32, 32), (255, 0, number, 0)) for number in range(3)]
    frames[1].putpixel((3, 3), (0, 0, 255, 255))
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], disposal=2)
    assert probe_video(tmp_path / "a.gif", MANY_PIXELS).info.notes == ("its transparency is left out",)


def test_avi_has_no_presentation_times_for_b_frames_and_the_notes_say_so(tmp_path: Path) -> None:
    film = probed(tmp_path / "a.avi", b_frames=2)
    assert [later - earlier for earlier, later in zip(film.pts, film.pts[1:], strict=False)] == [1] * 23
    assert "decoding times" in film.info.notes[0]
    assert film.seek_points == ()


def test_gif(tmp_path: Path) -> None:
    film = probed(tmp_path / "a.gif", codec="gif", pix_fmt="rgb8", pts=VFR, time_base=Fraction(1, 100))
    assert film.pts == VFR
    assert film.info.time_base == Fraction(1, 100)
    assert film.info.colour == Colour(1, 2, 2, 1)


@pytest.mark.parametrize("b_frames", [0, 2])
def test_a_raw_stream_has_no_timestamps_and_the_notes_say_so(tmp_path: Path, b_frames: int) -> None:
    film = probed(tmp_path / "a.h264", container="h264", b_frames=b_frames)
    assert times(film) == [Fraction(index, 25) for index in range(24)]
    assert film.seek_points == ()
    assert "no timestamps" in film.info.notes[0]
    assert "25 frames per second" in film.info.notes[0]


@pytest.mark.parametrize("rate", [Fraction(24000, 1001), Fraction(50), Fraction(60000, 1001)])
def test_a_raw_stream_has_the_rate_that_it_states(tmp_path: Path, rate: Fraction) -> None:
    film = probed(tmp_path / "a.h264", container="h264", rate=rate, time_base=1 / rate)
    assert film.info.rate == rate
    assert float(times(film)[-1]) == pytest.approx(23 / rate, abs=1e-5)
    assert f"{float(rate):g} frames per second" in film.info.notes[0]


UNTAGGED_SIZES = [((64, 48), 6), ((1280, 64), 1), ((64, 720), 1), ((1278, 64), 6)]


@pytest.mark.parametrize(("size", "matrix"), UNTAGGED_SIZES)
def test_untagged_sd_is_601_and_hd_is_709(tmp_path: Path, size: tuple[int, int], matrix: int) -> None:
    assert probed(tmp_path / "a.mp4", size=size, pts=range(2)).info.colour == Colour(matrix, 2, 2, 1)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
@pytest.mark.parametrize(
    "tags", [Colour(1, 1, 1, 1), Colour(5, 5, 6, 1), Colour(1, 1, 1, 2), Colour(9, 9, 16, 1)]
)
def test_colour_tags(tmp_path: Path, name: str, tags: Colour) -> None:
    assert probed(tmp_path / name, colour=tags, pts=range(2)).info.colour == tags


def test_full_range_jpeg(tmp_path: Path) -> None:
    film = probed(tmp_path / "a.avi", codec="mjpeg", pix_fmt="yuvj420p", pts=range(2))
    assert film.info.colour.range == 2


def test_ten_bits(tmp_path: Path) -> None:
    assert probed(tmp_path / "a.mkv", pix_fmt="yuv420p10le", pts=range(2)).info.depth == 10
    assert probed(tmp_path / "b.mkv", pts=range(2)).info.depth == 8


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv"])
def test_rotation_and_sample_aspect_ratio(tmp_path: Path, name: str) -> None:
    film = probed(tmp_path / name, rotation=90, sample_aspect_ratio=Fraction(4, 3), pts=range(3))
    one = 1 << 16
    assert film.info.display_matrix == (0, -one, 0, one, 0, 0, 0, 0, 1 << 30)
    assert film.info.sample_aspect_ratio == Fraction(4, 3)
    assert (film.info.width, film.info.height) == (64, 48)
    plain = probed(tmp_path / f"plain-{name}", pts=range(3))
    assert plain.info.display_matrix is None


def test_other_streams(tmp_path: Path) -> None:
    film = probed(
        tmp_path / "a.mkv",
        sounds=[Sound(), Sound("pcm_s16le")],
        subtitles=[Subtitles("ass")],
        attachment=b"font" * 20,
    )
    assert [other.type for other in film.info.others] == ["audio", "audio", "subtitle", "attachment"]
    assert [other.index for other in film.info.others] == [1, 2, 3, 4]
    assert [other.codec for other in film.info.others][:2] == ["aac", "pcm_s16le"]
    aac, pcm, lines, font = (other.size for other in film.info.others)
    assert pcm > 1000
    assert 0 < aac < pcm
    assert lines > 0
    assert font == 80


def test_the_attached_picture_is_not_the_film(tmp_path: Path) -> None:
    film = probed(tmp_path / "a.mp4", cover=True, sounds=[Sound()])
    assert (film.info.width, film.info.height, len(film.pts)) == (64, 48, 24)
    assert [(other.type, other.codec) for other in film.info.others] == [("audio", "aac"), ("cover", "mjpeg")]


def test_sound_with_a_cover_is_no_film(tmp_path: Path) -> None:
    make_sound_only(tmp_path / "a.mp4", cover=True)
    assert errors_of(tmp_path / "a.mp4") == "it holds no video"


def test_a_film_that_its_edit_list_shortens_is_not_cut_off(tmp_path: Path) -> None:
    make_film(tmp_path / "a.mp4", pts=range(60), b_frames=2)
    data = bytearray((tmp_path / "a.mp4").read_bytes())
    duration = data.find(b"elst") + 12
    assert struct.unpack(">I", data[duration : duration + 4]) == (2400,)
    data[duration : duration + 4] = struct.pack(">I", 1200)
    (tmp_path / "trimmed.mp4").write_bytes(data)
    assert times(probe_video(tmp_path / "trimmed.mp4", MANY_PIXELS)) == [Fraction(i, 25) for i in range(30)]


HOSTILE_NAMES = [
    "a:b.mp4",
    "f%d.mp4",
    "-i.mp4",
    "new\nline.mp4",
    os.fsdecode(b"bad\xff\xfe.mp4"),
    "file:x.mp4",
    "concat:a|b.mp4",
    "*.mp4",
    "a b#?&.mp4",
    "film",
]


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_hostile_names_are_only_names(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make_film(tmp_path / "plain.mp4", pts=range(3))
    (tmp_path / "plain.mp4").rename(tmp_path / name)
    assert len(probe_video(tmp_path / name, MANY_PIXELS).pts) == 3
    monkeypatch.chdir(tmp_path)
    assert len(probe_video(Path(name), MANY_PIXELS).pts) == 3


def test_what_is_no_regular_file(tmp_path: Path) -> None:
    make_film(tmp_path / "film.mp4", pts=range(3))
    (tmp_path / "link.mp4").symlink_to(tmp_path / "film.mp4")
    os.mkfifo(tmp_path / "fifo.mp4")
    (tmp_path / "empty.mp4").touch()
    assert "symbolic link" in errors_of(tmp_path / "link.mp4")
    assert "not a regular file" in errors_of(tmp_path / "fifo.mp4")
    assert "not a regular file" in errors_of(tmp_path)
    assert "not a regular file" in errors_of(Path("/dev/zero"))
    assert "zero bytes" in errors_of(tmp_path / "empty.mp4")
    assert "no such file" in errors_of(tmp_path / "none.mp4")
    assert errors_of(tmp_path / "film.mp4" / "below.mp4")


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.png", "a.ts"])
def test_text_and_noise_are_no_films(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("Dear diary, today I renamed a text.\n" * 500)
    assert "not a film" in errors_of(tmp_path / name)
    (tmp_path / name).write_bytes(Random(1).randbytes(50_000))
    assert "not a film" in errors_of(tmp_path / name)


PLAYLISTS = {
    "m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{film}\n#EXT-X-ENDLIST\n",
    "ffconcat": "ffconcat version 1.0\nfile {film}\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5000 RTP/AVP 96\n",
}


@pytest.mark.parametrize("kind", PLAYLISTS)
@pytest.mark.parametrize("suffix", ["mp4", "own"])
def test_playlists_do_not_open_other_files(tmp_path: Path, kind: str, suffix: str) -> None:
    make_film(tmp_path / "film.mp4", pts=range(3))
    path = tmp_path / f"list.{kind if suffix == 'own' else suffix}"
    path.write_text(PLAYLISTS[kind].format(film="film.mp4"))
    assert "not a film" in errors_of(path)


def cut(path: Path, part: float) -> Path:
    data = path.read_bytes()
    shorter = path.with_name(f"cut-{path.name}")
    shorter.write_bytes(data[: int(len(data) * part)])
    return shorter


@pytest.mark.parametrize("part", [0.3, 0.6, 0.98])
@pytest.mark.parametrize(
    ("name", "mux_options"),
    [
        ("a.mp4", {}),
        ("a.mp4", {"movflags": "+faststart"}),
        ("a.mp4", {"movflags": "frag_keyframe+empty_moov"}),
        ("a.mkv", {}),
        ("a.mov", {}),
    ],
    ids=["mp4", "faststart", "fragmented", "mkv", "mov"],
)
def test_films_that_are_cut_off(tmp_path: Path, name: str, mux_options: dict[str, str], part: float) -> None:
    make_film(tmp_path / name, pts=range(60), sounds=[Sound(seconds=2.4)], mux_options=mux_options)
    assert len(probe_video(tmp_path / name, MANY_PIXELS).pts) == 60
    assert "cut off" in errors_of(cut(tmp_path / name, part))


@pytest.mark.parametrize("name", ["a.avi", "a.flv", "a.nut"])
def test_cut_off_films_whose_header_tells_nothing_of_it(tmp_path: Path, name: str) -> None:
    make_film(tmp_path / name, pts=range(60))
    assert errors_of(cut(tmp_path / name, 0.6))


def test_a_live_matroska_states_no_size_and_is_not_cut_off(tmp_path: Path) -> None:
    make_film(tmp_path / "a.mkv", mux_options={"live": "1"})
    assert len(probe_video(tmp_path / "a.mkv", MANY_PIXELS).pts) == 24


def test_padding_behind_a_film_does_no_harm(tmp_path: Path) -> None:
    make_film(tmp_path / "a.mp4")
    with (tmp_path / "a.mp4").open("ab") as file:
        file.write(b"\xff" * 1000)
    assert len(probe_video(tmp_path / "a.mp4", MANY_PIXELS).pts) == 24


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi", "a.ts"])
def test_damaged_packets_are_no_silent_garbage(tmp_path: Path, name: str) -> None:
    make_film(tmp_path / name, pts=range(60))
    with av.open(str(tmp_path / name)) as container:
        places = [
            packet.pos + packet.size // 2 for packet in container.demux(video=0) if packet.size and packet.pos
        ]
    data = bytearray((tmp_path / name).read_bytes())
    for place in places[20:40]:
        for offset in range(-20, 20):
            data[place + offset] ^= 0x5A
    (tmp_path / name).write_bytes(data)
    assert "damaged" in errors_of(tmp_path / name)


def test_a_transport_stream_with_lost_packets_is_damaged(tmp_path: Path) -> None:
    make_film(tmp_path / "a.ts", pts=range(60))
    data = (tmp_path / "a.ts").read_bytes()
    middle = len(data) // 2 // 188 * 188
    (tmp_path / "a.ts").write_bytes(data[:middle] + data[middle + 6 * 188 :])
    assert "damaged" in errors_of(tmp_path / "a.ts")


def test_a_container_without_frames(tmp_path: Path) -> None:
    for name in ("a.mp4", "a.mkv"):
        make_film(tmp_path / name, pts=(), codec="mpeg4", sounds=[Sound()])
        assert errors_of(tmp_path / name)


def test_sound_alone_is_no_film(tmp_path: Path) -> None:
    make_sound_only(tmp_path / "a.mp4")
    assert errors_of(tmp_path / "a.mp4") == "it holds no video"


def test_frames_beyond_the_limit(tmp_path: Path) -> None:
    make_film(tmp_path / "a.mp4", pts=range(3))
    assert probe_video(tmp_path / "a.mp4", 64 * 48).pts
    with pytest.raises(InputError, match="64x48 exceed the limit of 3071 pixels"):
        probe_video(tmp_path / "a.mp4", 64 * 48 - 1)


def test_a_header_that_claims_absurd_dimensions(tmp_path: Path) -> None:
    make_film(tmp_path / "a.mkv", codec="mpeg4", pts=range(3))
    data = (tmp_path / "a.mkv").read_bytes()
    claimed = data.replace(b"\xb0\x81\x40\xba\x81\x30", b"\xb0\x82\xfd\xe8\xba\x82\xfd\xe8"[:6])
    assert claimed != data
    (tmp_path / "a.mkv").write_bytes(claimed)
    assert errors_of(tmp_path / "a.mkv")


def test_tiny_frames(tmp_path: Path) -> None:
    make_film(tmp_path / "a.mkv", codec="ffv1", size=(4, 4), pts=range(2))
    assert "smaller than 8x8" in errors_of(tmp_path / "a.mkv")


def test_a_size_that_changes_midway(tmp_path: Path) -> None:
    make_film(tmp_path / "a.h264", container="h264", pts=range(5))
    make_film(tmp_path / "b.h264", container="h264", pts=range(5), size=(80, 64))
    both = (tmp_path / "a.h264").read_bytes() + (tmp_path / "b.h264").read_bytes()
    (tmp_path / "c.h264").write_bytes(both)
    assert "frame size changes at frame 5" in errors_of(tmp_path / "c.h264")


def test_the_generator_is_deterministic(tmp_path: Path) -> None:
    """Or tests that pass today could fail tomorrow."""
    specs: list[FilmSpec] = [make_film(tmp_path / f"{i}.nut", pts=range(5), b_frames=1) for i in (0, 1)]
    assert specs[0].codec == specs[1].codec
    with av.open(str(tmp_path / "0.nut")) as one, av.open(str(tmp_path / "1.nut")) as other:
        packets = [[bytes(packet) for packet in each.demux(video=0)] for each in (one, other)]
    assert packets[0] == packets[1]
