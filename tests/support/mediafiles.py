"""Small films and pictures for tests, made with PyAV alone: every property of a source is a parameter."""

from __future__ import annotations

import hashlib
import mimetypes
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import pytest
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.packet import Packet
from av.stream import Disposition
from av.subtitles.stream import SubtitleStream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from invsr_daemon.errors import InputError
from invsr_daemon.media.assemble import ChunkFile, assemble
from invsr_daemon.media.decode import decode_chunk
from invsr_daemon.media.encode import chunk_suffix, open_chunk
from invsr_daemon.media.probe import plan_chunks, probe_video
from invsr_daemon.media.rehearsal import plan_layout
from invsr_daemon.records import Colour, Film, Layout, VideoSettings

Pixels = NDArray[np.uint8] | NDArray[np.uint16]
RATE = 48000
MANY_PIXELS = 10**7
VFR = (0, 1, 2, 5, 9, 10, 11, 12, 13, 20, 21, 22, 23, 24, 30, 31, 33)
UNTAGGED = Colour(2, 2, 2, 0)

ASS_HEADER = b"""[Script Info]
ScriptType: v4.00+
[V4+ Styles]
Format: Name, Fontname, Fontsize, PrimaryColour, SecondaryColour, OutlineColour, BackColour, Bold, Italic, \
Underline, StrikeOut, ScaleX, ScaleY, Spacing, Angle, BorderStyle, Outline, Shadow, Alignment, MarginL, \
MarginR, MarginV, Encoding
Style: Default,Arial,16,&Hffffff,&Hffffff,&H0,&H0,0,0,0,0,100,100,0,0,1,1,0,2,10,10,10,0
[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
"""


@dataclass(frozen=True)
class Sound:
    """A sound track: `start` in samples, encoders may begin before it."""

    codec: str = "aac"
    seconds: float = 0.8
    start: int = 0
    language: str = ""
    disposition: Disposition | None = None


@dataclass(frozen=True)
class Subtitles:
    """Lines (start, duration, text) in milliseconds."""

    codec: str = "subrip"
    language: str = "eng"
    lines: tuple[tuple[int, int, str], ...] = ((100, 200, "Hello"), (400, 300, "there"))


@dataclass(frozen=True)
class FilmSpec:
    """A film to make. Frames are moving patterns unless `paint` draws them as RGB."""

    codec: str = "libx264"
    pix_fmt: str = "yuv420p"
    size: tuple[int, int] = (64, 48)
    pts: Sequence[int] = field(default_factory=lambda: range(24))
    time_base: Fraction = Fraction(1, 25)
    rate: Fraction = Fraction(25)
    gop: int = 10
    b_frames: int = 0
    options: dict[str, str] = field(default_factory=dict)
    colour: Colour = UNTAGGED
    rotation: int | None = None
    sample_aspect_ratio: Fraction | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    chapters: int = 0
    sounds: Sequence[Sound] = ()
    subtitles: Sequence[Subtitles] = ()
    attachment: bytes = b""
    cover: bool = False
    covers: dict[str, bytes] = field(default_factory=dict)  # as Matroska has them, by name
    container: str | None = None
    mux_options: dict[str, str] = field(default_factory=dict)
    paint: Callable[[int, tuple[int, int]], Pixels] | None = None


def moving(index: int, size: tuple[int, int]) -> Pixels:
    """A picture that differs from its neighbours everywhere: drifting waves and a bright bar."""
    width, height = size
    y, x = np.mgrid[:height, :width]
    red = 128 + 90 * np.sin((x + 3 * index) / 7.0)
    green = 128 + 90 * np.sin((y + x + 2 * index) / 9.0)
    blue = 128 + 90 * np.cos((y - 2 * index) / 5.0)
    picture: NDArray[np.uint8] = np.stack([red, green, blue], axis=-1).astype(np.uint8)
    picture[:, (5 * index) % width] = 240
    return picture


def flat(*rgb: int) -> Callable[[int, tuple[int, int]], Pixels]:
    """One colour over the whole picture; above 255: 16 bits per channel."""
    kind = np.uint16 if max(rgb) > 255 else np.uint8
    return lambda index, size: np.broadcast_to(np.array(rgb, kind), (size[1], size[0], 3)).copy()


