"""Chunk files and the source's other streams into one film.

Video packets keep their pts; dts are computed anew over the whole film, because every chunk's first
dts lies before its first pts. Other streams are copied packet by packet.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import lcm
from pathlib import Path
from typing import Any

import av
import av.error
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import AttachmentStream, Discard, Stream
from av.video.stream import VideoStream

from ..errors import ConfigError, InputError, OutputError
from ..records import Chunk, Film, Layout, StreamInfo, VideoInfo
from .carrying import LOSSLESS, Carrier, carrier, kept_metadata
from .encode import chunk_origin, codec_name, holds_codec, set_colour, writing_error, written_colour
from .source import File, OpenFile, is_cover, open_source, packets_of
from .steps import Steps

# A file name's suffix, and the container it asks for.
SUFFIXES = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "mkv", ".nut": "nut"}
FORMATS = {"mp4": "mp4", "mov": "mov", "mkv": "matroska", "nut": "nut"}
# Where players expect a codec that MP4's muxer would also take, or that MP4 lacks.
HOME = {"ffv1": "mkv", "prores": "mov", "dnxhd": "mov"}
# Covers that Matroska has as attachments: how they are called if nobody says, and of what kind they are.
COVERS = {"mjpeg": ("cover.jpg", "image/jpeg"), "png": ("cover.png", "image/png")}
MILLISECOND = Fraction(1, 1000)
LARGEST_TIMESCALE = 2**31 - 1


@dataclass(frozen=True)
class ChunkFile:
    """A finished chunk and where it lies."""

    chunk: Chunk
    path: Path


def possible_layouts(
    info: VideoInfo, wanted: str, codec: str = "h264", file: OpenFile | None = None
) -> list[Layout]:
    """Containers for a film that is encoded with `codec`, and what of the source each can hold by its header.

    The best is first. `auto` keeps to the source's family (Matroska stays Matroska, QuickTime QuickTime, all
    else becomes MP4) unless the codec is at home elsewhere, or more would be lost there than in Matroska,
    which holds nearly everything. `file`: the source, if it is open already.
    Raises ConfigError for an unknown container, or one that cannot hold the codec.
    """
    check_container(wanted, codec)
    with open_source(file or info.path) as source:
        candidates = [wanted] if wanted != "auto" else _candidates(_native(source), codec)
        layouts = [_layout(info, file or info.path, source, each) for each in candidates]
    # In their order where equal.
    return sorted(layouts, key=lambda layout: (-len(layout.carried), len(layout.transcoded)))


def _candidates(native: str, codec: str) -> list[str]:
    """Containers that hold the codec, the best first. ConfigError if there are none."""
    first = native if native == "mkv" else HOME.get(codec_name(codec), native)
    found = [each for each in dict.fromkeys((first, "mkv", "mov")) if _carries(each, codec)]
    found = found or [each for each in ("nut",) if _carries(each, codec)]
    if not found:
        raise ConfigError(f"video.codec: no container that is known here holds what {codec} encodes")
    return found


def check_container(wanted: str, codec: str) -> None:
    """Raise ConfigError for an unknown container, or one that cannot hold the codec."""
    if wanted != "auto" and wanted not in FORMATS:
        raise ConfigError(f"video.container: {wanted!r} is none of auto, {', '.join(FORMATS)}")
    if wanted != "auto" and not _carries(wanted, codec):
        raise ConfigError(f"video.container: {wanted} cannot hold {codec}")


def _carries(container: str, codec: str) -> bool:
    """Whether a container takes an encoder's film."""
    return holds_codec(FORMATS[container], codec)


def _native(source: InputContainer) -> str:
    if "matroska" in source.format.name:
        return "mkv"
    return "mov" if source.metadata.get("major_brand", "").strip() == "qt" else "mp4"


