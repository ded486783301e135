"""Restored frames into a chunk file: NUT, which keeps any timestamp exactly, or MOV, which holds what
NUT does not (ProRes, DNxHD).

NUT has no negative times, and encoders' first dts lies before the first pts: so a chunk's first
frame stands at `chunk_origin`. What only MOV holds codes each frame by itself, and begins at zero. The file
appears under its name only whole: written beside it, synced, renamed.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import cast

import av.error
import numpy as np
from av.codec.codec import UnknownCodecError
from av.container import OutputContainer
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from ..errors import ConfigError, DiskFullError, OutputError, UnwritableError
from ..files.durable import DISK_FAILS, DISK_FULL, attempt_at, finish_attempt
from ..records import Chunk, Colour, VideoInfo, VideoSettings, output_size
from .colour import BT709, FULL, RGB, SWSCALE, subsampling, swscale_matrix
from .decode import RGB8, RGB16, RgbFrame
from .names import ENCODERS

# SVT-AV1 counts where x264 and x265 have names.
SVT_PRESETS = {
    **{"placebo": "1", "veryslow": "2", "slower": "3", "slow": "5", "medium": "6"},
    **{"fast": "7", "faster": "8", "veryfast": "9", "superfast": "10", "ultrafast": "11"},
}

# Suffixes of chunk files and their formats; the first that holds the codec is taken.
CHUNK_FORMATS = {".nut": "nut", ".mov": "mov"}
BITS_8 = 8
SAMPLINGS = ("420", "422", "444")
ORIGIN_SECONDS = 60

# The constant-quality option of encoders that do not call it crf; None: lossless, has none.
QUALITY_OPTION: dict[str, str | None] = {
    "ffv1": None,
    "h264_nvenc": "cq",
    "hevc_nvenc": "cq",
    "av1_nvenc": "cq",
}


def encoder_name(codec: str) -> str:
    """FFmpeg's encoder for a configured codec. ConfigError if this build has none."""
    return _encoder(codec).name


def codec_name(codec: str) -> str:
    """FFmpeg's name of what a configured codec encodes: hevc for hevc_nvenc. ConfigError if there is none."""
    return _encoder(codec).canonical_name


def _encoder(codec: str) -> av.Codec:
    try:
        found = av.Codec(ENCODERS.get(codec, codec), "w")
    except UnknownCodecError as error:
        raise ConfigError(f"video.codec: there is no encoder {codec!r}") from error
    if found.type != "video":
        raise ConfigError(f"video.codec: {codec!r} does not encode video")
    return found


def chunk_suffix(codec: str) -> str:
    """The suffix, and with it the format, of chunk files for a codec. ConfigError if none holds it."""
    for suffix, format in CHUNK_FORMATS.items():
        if holds_codec(format, codec):
            return suffix
    raise ConfigError(f"video.codec: no container that is known here holds what {codec} encodes")


def holds_codec(format: str, codec: str) -> bool:
    """Whether FFmpeg's muxer of that name takes what a configured codec encodes."""
    with av.open(io.BytesIO(), "w", format=format) as trial:
        try:
            trial.add_stream(encoder_name(codec))
        except ValueError:
            return False
    return True


def pixel_format(settings: VideoSettings, info: VideoInfo, scale: float) -> str:
    """The configured pixel format; `auto`: what loses nothing, of those that the encoder takes.

    That is 8 bits, or 10 for deeper sources, and 4:2:0, which holds all of the source's chroma once it is
    enlarged twofold; below that the source's own sampling. Raises ConfigError if the encoder cannot.
    """
    taken = [each.name for each in _encoder(settings.codec).video_formats or ()]
    wanted = settings.pixel_format
    if wanted == "auto":
        wanted = _suitable(taken, deep=info.depth > BITS_8, sampling=_sampling(info, scale))
    if taken and wanted not in taken:
        raise ConfigError(f"video.pixel_format: {settings.codec} takes {', '.join(taken)}, not {wanted!r}")
    try:
        return VideoFormat(wanted, 16, 16).name
    except ValueError as error:
        raise ConfigError(f"video.pixel_format: there is no {wanted!r}") from error


def _needed(info: VideoInfo, scale: float) -> tuple[int, int]:
    """How many of the result's pixels may share a sample of chroma, across and down, so that none is lost."""
    across, down = (1 if each * scale < 2 else 2 for each in info.subsampling)
    return across, down


