"""Frames of one chunk, in order, as RGB arrays with the timestamps that the probe found."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import dropwhile, islice
from typing import cast

import av.error
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from ..errors import InputError
from ..records import Chunk, VideoInfo
from .colour import FULL, MATRICES, SWSCALE, swscale_matrix
from .source import File, OpenFile, open_source, packets_of

RGB8, RGB16 = "rgb24", "rgb48le"


@dataclass(frozen=True)
class RgbFrame:
    """`pixels` [H,W,3], uint8 or uint16 over the full range; `pts` in units of the source's time_base."""

    pts: int
    pixels: NDArray[np.uint8] | NDArray[np.uint16]


def decode_chunk(info: VideoInfo, chunk: Chunk, file: OpenFile | None = None) -> Iterator[RgbFrame]:
    """Decode exactly the frames of a chunk, and of those around it that it looks at.

    `file`: the film, if it is open already. Seeks to the last keyframe before the chunk; where that cannot be
    trusted (no timestamps, or the demuxer lands elsewhere), decodes from the beginning.
    Raises InputError if a frame is missing.
    """
    reformatter = VideoReformatter()
    delivered = 0
    for source in (_after_seek, _from_beginning):
        for frame in source(info, chunk, file or info.path):
            yield RgbFrame(chunk.decoded[delivered], as_rgb(frame, info, reformatter))
            delivered += 1
        if delivered:
            break
    if delivered != len(chunk.decoded):
        raise InputError(
            f"only {delivered} of {len(chunk.decoded)} frames from frame {chunk.first} on could be decoded"
        )


def _after_seek(info: VideoInfo, chunk: Chunk, file: File) -> Iterator[VideoFrame]:
    """The chunk's frames after a seek; nothing at all if that lands behind its first frame."""
    if chunk.seek is None or chunk.seek.frame == 0:
        return
    with open_source(file) as container:
        try:
            container.seek(chunk.seek.dts, stream=container.streams[info.stream], backward=True)
        except (
            av.error.FFmpegError
        ):  # some files cannot be sought in: without an index, or with a damaged one
            return
        first = chunk.decoded[0]
        frames = dropwhile(lambda f: f.pts is not None and f.pts < first, _frames(container, info))
        for frame, pts in zip(frames, chunk.decoded, strict=False):
            if frame.pts != pts and pts == first:
                return
            if frame.pts != pts:
                raise InputError(
                    f"a frame was expected at {pts}, not at {frame.pts} (in units of {info.time_base} s)"
                )
            yield frame


def _from_beginning(info: VideoInfo, chunk: Chunk, file: File) -> Iterator[VideoFrame]:
    with open_source(file) as container:
        yield from islice(_frames(container, info), chunk.first, chunk.first + len(chunk.decoded))


def _frames(container: InputContainer, info: VideoInfo) -> Iterator[VideoFrame]:
    stream = _stream(container, info)
    stream.thread_type = "AUTO"
    for packet in packets_of(container, stream):
        yield from packet.decode()


def _stream(container: InputContainer, info: VideoInfo) -> VideoStream:
    """The film's own. Raises InputError if it is not there any more, or another one."""
    found = [stream for stream in container.streams.video if stream.index == info.stream]
    if not found:
        raise InputError(f"stream {info.stream}, which was there before, is not there any more")
    return found[0]


def as_rgb(
    frame: VideoFrame, info: VideoInfo, reformatter: VideoReformatter
) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """One frame as RGB by the source's own matrix and range. Raises InputError if swscale knows no way."""
    matrix = swscale_matrix(info.colour.matrix)
    try:
        converted = reformatter.reformat(
            frame,
            format=RGB16 if info.depth > 8 else RGB8,
            src_colorspace=matrix,
            dst_colorspace=matrix,
            src_color_range=info.colour.range,
            dst_color_range=FULL,
            interpolation=SWSCALE,
        )
    except av.error.FFmpegError as error:  # a damaged frame may state colours that there are not
        named = MATRICES.get(info.colour.matrix, f"matrix {info.colour.matrix} of ITU-T H.273")
        raise InputError(f"its colours ({named}) cannot be converted to RGB: {error.strerror}") from error
    return cast("NDArray[np.uint8] | NDArray[np.uint16]", converted.to_ndarray())
