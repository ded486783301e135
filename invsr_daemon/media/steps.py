"""Times of copied packets, as muxers want them: rising in each stream."""

from __future__ import annotations

from collections import Counter
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
    """Mends packets whose decoding times step back, and counts them in `mended`, by the stream's index.

    A small step back becomes a small one forward. After a large one the stream goes on where it ended: files
    that were joined (`cat a.vob b.vob`) begin their clock anew.
    """

    def __init__(self, container: str) -> None:
        self._step = Fraction(0) if container in SAME_TIMES else STEP_SECONDS
        self._ends: dict[int, tuple[int, int]] = {}  # the last decoding time, and when that packet ends
        self._shifts: Counter[int] = Counter()
        self.mended: Counter[int] = Counter()

    def mend(self, index: int, packet: Packet[Any]) -> None:
        """Move a packet, the next one of the source's stream `index`, if need be."""
        if packet.dts is None:
            return
        dts = packet.dts + self._shifts[index]
        if index in self._ends:
            last, end = self._ends[index]
            if dts < last or (dts == last and self._step):
                self.mended[index] += 1
                if (last - dts) * packet.time_base > JOINT_SECONDS:
                    self._shifts[index] += end - dts
                    dts = end
                dts = max(dts, last + ceil(self._step / packet.time_base))
        if packet.pts is not None:
            packet.pts = max(packet.pts + self._shifts[index], dts)
        packet.dts = dts
        self._ends[index] = (dts, dts + (packet.duration or 0))
