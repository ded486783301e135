"""Real films as truth: their first frames, reduced, with a flow that is estimated on the sharp frames."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from ...errors import InputError
from ...media.decode import decode_chunk
from ...media.probe import probe_video
from ...records import SMALLEST_SIDE, Chunk, VideoInfo
from ..picture_methods import SCALE
from .clips import ClipMotion, Flow, Pixels, Step, quantised, reduced
from .scenes import MARGIN

# Forth and back agree about less of the frame than this: it is a cut, not motion.
SAME_SHOT = 0.4


@dataclass(frozen=True)
class Filmed:
    """The first frames of a film, cropped about their middle; `size` (height, width) of what is used."""

    name: str
    info: VideoInfo
    pts: tuple[int, ...]
    size: tuple[int, int]

    @classmethod
    def open(cls, path: Path, name: str, frames: int, crop: int | None, max_pixels: int) -> Filmed:
        """`crop`: longest side that is used. Raises InputError if the film cannot be read or is too small."""
        try:
            film = probe_video(path, max_pixels)
            height, width = (
                min(side, crop or side) // SCALE * SCALE for side in (film.info.height, film.info.width)
            )
            if min(height, width) < SMALLEST_SIDE * SCALE:
                raise InputError(f"{width}x{height} pixels are too few")
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        return cls(name, film.info, film.pts[:frames], (height, width))

    @property
    def frames(self) -> int:
        return len(self.pts)

    def steps(self) -> Iterator[Step]:
        chunk = Chunk(index=0, start=0, pts=self.pts, seek=None)
        before: Pixels | None = None
        for index, frame in enumerate(decode_chunk(self.info, chunk)):
            truth = self._cropped(frame.pixels)
            motion = None if before is None else estimated_motion(before, truth)
            yield Step(index, truth, quantised(reduced(truth)), motion, None)
            before = truth

    def _cropped(self, pixels: Pixels | np.ndarray) -> Pixels:
        eight = (pixels >> 8).astype(np.uint8) if pixels.dtype == np.uint16 else pixels
        top, left = ((side - used) // 2 for side, used in zip(eight.shape, self.size, strict=False))
        return np.ascontiguousarray(eight[top : top + self.size[0], left : left + self.size[1]])


def estimated_motion(earlier: Pixels, later: Pixels) -> ClipMotion | None:
    """By DIS flow (Kroeger et al., ECCV 2016), checked forth and back; None if that says it is a cut."""
    cv2.setNumThreads(1)  # it works in as many stripes, and they decide the result
    one, other = (cv2.cvtColor(each, cv2.COLOR_RGB2GRAY) for each in (earlier, later))
    engine = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    forward = engine.calc(one, other, None)  # type: ignore[call-overload]  # None: nothing to begin with
    backward = engine.calc(other, one, None)  # type: ignore[call-overload]
    motion = ClipMotion(_checked(forward, backward), _checked(backward, forward))
    return motion if motion.forward.valid.float().mean() > SAME_SHOT else None


def _checked(there: np.ndarray, back: np.ndarray) -> Flow:
    """Valid where there and back again ends near the start: Sundaram, Brox, Keutzer, ECCV 2010, eq. 5."""
    height, width = there.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    x, y = x + there[..., 0], y + there[..., 1]
    returned = cv2.remap(back, x, y, cv2.INTER_LINEAR)
    apart = np.square(there + returned).sum(-1)
    agree = apart < 0.01 * (np.square(there).sum(-1) + np.square(returned).sum(-1)) + 0.5
    inside = (x >= MARGIN) & (x <= width - 1 - MARGIN) & (y >= MARGIN) & (y <= height - 1 - MARGIN)
    vectors = torch.from_numpy(np.ascontiguousarray(there.transpose(2, 0, 1)))
    return Flow(vectors, torch.from_numpy(agree & inside))
