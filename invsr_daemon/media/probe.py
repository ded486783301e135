"""What a film holds, found by decoding it once.

One whole decoding pass costs little beside the restoration. It gives the exact timestamp of every
frame, proves the file sound before hours are spent on it, and finds what containers do not tell.
"""

from __future__ import annotations

import math
import struct
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.sidedata.sidedata import Type as SideDataType
from av.stream import AttachmentStream, Stream
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from ..errors import InputError
from ..records import SMALLEST_SIDE, Chunk, Film, SeekPoint, StreamInfo, VideoInfo
from .colour import colour_of, is_grey, subsampling
from .decode import as_rgb
from .foreign import check_supported
from .sizes import Silence
from .source import File, OpenFile, buffered, is_cover, open_source, packets_of
from .steps import JOINT_SECONDS
from .whole import check_complete

OPAQUE = 255
# Containers whose header states a duration that the packets must reach, and how far they may miss.
STATED_DURATION = ("matroska", "mov", "flv", "asf", "avi", "nut")
MISSING_SECONDS = 0.4
HIGHEST_RATE = 1000  # frames per second

Alive = Callable[[], None]


def silent() -> None:
    """For nobody to hear."""


@dataclass(frozen=True)
class Length:
    """The most frames and seconds that a film may have."""

    frames: float
    seconds: float


ANY_LENGTH = Length(math.inf, math.inf)


@dataclass
class _Pass:
    """What accumulates while the file is read through."""

    raw_pts: list[int | None] = field(default_factory=list)
    dts: list[int] = field(default_factory=list)
    keyframes: list[tuple[int, int]] = field(default_factory=list)
    packets: int = 0
    sizes: Counter[int] = field(default_factory=Counter)  # bytes by stream
    seconds: float = 0.0
    last_duration: int = 0
    first: VideoFrame | None = None
    grey: bool = True  # so far


def probe_video(file: File, max_pixels: int, alive: Alive = silent, most: Length = ANY_LENGTH) -> Film:
    """Decode the film once and describe it; `alive` is called for each frame.

    Raises InputError if it is no film, damaged, cut off, without frames, longer than `most`, or larger than
    `max_pixels` per frame.
    """
    silence = Silence()

    def found_frame() -> None:
        silence.frame()
        alive()

    with buffered(file) as content:
        check_supported(content)
        check_complete(content)
    with open_source(file, silence.read) as container:
        video = _main_video(container)
        _check_codec(video)
        _check_length(video.frames, _stated_seconds(container), most)
        _check_size(video.codec_context.width, video.codec_context.height, max_pixels)
        video.thread_type = "AUTO"
        others = [stream for stream in container.streams if stream.index != video.index]
        found = _read_through(container, video, max_pixels, found_frame, most)
        _check_whole(container, video, found)
        path = file.path if isinstance(file, OpenFile) else file
        return _described(path, container, video, others, found)


def _main_video(container: InputContainer) -> VideoStream:
    films = [stream for stream in container.streams.video if not is_cover(stream)]
    if not films:
        raise InputError("it holds no video")
    best = container.streams.best("video")
    return best if isinstance(best, VideoStream) and best in films else films[0]


def _check_codec(video: VideoStream) -> None:
    # PyAV's types do not know that a stream of an unknown codec has no context.
    if cast("VideoCodecContext | None", video.codec_context) is None:
        raise InputError("its video is of a codec that cannot be decoded here")


def _stated_seconds(container: InputContainer) -> float:
    return (container.duration or 0) / av.time_base


def _check_length(frames: int, seconds: float, most: Length) -> None:
    if frames > most.frames:
        raise InputError(f"its {frames} frames exceed the limit of {most.frames} (limits.max_frames)")
    if seconds > most.seconds:
        raise InputError(f"its {seconds:.0f} s exceed the limit of {most.seconds:g} s (limits.max_duration)")


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise InputError(
            f"its frames of {width}x{height} exceed the limit of {max_pixels} pixels"
            " (limits.max_input_pixels)"
        )
    if 0 < min(width, height) < SMALLEST_SIDE:
        raise InputError(f"its frames of {width}x{height} are smaller than {SMALLEST_SIDE}x{SMALLEST_SIDE}")


def _read_through(
    container: InputContainer, video: VideoStream, max_pixels: int, alive: Alive, most: Length
) -> _Pass:
    found = _Pass()
    packets: Iterator[Packet[Stream]] = packets_of(container)
    for packet in packets:
        if packet.size:
            found.seconds = max(found.seconds, _end_seconds(packet))
            found.sizes[packet.stream_index] += packet.size
        if packet.stream.index != video.index:
            continue
        if packet.size:
            if packet.is_corrupt:
                raise InputError(f"frame {len(found.raw_pts)} is damaged")
            found.packets += 1
            if packet.dts is not None:
                found.dts.append(packet.dts)
            if packet.is_keyframe and packet.pts is not None:
                found.keyframes.append((packet.pts, packet.pts if packet.dts is None else packet.dts))
        for frame in _decoded(packet):
            if frame.is_corrupt:
                raise InputError(f"frame {len(found.raw_pts)} is damaged")
            if found.first is None:
                _check_size(frame.width, frame.height, max_pixels)
                found.first = frame
            elif (frame.width, frame.height) != (found.first.width, found.first.height):
                raise InputError(
                    f"its frame size changes at frame {len(found.raw_pts)}, which is not supported"
                )
            found.raw_pts.append(frame.pts)
            found.grey = found.grey and is_grey(frame)
            _check_length(max(found.packets, len(found.raw_pts)), found.seconds, most)
            alive()
            found.last_duration = frame.duration or found.last_duration
    if found.first is None:
        raise InputError("it holds no frame that can be decoded")
    return found