def make_film(path: Path, **properties: Any) -> FilmSpec:
    """Write a film as `FilmSpec` describes it."""
    spec = FilmSpec(**properties)
    with av.open(str(path), "w", format=spec.container, options=spec.mux_options) as container:
        video = _video_stream(container, spec)
        sounds = [_sound_stream(container, sound) for sound in spec.sounds]
        texts = [_subtitle_stream(container, subtitles) for subtitles in spec.subtitles]
        cover = _cover_stream(container) if spec.cover else None
        if spec.attachment:
            container.add_attachment("font.ttf", "application/x-truetype-font", spec.attachment)
        for name, picture in spec.covers.items():
            container.add_attachment(name, mimetypes.guess_type(name)[0] or "", picture)
        container.metadata.update(spec.metadata)
        if spec.chapters:
            container.set_chapters(_chapters(spec.chapters))
        if cover is not None:
            _mux_cover(container, cover)
        _mux_video(container, video, spec)
        for stream, sound in zip(sounds, spec.sounds, strict=True):
            _mux_sound(container, stream, sound)
        for text, subtitles in zip(texts, spec.subtitles, strict=True):
            _mux_subtitles(container, text, subtitles)
    return spec


def make_sound_only(path: Path, *, cover: bool = False) -> None:
    """A file with sound, and perhaps a picture of its record."""
    sound = Sound()
    with av.open(str(path), "w") as container:
        stream = _sound_stream(container, sound)
        picture = _cover_stream(container) if cover else None
        if picture is not None:
            _mux_cover(container, picture)
        _mux_sound(container, stream, sound)


def _chapters(count: int) -> list[Any]:
    return [
        {
            "id": index + 1,
            "start": 200 * index,
            "end": 200 * (index + 1),
            "time_base": Fraction(1, 1000),
            "metadata": {"title": f"Chapter {index + 1}"},
        }
        for index in range(count)
    ]


def _video_stream(container: OutputContainer, spec: FilmSpec) -> VideoStream:
    options = dict(spec.options)
    if spec.codec == "libx264":
        options = {
            "preset": "ultrafast",
            "bf": str(spec.b_frames),
            "crf": "18",
            "sc_threshold": "0",
        } | options
    if spec.codec == "libx265":
        options = {"preset": "ultrafast", "x265-params": "log-level=error:pools=1:frame-threads=1"} | options
    stream = cast(VideoStream, container.add_stream(spec.codec, rate=spec.rate, options=options))
    context = stream.codec_context
    context.width, context.height = spec.size
    context.pix_fmt = spec.pix_fmt
    context.time_base = spec.time_base
    stream.time_base = spec.time_base
    context.gop_size = spec.gop
    context.thread_count = 1
    if spec.codec not in ("libx264", "libx265"):
        context.max_b_frames = spec.b_frames
    context.colorspace, context.color_primaries = spec.colour.matrix, spec.colour.primaries
    context.color_trc, context.color_range = spec.colour.transfer, spec.colour.range
    if spec.sample_aspect_ratio:
        context.sample_aspect_ratio = spec.sample_aspect_ratio
    if spec.rotation is not None:
        stream.set_display_rotation(spec.rotation)
    return stream


def _mux_video(container: OutputContainer, stream: VideoStream, spec: FilmSpec) -> None:
    paint = spec.paint or moving
    for index, pts in enumerate(spec.pts):
        rgb = paint(index, spec.size)
        frame = VideoFrame.from_ndarray(rgb, "rgb48le" if rgb.dtype == np.uint16 else "rgb24")
        matrix = {2: 5, 6: 5, 10: 9}.get(spec.colour.matrix, spec.colour.matrix)
        frame = frame.reformat(
            format=spec.pix_fmt,
            dst_colorspace=matrix or None,
            dst_color_range=spec.colour.range or 1,
            interpolation="BICUBIC",
        )
        frame.pts, frame.time_base = pts, spec.time_base
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def _sound_stream(container: OutputContainer, sound: Sound) -> AudioStream:
    stream = cast(AudioStream, container.add_stream(sound.codec, rate=RATE))
    stream.codec_context.layout = "stereo"
    if sound.codec.startswith("wma"):
        stream.codec_context.bit_rate = 128_000  # without one it cannot be opened
    if sound.language:
        stream.metadata["language"] = sound.language
    if sound.disposition:
        stream.disposition = sound.disposition
    return stream


def _mux_sound(container: OutputContainer, stream: AudioStream, sound: Sound) -> None:
    layout = stream.codec_context.format.name
    size = stream.codec_context.frame_size or 1024
    total = int(sound.seconds * RATE)
    wave = np.sin(np.arange(total) * 2 * np.pi * 440 / RATE)
    for begin in range(0, total, size):
        part = wave[begin : begin + size]
        if layout.startswith("flt"):
            data = np.stack([part, part / 2]).astype(np.float32)
        else:
            data = (np.stack([part, part / 2]) * 20000).astype(np.int16)
        if not layout.endswith("p"):
            data = np.ascontiguousarray(data.T.reshape(1, -1))
        frame = AudioFrame.from_ndarray(data, layout, "stereo")
        frame.sample_rate, frame.pts, frame.time_base = RATE, sound.start + begin, Fraction(1, RATE)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def _subtitle_stream(container: OutputContainer, subtitles: Subtitles) -> SubtitleStream:
    stream = cast(SubtitleStream, container.add_stream(subtitles.codec))
    stream.codec_context.subtitle_header = ASS_HEADER
    stream.time_base = Fraction(1, 1000)
    stream.metadata["language"] = subtitles.language
    return stream


