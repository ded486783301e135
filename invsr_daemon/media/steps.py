"""Times of the other streams' packets, as the film's parts lie, and as muxers want them: rising."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from math import ceil
from typing import Any

from av.packet import Packet

# Matroska takes packets that are decoded at the same time; the others do not.
SAME_TIMES = frozenset({"mkv"})
# A step that muxers still see as one when they have rounded times to their own units.
STEP_SECONDS = Fraction(1, 1000)
# What steps back further is another recording, joined to the first.
JOINT_SECONDS = 0.2


class Steps:
    """Moves packets with the part of the film that they belong to, and mends what steps back even so.

    Files that were joined (`cat a.vob b.vob`) begin their clock anew; `shifts` says by how many seconds the
    film's own times were moved in each part but the first. `mended` counts packets that step back, by the
    stream's index.
    """

    def __init__(self, container: str, shifts: Sequence[Fraction] = ()) -> None:
        self._step = Fraction(0) if container in SAME_TIMES else STEP_SECONDS
        self._shifts = [Fraction(0), *shifts]
        self._part = 0
        self._film_time: Fraction | None = None
        self._last: dict[int, int] = {}
        self.mended: Counter[int] = Counter()

    def follow(self, packet: Packet[Any]) -> None:
        """Hear of a packet of the film itself: where its times step back far, the next part begins."""
        if packet.dts is None:
            return
        time = packet.dts * packet.time_base
        if self._film_time is not None and self._film_time - time > JOINT_SECONDS:
            self._part = min(self._part + 1, len(self._shifts) - 1)
        self._film_time = time

    def mend(self, index: int, packet: Packet[Any]) -> None:
        """Move a packet, the next one of the source's stream `index`, if need be."""
        shift = round(self._shifts[self._part] / packet.time_base)
        if packet.pts is not None:
            packet.pts += shift
        if packet.dts is None:
            return
        packet.dts += shift
        last = self._last.get(index)
        if last is not None and (packet.dts < last or (packet.dts == last and self._step)):
            self.mended[index] += 1
            packet.dts = last + ceil(self._step / packet.time_base)
            if packet.pts is not None:
                packet.pts = max(packet.pts, packet.dts)
        self._last[index] = packet.dts