def _decoded(packet: Packet[Stream]) -> Iterator[VideoFrame]:
    for frame in packet.decode():
        if isinstance(frame, VideoFrame):
            yield frame


def _end_seconds(packet: Packet[Stream]) -> float:
    if packet.pts is None:
        return 0.0
    return float((packet.pts + (packet.duration or 0)) * packet.time_base)


def _check_whole(container: InputContainer, video: VideoStream, found: _Pass) -> None:
    """A file cut off in the middle decodes without an error: hold it to what its header promises."""
    # Only here is it the number of packets: AVI counts frames that were left out. An edit list may hide some.
    promised = min(video.frames, len(video.index_entries)) if "mov" in container.format.name else 0
    if promised > found.packets:
        raise InputError(f"it is cut off: {found.packets} of {promised} frames are there")
    stated = container.duration
    if stated is None or not any(name in container.format.name for name in STATED_DURATION):
        return
    # Some muxers count the duration from the first frame, others from zero: the benefit of the doubt.
    begin = min(0, container.start_time or 0) / av.time_base
    missing = begin + stated / av.time_base - found.seconds
    if missing > max(MISSING_SECONDS, 0.01 * stated / av.time_base):
        raise InputError(f"it is cut off: the last {missing:.1f} seconds of its stated duration are missing")


def _described(
    path: Path, container: InputContainer, video: VideoStream, others: list[Stream], found: _Pass
) -> Film:
    assert found.first is not None
    rate = _rate(video, found)
    time_base = video.time_base or 1 / rate
    pts, mended, joints = _timeline(found, rate, time_base)
    gap = pts[-1] - pts[-2] if len(pts) > 1 else max(1, round(1 / rate / time_base))
    info = VideoInfo(
        path=path,
        container=container.format.name,
        stream=video.index,
        codec=video.codec_context.name,
        width=found.first.width,
        height=found.first.height,
        depth=max(component.bits for component in found.first.format.components),
        time_base=time_base,
        rate=rate,
        colour=colour_of(found.first, video),
        sample_aspect_ratio=video.sample_aspect_ratio or None,
        display_matrix=_display_matrix(found.first),
        others=tuple(StreamInfo(s.index, _kind(s), _codec_name(s), _size(s, found)) for s in others),
        notes=(*mended, *_alpha_notes(found.first, video)),
        subsampling=subsampling(found.first.format),
        grey=found.grey,
        joints=joints,
    )
    as_rgb(found.first, info, VideoReformatter())  # whoever computes it must not be the first to find out
    seek_points = () if mended else _seek_points(pts, found.keyframes)
    last = _stated_last(container, video, pts[-1], found.last_duration) or found.last_duration or gap
    return Film(info, tuple(pts), last, seek_points)


def _rate(video: VideoStream, found: _Pass) -> Fraction:
    """Frames per second. What DV's demuxer calls the average is its clock.

    Raw streams have no times, but may state their rate; the demuxer's is 25 whatever they state.
    """
    rates = [video.average_rate, video.guessed_rate]
    if _has_no_times(found):
        rates.insert(0, video.codec_context.framerate)
    return next((rate for rate in rates if rate and rate <= HIGHEST_RATE), Fraction(25))


def _has_no_times(found: _Pass) -> bool:
    return all(pts is None for pts in found.raw_pts)


def _alpha_notes(frame: VideoFrame, video: VideoStream) -> list[str]:
    """A note if the film is transparent, as far as its first frame shows. VP8 and VP9 only say so."""
    stated = video.metadata.get("alpha_mode") == "1"
    if not stated and any(component.is_alpha for component in frame.format.components):
        # GIF always has it; elsewhere a film may begin opaque.
        stated = video.codec_context.name not in ("gif", "apng") or bool(_alpha(frame).min() < OPAQUE)
    return ["its transparency is left out"] if stated else []


def _alpha(frame: VideoFrame) -> NDArray[np.uint8]:
    return cast("NDArray[np.uint8]", frame.to_ndarray(format="rgba")[..., 3])


def _stated_last(container: InputContainer, video: VideoStream, last: int, told: int) -> int | None:
    """The last frame's duration by an MP4's own end, None if that is not plausible.

    `told`: by its packet. MP4 keeps durations in order of decoding, so with B-frames and a variable rate that
    is another frame's.
    """
    if "mov" not in container.format.name or video.duration is None or video.time_base is None:
        return None
    stated = (video.start_time or 0) + video.duration - last
    return stated if 0 < stated <= max(told, MISSING_SECONDS / video.time_base) else None