def _layout(info: VideoInfo, file: File, source: InputContainer, container: str) -> Layout:
    copied, transcoded, notes = [], [], []
    for stream in source.streams:
        if stream.index == info.stream:
            continue
        if _is_made_anew(source, stream):
            continue
        what = f"stream {stream.index} ({described(info.others, stream.index)})"
        if _holds(container, stream):
            copied.append(stream.index)
        elif _holds(container, stream, transcoded=True):
            transcoded.append(stream.index)
            notes.append(f"{what} becomes {LOSSLESS[container][0]}, without loss: {container} cannot hold it")
        else:
            notes.append(f"{what} was left out: {container} cannot hold it")
    if container == "mkv" and (info.time_base / MILLISECOND).denominator != 1:
        notes.append("timestamps were rounded to milliseconds, as Matroska has it")
    return Layout(container, tuple(copied), tuple(notes), tuple(transcoded))


def described(others: Sequence[StreamInfo], index: int) -> str:
    """What another stream is: its type and codec."""
    return next(f"{other.type} {other.codec}" for other in others if other.index == index)


def _is_made_anew(source: InputContainer, stream: Stream) -> bool:
    """Whether the muxer makes a track by itself: of chapters' titles, or of the film's timecode."""
    if stream.type != "data":
        return False
    chapters = stream.discard == Discard.all and bool(source.chapters())
    states_timecode = any("timecode" in video.metadata for video in source.streams.video)
    return chapters or (states_timecode and "timecode" in stream.metadata)


def _holds(container: str, stream: Stream, *, transcoded: bool = False) -> bool:
    """Whether a muxer takes a stream by its header, written into memory."""
    if becomes_attachment(container, stream):
        return container == "mkv"
    try:
        with av.open(io.BytesIO(), "w", format=FORMATS[container]) as trial:
            carrier(trial, stream, container, transcoded=transcoded)
            trial.start_encoding()
    except (av.error.FFmpegError, InputError, ValueError, NotImplementedError):
        return False
    return True


def becomes_attachment(container: str, stream: Stream) -> bool:
    """Whether a stream has no packets in the result: an attachment, or a cover, which is one in Matroska."""
    if isinstance(stream, AttachmentStream):
        return True
    return container == "mkv" and is_cover(stream) and _codec_of(stream) in COVERS


def _codec_of(stream: Stream) -> str:
    context = getattr(stream, "codec_context", None)
    return "" if context is None else str(context.name)


def _attach(target: OutputContainer, stream: Stream, file: File) -> None:
    """Give the target an attachment, or a cover, under its own name."""
    if isinstance(stream, AttachmentStream):
        target.add_attachment(stream.name or "attachment", stream.mimetype or "", stream.data)
        return
    name, mimetype = COVERS[_codec_of(stream)]
    with open_source(file) as source:
        picture = next(packets_of(source, source.streams[stream.index]), None)
        if picture is not None:
            target.add_attachment(stream.metadata.get("filename", name), mimetype, bytes(picture))


def assemble(
    film: Film, chunks: Sequence[ChunkFile], layout: Layout, output: Path, file: OpenFile | None = None
) -> None:
    """Write the whole film into `output`. `file`: the source, if it is open already.

    Raises OutputError or ResourceError if it cannot be written.
    """
    with open_source(file or film.info.path) as source:
        try:
            _write(film, chunks, layout, source, file or film.info.path, output)
        except av.error.FFmpegError as error:  # here, for open_source would blame the source
            raise writing_error(error, output, "assembling the film") from error


def _write(
    film: Film,
    chunks: Sequence[ChunkFile],
    layout: Layout,
    source: InputContainer,
    file: File,
    output: Path,
) -> None:
    info, reorder = film.info, _reorder_depth(film, chunks)
    options = _options(info, layout, source)
    with av.open(str(output), "w", format=FORMATS[layout.container], options=options) as target:
        video, carriers = _streams(source, file, target, info, chunks[0].path, layout)
        restored = _video_packets(film, chunks, video, reorder)
        if layout.container in ("mp4", "mov"):
            restored = _ending_exactly(restored, film)
        _interleave(
            target, restored, _others(source, carriers, info, Steps(layout.container, part_shifts(info)))
        )