def _sampling(info: VideoInfo, scale: float) -> str:
    """The same as FFmpeg names it."""
    across, down = _needed(info, scale)
    return "444" if across == 1 else "422" if down == 1 else "420"


def _suitable(taken: list[str], *, deep: bool, sampling: str) -> str:
    """Depth before chroma, more before less; 4:2:0 at 8 bits where nothing fits or all is taken."""
    order = SAMPLINGS[SAMPLINGS.index(sampling) :] + SAMPLINGS[: SAMPLINGS.index(sampling)][::-1]
    depths = ("10le", "") if deep else ("", "10le")
    names = [f"yuv{each}p{depth}" for depth in depths for each in order]
    return next((name for name in names if name in taken or not taken), "yuv420p")


def film_losses(info: VideoInfo, settings: VideoSettings, scale: float) -> tuple[str, ...]:
    """What the pixel format loses of the source, a line for each. Raises ConfigError like `pixel_format`."""
    format = VideoFormat(pixel_format(settings, info, scale), 16, 16)
    bits = max(component.bits for component in format.components)
    notes = [f"its {info.depth} bits per channel are cut to {bits}"] if bits < info.depth else []
    if any(one > other for one, other in zip(subsampling(format), _needed(info, scale), strict=True)):
        notes.append(f"its chroma loses resolution: {format.name} has less of it than the source")
    return tuple(notes)


def written_colour(colour: Colour, format: str, codec: str) -> Colour:
    """How a restored film is encoded and tagged: in the source's colour, as far as `codec` (FFmpeg's name
    of what is encoded) can; RGB has no matrix and the full range.
    """
    if VideoFormat(format, 16, 16).is_rgb:
        return replace(colour, matrix=RGB, range=FULL)
    if codec == "dnxhd":  # FFmpeg's encoder writes BT.709 into every frame, and players believe that
        return replace(colour, matrix=BT709)
    return colour


def set_colour(context: VideoCodecContext, colour: Colour) -> None:
    """Tag what a codec context writes."""
    context.colorspace = colour.matrix
    context.color_primaries = colour.primaries
    context.color_trc = colour.transfer
    context.color_range = colour.range


def film_size(info: VideoInfo, settings: VideoSettings, scale: float) -> tuple[int, int]:
    """(width, height) of the restored film, even where the pixel format subsamples chroma."""
    chroma = VideoFormat(pixel_format(settings, info, scale), 16, 16)
    subsampled = chroma.chroma_width(2) == 1 or chroma.chroma_height(2) == 1
    return output_size(info.width, info.height, scale, even=subsampled)


def chunk_origin(info: VideoInfo, path: Path) -> int:
    """The timestamp of a chunk file's first frame: in NUT beyond any encoder's reordering delay."""
    return round(ORIGIN_SECONDS / info.time_base) if path.suffix == ".nut" else 0


class ChunkEncoder:
    """Encodes frames of one chunk. Use `open_chunk`."""

    def __init__(
        self, container: OutputContainer, info: VideoInfo, shift: int, settings: VideoSettings, scale: float
    ) -> None:
        self._container = container
        self._info = info
        self._shift = shift
        self._reorders = container.format.name == "nut"
        self._reformatter = VideoReformatter()
        self._stream = _stream(container, info, settings, scale)
        self._range = self._stream.codec_context.color_range
        # RGB has none, but swscale wants one.
        self._matrix = swscale_matrix(self._stream.codec_context.colorspace or info.colour.matrix)
        self._decoded = 0

    def encode(self, restored: RgbFrame) -> None:
        """Encode one frame; its timestamp is in the source's time_base."""
        deep = restored.pixels.dtype == np.uint16
        rgb = VideoFrame.from_ndarray(restored.pixels, RGB16 if deep else RGB8)
        frame = self._reformatter.reformat(
            rgb,
            format=self._stream.codec_context.pix_fmt,
            src_colorspace=self._matrix,
            dst_colorspace=self._matrix,
            src_color_range=FULL,
            dst_color_range=self._range,
            interpolation=SWSCALE,
        )
        frame.pts = restored.pts + self._shift
        frame.time_base = self._info.time_base
        self._mux(self._stream.encode(frame))

    def flush(self) -> None:
        self._mux(self._stream.encode(None))

    def _mux(self, packets: list[Packet[VideoStream]]) -> None:
        """Write packets, their dts counted: x265 leaves it uninitialised where a chunk is shorter than its
        delay, and the muxer would shift all times by that. `assemble` makes dts anew in any case.
        """
        for packet in packets:
            packet.dts = self._decoded if self._reorders else packet.pts
            self._decoded += 1
            self._container.mux_one(packet)