def _timeline(
    found: _Pass, rate: Fraction, time_base: Fraction
) -> tuple[list[int], list[str], tuple[int, ...]]:
    """Strictly rising timestamps: the source's own wherever it has them, and notes where not; joints.

    AVI knows only decoding times. What FFmpeg makes of them jumps to and fro if there are B-frames; so
    then the n-th frame is shown at the n-th of them.
    """
    raw = found.raw_pts
    if _has_no_times(found):
        made = [round(index / rate / time_base) for index in range(len(raw))]
        return made, [f"the source has no timestamps; {float(rate):g} frames per second were assumed"], ()
    rising, notes, joints = rising_times(
        raw, max(1, round(1 / rate / time_base)), round(JOINT_SECONDS / time_base)
    )
    if notes and len(found.dts) == len(raw) and all(one < other for one, other in pairwise(found.dts)):
        delay = rising[0] - found.dts[0]
        return (
            [dts + delay for dts in found.dts],
            ["timestamps were out of order: decoding times were taken"],
            (),
        )
    return rising, notes, joints


def rising_times(
    raw: Sequence[int | None], gap: int, joint: int
) -> tuple[list[int], list[str], tuple[int, ...]]:
    """Timestamps that rise, and notes; by how much each part was moved that was joined to the first.

    A part begins where times step back by more than `joint`, not only from a frame that was too far ahead.
    `gap`: between two frames. All in units of the time base.
    """
    rising: list[int] = []
    shifts: list[int] = []
    notes: list[str] = []
    recent: tuple[int, ...] = ()  # the times of the last two frames, before they were mended
    shift = mended = 0
    for pts in raw:
        least = rising[-1] + 1 if rising else (pts or 0)
        if pts is not None and recent and pts + shift < min(recent) - joint:
            shift = rising[-1] + gap - pts
            shifts.append(shift)
            notes.append(f"its clock starts again at frame {len(rising)}: it goes on there")
        mended += pts is None or pts + shift < least
        rising.append(least if pts is None else max(pts + shift, least))
        recent = (*recent[-1:], rising[-1] if pts is None else pts + shift)
    if mended:
        notes.append(f"{mended} timestamps were missing or out of order and were mended")
    return rising, notes, tuple(shifts)


def _seek_points(pts: list[int], keyframes: list[tuple[int, int]]) -> tuple[SeekPoint, ...]:
    index = {value: position for position, value in enumerate(pts)}
    points = {index[key]: SeekPoint(index[key], dts) for key, dts in keyframes if key in index}
    return tuple(points[frame] for frame in sorted(points))


def _display_matrix(frame: VideoFrame) -> tuple[int, ...] | None:
    """The 3x3 display matrix (rotation, mirroring) as nine 32-bit integers, if there is one."""
    every = cast("Mapping[SideDataType, bytes]", frame.side_data)  # whose stub knows no types of side data
    data = every.get(SideDataType.DISPLAYMATRIX)
    return None if data is None else struct.unpack("<9i", bytes(data))


def _size(stream: Stream, found: _Pass) -> int:
    """Of what is copied of a stream, in bytes. An attachment has no packets."""
    return len(stream.data) if isinstance(stream, AttachmentStream) else found.sizes[stream.index]


def _kind(stream: Stream) -> str:
    return "cover" if is_cover(stream) else stream.type


def _codec_name(stream: Stream) -> str:
    context = getattr(stream, "codec_context", None)
    return context.name if context is not None else stream.type


def plan_chunks(film: Film, target: int, context: tuple[int, int] = (0, 0)) -> tuple[Chunk, ...]:
    """Cut a film into chunks of about `target` frames: a function of the source and the numbers alone.

    A cut falls on a keyframe if one lies in the second half of a chunk, else after `target` frames.
    `context`: so many frames before and after a chunk are looked at too, as far as there are any.
    """
    keyframes = [point.frame for point in film.seek_points]
    cuts = [0]
    while cuts[-1] + target < len(film.pts):
        earliest, latest = cuts[-1] + max(1, target // 2), cuts[-1] + target
        last = bisect_right(keyframes, latest) - 1
        cuts.append(keyframes[last] if last >= 0 and keyframes[last] >= earliest else latest)
    cuts.append(len(film.pts))
    chunks = []
    for index, (start, end) in enumerate(pairwise(cuts)):
        before = film.pts[max(0, start - context[0]) : start]
        seek = _seek_point(film.seek_points, keyframes, start - len(before))
        chunks.append(
            Chunk(index, start, film.pts[start:end], seek, before, film.pts[end : end + context[1]])
        )
    return tuple(chunks)


def _seek_point(points: tuple[SeekPoint, ...], keyframes: list[int], frame: int) -> SeekPoint | None:
    position = bisect_right(keyframes, frame) - 1
    return points[position] if position >= 0 else None