def _mux_subtitles(container: OutputContainer, stream: SubtitleStream, subtitles: Subtitles) -> None:
    for number, (start, duration, text) in enumerate(subtitles.lines):
        line = text.encode()
        if subtitles.codec == "ass":
            line = f"{number},0,Default,,0,0,0,,{text}".encode()
        elif subtitles.codec == "mov_text":
            line = len(line).to_bytes(2) + line
        packet = Packet(line)
        packet.pts = packet.dts = start
        packet.duration = duration
        packet.time_base = Fraction(1, 1000)
        packet.stream = stream
        container.mux_one(packet)


def _cover_stream(container: OutputContainer) -> VideoStream:
    stream = container.add_stream("mjpeg", rate=1)
    stream.codec_context.width, stream.codec_context.height = 32, 32
    stream.codec_context.pix_fmt = "yuvj420p"
    stream.disposition = Disposition.attached_pic
    return stream


def _mux_cover(container: OutputContainer, stream: VideoStream) -> None:
    frame = VideoFrame.from_ndarray(moving(0, (32, 32)), "rgb24").reformat(format="yuvj420p")
    frame.pts, frame.time_base = 0, Fraction(1, 1)
    container.mux([*stream.encode(frame), *stream.encode(None)])


@dataclass(frozen=True)
class PacketFacts:
    """What must survive the copying of a packet: when, and exactly which bytes."""

    time: Fraction | None
    duration: Fraction
    md5: str


def packets(path: Path, index: int) -> list[PacketFacts]:
    """Every packet of one stream."""
    return list(_packets(path, index))


def _packets(path: Path, index: int) -> Iterator[PacketFacts]:
    with av.open(str(path)) as container:
        stream = container.streams[index]
        for packet in container.demux(stream):
            if packet.size:
                base = packet.time_base
                time = None if packet.pts is None else packet.pts * base
                yield PacketFacts(time, (packet.duration or 0) * base, hashlib.md5(bytes(packet)).hexdigest())


def video_packets(path: Path) -> list[Packet[VideoStream]]:
    """The video's packets in decoding order."""
    with av.open(str(path)) as container:
        return [packet for packet in container.demux(container.streams.video[0]) if packet.size]


def decoded(path: Path) -> list[VideoFrame]:
    """Every frame of the first video stream, which must decode without an error."""
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def video_settings(**changed: Any) -> VideoSettings:
    """Quick and nearly lossless."""
    settings = VideoSettings(
        codec="h264",
        crf=8,
        preset="ultrafast",
        pixel_format="auto",
        container="auto",
        threads=1,
        options=(),
    )
    return replace(settings, **changed)


def encode_chunks(film: Film, folder: Path, settings: VideoSettings, target: int) -> list[ChunkFile]:
    """Every chunk of a film through decoder and encoder, with nothing in between."""
    files, suffix = [], chunk_suffix(settings.codec)
    for chunk in plan_chunks(film, target):
        file = ChunkFile(chunk, folder / f"{film.info.path.stem}-{chunk.index}{suffix}")
        file.path.unlink(missing_ok=True)  # of other settings
        with open_chunk(file.path, film.info, chunk, settings, 1.0) as encoder:
            for frame in decode_chunk(film.info, chunk):
                encoder.encode(frame)
        files.append(file)
    return files


@dataclass(frozen=True)
class Copy:
    """A film that went through chunks and assembly: both ends, as probed."""

    source: Film
    result: Film
    layout: Layout

    @property
    def path(self) -> Path:
        return self.result.info.path


def pass_through(
    path: Path, *, target: int = 8, container: str = "auto", settings: VideoSettings | None = None
) -> Copy:
    """Probe, cut, decode, encode and assemble a film, with no model in between."""
    film = probe_video(path, MANY_PIXELS)
    settings = settings or video_settings()
    files = encode_chunks(film, path.parent, settings, target)
    layout = plan_layout(film.info, container, settings.codec)
    output = path.with_name(f"{path.stem}.restored.{layout.container}")
    assemble(film, files, layout, output)
    return Copy(film, probe_video(output, MANY_PIXELS), layout)


def times(film: Film) -> list[Fraction]:
    """Every frame's timestamp in seconds."""
    return [pts * film.info.time_base for pts in film.pts]


def errors_of(path: Path) -> str:
    """The text of the InputError that probing raises, which must be one line."""
    with pytest.raises(InputError) as caught:
        probe_video(path, MANY_PIXELS)
    text = str(caught.value)
    assert text
    assert "\n" not in text
    return text