def _options(info: VideoInfo, layout: Layout, source: InputContainer) -> dict[str, str]:
    options = {"fflags": "+bitexact"}
    if layout.container in ("mp4", "mov"):
        options |= {"movie_timescale": str(_movie_timescale(info, layout, source)), "movflags": "+faststart"}
    return options


def _movie_timescale(info: VideoInfo, layout: Layout, source: InputContainer) -> int:
    """The unit of MP4's edit lists, which say where each stream begins: exact for all of them."""
    rates = [source.streams[index].time_base for index in layout.carried]
    rates += [Fraction(1, stream.rate) for stream in source.streams.audio if stream.index in layout.carried]
    scale = lcm(*(rate.denominator for rate in [info.time_base, *rates] if rate))
    if scale > LARGEST_TIMESCALE:
        scale = min(info.time_base.denominator, LARGEST_TIMESCALE)
    while scale < 10_000:
        scale *= 2
    return scale


def _streams(
    source: InputContainer,
    file: File,
    target: OutputContainer,
    info: VideoInfo,
    first_chunk: Path,
    layout: Layout,
) -> tuple[Stream, dict[int, Carrier]]:
    """The film's own stream, and the others' carriers by the source's index, made in the source's order."""
    carriers: dict[int, Carrier] = {}
    video: Stream | None = None
    with av.open(str(first_chunk)) as chunk:
        for stream in source.streams:
            if stream.index == info.stream:
                video = _video_stream(target, chunk.streams.video[0], stream, info)
            elif stream.index in layout.copied and becomes_attachment(layout.container, stream):
                _attach(target, stream, file)
            elif stream.index in layout.carried:
                transcoded = stream.index in layout.transcoded
                carriers[stream.index] = carrier(target, stream, layout.container, transcoded=transcoded)
    assert video is not None
    target.metadata.update(kept_metadata(source.metadata))
    target.set_chapters(source.chapters())
    return video, carriers


def _video_stream(target: OutputContainer, encoded: VideoStream, original: Stream, info: VideoInfo) -> Stream:
    # Opaque, for PyAV would look for an encoder of the decoder's name, and not find libdav1d.
    stream = target.add_stream_from_template(encoded, opaque=True)
    stream.time_base = info.time_base
    # NUT keeps neither, and some codecs do not either.
    stream.codec_context.framerate = info.rate
    context = encoded.codec_context
    set_colour(stream.codec_context, written_colour(info.colour, context.pix_fmt or "", context.name))
    if context.name == "hevc" and target.format.name in ("mp4", "mov"):
        stream.codec_context.codec_tag = "hvc1"  # what Apple's players ask for; FFmpeg's own choice is hev1
    stream.metadata.update(kept_metadata(original.metadata))
    stream.disposition = original.disposition
    if info.display_matrix:
        stream.set_display_matrix(info.display_matrix)
    return stream


def _chunk_packets(file: ChunkFile, info: VideoInfo) -> Iterator[tuple[int, Packet[Any]]]:
    """A chunk's packets in decoding order, each with the pts it has in the source."""
    shift = file.chunk.pts[0] - chunk_origin(info, file.path)
    with av.open(str(file.path)) as container:
        for packet in container.demux(container.streams.video[0]):
            if packet.size and packet.pts is not None:
                exact = packet.pts * packet.time_base / info.time_base
                if exact.denominator != 1:
                    raise OutputError(
                        f"{file.path.name} holds a time that the source's time base cannot express"
                    )
                yield int(exact) + shift, packet


def _reorder_depth(film: Film, chunks: Sequence[ChunkFile]) -> int:
    """By how many places a packet at most comes earlier in the file than in presentation."""
    place = {pts: index for index, pts in enumerate(film.pts)}
    depth = position = 0
    for chunk in chunks:
        for pts, _ in _chunk_packets(chunk, film.info):
            if pts not in place:
                raise OutputError(f"{chunk.path.name} holds a frame that the film has not")
            depth = max(depth, position - place[pts])
            position += 1
    if position != len(film.pts):
        raise OutputError(f"the chunks hold {position} of {len(film.pts)} frames")
    return depth