def _stream(
    container: OutputContainer, info: VideoInfo, settings: VideoSettings, scale: float
) -> VideoStream:
    name = encoder_name(settings.codec)
    try:
        added = container.add_stream(name, rate=info.rate, options=_options(name, settings))
    except ValueError as error:
        raise ConfigError(f"video.codec: {settings.codec} cannot be used: {error}") from error
    stream = cast(VideoStream, added)
    context = stream.codec_context
    context.width, context.height = film_size(info, settings, scale)
    context.pix_fmt = pixel_format(settings, info, scale)
    context.time_base = info.time_base
    stream.time_base = info.time_base
    context.thread_count = settings.threads
    set_colour(context, written_colour(info.colour, context.pix_fmt, codec_name(settings.codec)))
    if info.sample_aspect_ratio:
        context.sample_aspect_ratio = info.sample_aspect_ratio
    _open(stream, settings)
    return stream


def _open(stream: VideoStream, settings: VideoSettings) -> None:
    """Start the encoder. Raises ConfigError if it refuses its settings or knows none of that name."""
    context = stream.codec_context
    try:
        context.open()
    except av.error.FFmpegError as error:
        raise ConfigError(
            f"video: the encoder {context.name} refuses its settings ({context.width}x{context.height}, "
            f"{context.pix_fmt}, {_options(context.name, settings)}): {error.strerror}"
        ) from error
    unknown = [name for name, _ in settings.options if name in context.options]
    if unknown:
        raise ConfigError(f"video.options: the encoder {context.name} knows no {', '.join(unknown)}")


def _options(encoder: str, settings: VideoSettings) -> dict[str, str]:
    quality = QUALITY_OPTION.get(encoder, "crf")
    options = {} if quality is None else {quality: str(settings.crf)}
    if settings.preset:
        names = SVT_PRESETS if encoder == "libsvtav1" else {}
        options["preset"] = names.get(settings.preset, settings.preset)
    if encoder == "libx265":
        options["x265-params"] = f"log-level=error:pools={settings.threads}:frame-threads=1"
    return options | dict(settings.options)


@contextmanager
def open_chunk(
    path: Path, info: VideoInfo, chunk: Chunk, settings: VideoSettings, scale: float
) -> Iterator[ChunkEncoder]:
    """An encoder whose file appears as `path` only if the block ends without an exception.

    If another attempt at the chunk has ended meanwhile, its file stays.

    `path` ends with the codec's `chunk_suffix`.
    Raises ConfigError if the encoder refuses its settings, DiskFullError,
    OutputError if the file cannot be written.
    """
    attempt = attempt_at(path)
    try:
        format = CHUNK_FORMATS[path.suffix]
        with av.open(str(attempt), "w", format=format, options={"fflags": "+bitexact"}) as container:
            shift = chunk_origin(info, path) - chunk.pts[0]
            encoder = ChunkEncoder(container, info, shift, settings, scale)
            yield encoder
            encoder.flush()
        _finish(attempt, path)
    except av.error.FFmpegError as error:
        raise writing_error(error, path, f"encoding with {settings.codec}") from error
    finally:
        attempt.unlink(missing_ok=True)


def _finish(attempt: Path, path: Path) -> None:
    try:
        finish_attempt(attempt, path)
    except OSError as error:
        raise writing_error(error, path, "finishing a chunk") from error


def writing_error(
    error: OSError | av.error.FFmpegError, path: Path, doing: str
) -> OutputError | DiskFullError:
    """What a failed write means: a disk that is full or fails may pass, the rest does not."""
    if error.errno in DISK_FULL:
        return DiskFullError(f"the disk of {path.parent} is full")
    kind = UnwritableError if error.errno in DISK_FAILS else OutputError
    return kind(f"{doing} into {path.parent} failed: {error.strerror}")
