"""How packets of the source's other streams come into a result: as they are, or as lossless sound."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, cast

from av.audio.codeccontext import AudioCodecContext
from av.audio.format import AudioFormat
from av.audio.frame import AudioFrame
from av.audio.layout import AudioLayout
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.packet import Packet
from av.stream import Stream

# What a container holds without loss, and how its samples are laid out: of 16 bits, and of more.
LOSSLESS = {
    "mp4": ("alac", "s16p", "s32p"),
    "mov": ("alac", "s16p", "s32p"),
    "mkv": ("flac", "s16", "s32"),
    "nut": ("flac", "s16", "s32"),
}
USUAL = {1: "mono", 2: "stereo", 4: "quad", 6: "5.1", 8: "7.1"}
SIXTEEN_BITS = ("u8", "u8p", "s16", "s16p")
# Written by muxers about themselves; wrong when copied.
STALE_METADATA = frozenset({"major_brand", "minor_version", "compatible_brands", "encoder", "duration"})


class Carrier(Protocol):
    """Takes a stream's packets, in their order, and gives those that are to be muxed."""

    @property
    def stream(self) -> Stream:
        """The result's."""

    def carry(self, packet: Packet[Any]) -> Iterator[Packet[Any]]:
        """Raises FFmpegError."""

    def end(self) -> Iterator[Packet[Any]]:
        """What is left when there are no more packets. Raises FFmpegError."""


class Copying:
    """Packets as they are."""

    def __init__(self, target: OutputContainer, original: Stream) -> None:
        self.stream: Stream = target.add_stream_from_template(original, opaque=True)
        self.stream.time_base = original.time_base
        _describe(self.stream, original)

    def carry(self, packet: Packet[Any]) -> Iterator[Packet[Any]]:
        packet.stream = self.stream
        yield packet

    def end(self) -> Iterator[Packet[Any]]:
        yield from ()


class Transcoding:
    """Sound, decoded and encoded without loss. Raises ValueError or FFmpegError if that cannot be."""

    def __init__(self, target: OutputContainer, original: AudioStream, container: str) -> None:
        codec, plain, deep = LOSSLESS[container]
        # PyAV's types do not know that a stream of an unknown codec has no context.
        heard = cast("AudioCodecContext | None", original.codec_context)
        if heard is None or not heard.sample_rate or cast("AudioFormat | None", heard.format) is None:
            raise ValueError("it cannot be decoded")
        self._decoder = heard
        format = plain if heard.format.name in SIXTEEN_BITS else deep
        layout = _named(heard.layout)
        stream = target.add_stream(codec, rate=heard.sample_rate)
        assert isinstance(stream, AudioStream)
        self._stream: AudioStream = stream
        self._stream.codec_context.layout = layout
        self._stream.codec_context.format = format
        self._resampler = AudioResampler(format, layout, heard.sample_rate)
        _describe(self._stream, original)

    @property
    def stream(self) -> Stream:
        return self._stream

    def carry(self, packet: Packet[Any]) -> Iterator[Packet[Any]]:
        yield from self._encoded(cast("list[AudioFrame]", packet.decode()))

    def end(self) -> Iterator[Packet[Any]]:
        yield from self._encoded(self._decoder.decode(None))
        yield from self._stream.encode(None)

    def _encoded(self, frames: list[AudioFrame]) -> Iterator[Packet[Any]]:
        for frame in frames:
            for resampled in self._resampler.resample(frame):
                yield from self._stream.encode(resampled)


def _named(layout: AudioLayout) -> str:
    """Some formats say how many channels there are, not which."""
    if layout.name.endswith(" channels"):
        return USUAL.get(layout.nb_channels, layout.name)
    return layout.name


def carrier(target: OutputContainer, original: Stream, container: str, *, transcoded: bool) -> Carrier:
    """A stream of the target for a source's. Raises ValueError, NotImplementedError or FFmpegError."""
    if not transcoded:
        return Copying(target, original)
    if not isinstance(original, AudioStream):
        raise NotImplementedError("only sound is transcoded")
    return Transcoding(target, original, container)


def _describe(stream: Stream, original: Stream) -> None:
    stream.metadata.update(kept_metadata(original.metadata))
    stream.disposition = original.disposition


def kept_metadata(metadata: dict[str, str]) -> dict[str, str]:
    """What of a source's metadata holds for a result, too."""
    return {key: value for key, value in metadata.items() if key.lower() not in STALE_METADATA}