def _video_packets(
    film: Film, chunks: Sequence[ChunkFile], stream: Stream, reorder: int
) -> Iterator[tuple[Fraction, Packet[Any]]]:
    """Every video packet with its dts in seconds.

    With reordering depth d the i-th packet is decoded when frame i-d is shown: rising strictly, and
    never after its own pts.
    """
    gap = film.pts[1] - film.pts[0] if len(film.pts) > 1 else 1
    following = dict(zip(film.pts, film.pts[1:], strict=False))
    position = 0
    for chunk in chunks:
        for pts, packet in _chunk_packets(chunk, film.info):
            shown = position - reorder
            dts = film.pts[shown] if shown >= 0 else film.pts[0] + shown * gap
            packet.pts, packet.dts = pts, dts
            packet.duration = following.get(pts, pts + film.last_duration) - pts
            packet.time_base = film.info.time_base
            packet.stream = stream
            position += 1
            yield dts * film.info.time_base, packet


def _ending_exactly(
    packets: Iterator[tuple[Fraction, Packet[Any]]], film: Film
) -> Iterator[tuple[Fraction, Packet[Any]]]:
    """The packets, the last one moved such that MP4's sum of durations ends when the film does.

    MP4 knows durations in order of decoding, where the last packet need not be the last frame: it is decoded
    when it is shown, and lasts to the film's end.
    """
    base, end = film.info.time_base, film.pts[-1] + film.last_duration
    ahead = next(packets)
    for following in packets:
        yield ahead
        ahead = following
    last = ahead[1]
    assert last.pts is not None
    last.dts, last.duration = last.pts, end - last.pts
    yield last.pts * base, last


def _others(
    source: InputContainer, carriers: dict[int, Carrier], info: VideoInfo, steps: Steps
) -> Iterator[tuple[Fraction, Packet[Any]]]:
    """Every packet of the other streams with its dts in seconds, in the source's order."""
    wanted = [stream for stream in source.streams if stream.index in carriers]
    latest = Fraction(0)
    for index, packet in copied_packets(source, info, wanted, steps):
        if packet.dts is not None:
            latest = packet.dts * packet.time_base
        for carried in carriers[index].carry(packet):
            yield latest, carried
    for each in carriers.values():
        for carried in each.end():
            yield latest, carried


def part_shifts(info: VideoInfo) -> list[Fraction]:
    """By how many seconds each part was moved that was joined to the film."""
    return [shift * info.time_base for shift in info.joints]


def copied_packets(
    source: InputContainer, info: VideoInfo, wanted: Sequence[Stream], steps: Steps
) -> Iterator[tuple[int, Packet[Any]]]:
    """Every packet that goes along of these streams, with its stream's index, in the source's order."""
    if not wanted:
        return
    for packet in packets_of(source, *wanted, source.streams[info.stream]):
        if packet.stream_index == info.stream:
            steps.follow(packet)
        elif packet.size and not _is_gap(packet):
            steps.mend(packet.stream_index, packet)
            yield packet.stream_index, packet


def _is_gap(packet: Packet[Any]) -> bool:
    """MP4 fills the time between subtitles with empty ones; its muxer makes its own."""
    return packet.stream.type == "subtitle" and packet.size == 2 and bytes(packet) == b"\0\0"


def _interleave(
    target: OutputContainer,
    video: Iterator[tuple[Fraction, Packet[Any]]],
    others: Iterator[tuple[Fraction, Packet[Any]]],
) -> None:
    """Mux both in order of time, so that the muxer need not buffer."""
    next_video, next_other = next(video, None), next(others, None)
    while next_video or next_other:
        if next_other is None or (next_video is not None and next_video[0] <= next_other[0]):
            assert next_video is not None
            target.mux_one(next_video[1])
            next_video = next(video, None)
        else:
            target.mux_one(next_other[1])
            next_other = next(others, None)
