"""A film's other streams pass through the real muxers once before work begins: nothing is to fail after it.

What a muxer refuses goes into another container, or is left out with its cause named.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import av
import av.error
from av.packet import Packet
from av.stream import Stream

from ..logs import counted
from ..records import Layout, VideoInfo
from .assemble import FORMATS, becomes_attachment, copied_packets, described, part_shifts, possible_layouts
from .carrying import carrier
from .probe import Alive, silent
from .source import File, OpenFile, open_source
from .steps import Steps


class Nothing(io.RawIOBase):
    """A file that can be written and sought in, and keeps nothing."""

    def __init__(self) -> None:
        super().__init__()
        self._position = self._end = 0

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        length = memoryview(data).nbytes
        self._position += length
        self._end = max(self._end, self._position)
        return length

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._end}[whence]
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        return self._position


class Trial:
    """A muxer of a stream's own, so that what it refuses is this stream's."""

    def __init__(self, container: str, original: Stream, *, transcoded: bool = False) -> None:
        self._target = av.open(Nothing(), "w", format=FORMATS[container])
        self._carrier = carrier(self._target, original, container, transcoded=transcoded)
        self._needs_packets = original.type == "data"
        self._packets = 0
        self.size = 0  # bytes of what was muxed
        self._refusal: str | None = None

    def mux(self, packet: Packet[Any]) -> None:
        if self._refusal is None:
            self._packets += 1
            self._attempt(lambda: self._mux(self._carrier.carry(packet)))

    def end(self) -> str | None:
        """Why the muxer refuses the stream, if it does."""
        self._attempt(lambda: self._mux(self._carrier.end()))
        self._attempt(self._target.close)
        if self._needs_packets and not self._packets:
            return "it is empty"
        return self._refusal

    def _mux(self, packets: Iterable[Packet[Any]]) -> None:
        for packet in packets:
            self.size += packet.size
            self._target.mux_one(packet)

    def _attempt(self, deed: Callable[[], object]) -> None:
        try:
            deed()
        except (av.error.FFmpegError, ValueError) as error:
            self._refusal = self._refusal or str(getattr(error, "strerror", error))


def plan_layout(
    info: VideoInfo,
    wanted: str,
    codec: str = "h264",
    file: OpenFile | None = None,
    alive: Alive = silent,
) -> Layout:
    """The container for a film that is encoded with `codec`, and what of the source it really holds.

    `wanted` and errors: see `possible_layouts`. `file`: the source, if it is open already. `alive` is called
    for each packet.
    """
    best, *others = possible_layouts(info, wanted, codec, file)
    best = _rehearsed(info, best, file or info.path, alive)
    for layout in others:
        if len(layout.carried) > len(best.carried):
            other = _rehearsed(info, layout, file or info.path, alive)
            best = max(best, other, key=lambda each: len(each.carried))
    return best


def _rehearsed(info: VideoInfo, layout: Layout, file: File, alive: Alive) -> Layout:
    if not layout.carried:
        return layout
    with open_source(file) as source:
        tried = [
            stream
            for stream in source.streams
            if stream.index in layout.carried and not becomes_attachment(layout.container, stream)
        ]
        trials = {
            stream.index: Trial(layout.container, stream, transcoded=stream.index in layout.transcoded)
            for stream in tried
        }
        steps = Steps(layout.container, part_shifts(info))
        for index, packet in copied_packets(source, info, tried, steps):
            alive()
            trials[index].mux(packet)
        refused = {index: cause for index, trial in trials.items() if (cause := trial.end())}
    copied, transcoded = (
        tuple(index for index in kept if index not in refused) for kept in (layout.copied, layout.transcoded)
    )
    notes = (*layout.notes, *_notes(info, layout, refused, steps))
    size = sum(trials[index].size for index in transcoded)
    return replace(layout, copied=copied, transcoded=transcoded, transcoded_size=size, notes=notes)


def _notes(info: VideoInfo, layout: Layout, refused: dict[int, str], steps: Steps) -> Iterator[str]:
    for index, cause in refused.items():
        what = f"stream {index} ({described(info.others, index)})"
        yield f"{what} was left out of the {layout.container}: {cause}"
    for index, number in steps.mended.items():
        if index not in refused:
            what = f"stream {index} ({described(info.others, index)})"
            yield f"{what} stepped back in time and was mended: {counted(number, 'packet')}"
