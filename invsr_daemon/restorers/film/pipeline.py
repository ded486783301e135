"""Films as arrays: frames go in, their motion is found, restored pictures come out.

The worker uses this, and so does `evaluate`, which measures what the worker does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...records import TemporalSettings, largest_level
from ..noise import CanvasNoise
from ..options import Options
from ..tiled import PictureRestorer
from . import flow
from .averaging import FilmFrame
from .restorer import FilmRestorer
from .traces import Motion

Pixels = NDArray[np.uint8] | NDArray[np.uint16]
MOST_THREADS = 8


def picture(pixels: Pixels) -> Tensor:
    """[H,W,3] -> float32 [3,H,W] in [0,1]."""
    top = largest_level(8 * pixels.itemsize)
    return torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1) / top


def film_frames(frames: Iterable[Pixels], first: int, temporal: TemporalSettings) -> Iterator[FilmFrame]:
    """Consecutive frames [H,W,3], the first the film's frame `first`, with their motion if it is used.

    Motion is found in as many threads as torch uses, a few frames ahead: on a GPU it would be what the model
    waits for.
    """
    if temporal.mode != "full":
        yield from (FilmFrame(index, _waiting(pixels)) for index, pixels in enumerate(frames, first))
        return
    threads = min(MOST_THREADS, torch.get_num_threads())
    with ThreadPoolExecutor(threads, "motion") as pool:
        previous: flow.Grey | None = None
        ahead: deque[tuple[FilmFrame, Future[flow.FoundMotion | None] | None]] = deque()
        for index, pixels in enumerate(frames, first):
            grey = flow.grey(pixels)
            found = None if previous is None else pool.submit(flow.between, previous, grey)
            ahead.append((FilmFrame(index, _waiting(pixels)), found))
            previous = grey
            if len(ahead) > threads:
                yield _with_motion(*ahead.popleft())
        while ahead:
            yield _with_motion(*ahead.popleft())


def _waiting(pixels: Pixels) -> Tensor:
    """[H,W,3] -> [3,H,W]. Many wait at once: 8 bits stay 8 bits."""
    return picture(pixels) if pixels.dtype == np.uint16 else torch.from_numpy(pixels).permute(2, 0, 1)


def _with_motion(frame: FilmFrame, found: Future[flow.FoundMotion | None] | None) -> FilmFrame:
    if found is None:
        return frame
    result = found.result()
    return replace(frame, motion=None if result is None else _tensors(result), cut=result is None)


def _tensors(found: flow.FoundMotion) -> Motion:
    """Half precision: many wait at once. It is exact to a sixty-fourth of a pixel up to 32 of them."""
    forward, backward = (
        torch.from_numpy(flow).permute(2, 0, 1).half() for flow in (found.forward, found.backward)
    )
    masks = (torch.from_numpy(mask) for mask in (found.leads, found.stems, found.still))
    return Motion(forward, backward, *masks)


def restore_film(
    model: PictureRestorer,
    frames: Iterable[FilmFrame],
    wanted: range,
    options: Options,
    temporal: TemporalSettings,
    *,
    seed: int,
    frame_batch: int = 1,
    alive: Callable[[], None] = lambda: None,
) -> Iterator[Tensor]:
    """The wanted frames (by index), each float32 [3,H,W] in [0,1]; those around them are looked at.

    `frame_batch`: frames handed to the model together. `alive` is called after each tile.
    """
    if temporal.mode == "off":
        return _each_by_itself(model, frames, wanted, options, seed, frame_batch, alive)
    restorer = FilmRestorer(
        model,
        options,
        seed=seed,
        interval=temporal.anchor_interval,
        tolerance=temporal.static_tolerance / largest_level(8),
        frame_batch=frame_batch,
        alive=alive,
    )
    return restorer.restore(frames, wanted)


def _each_by_itself(
    model: PictureRestorer,
    frames: Iterable[FilmFrame],
    wanted: range,
    options: Options,
    seed: int,
    frame_batch: int,
    alive: Callable[[], None],
) -> Iterator[Tensor]:
    chosen = (frame for frame in frames if frame.index in wanted)
    while batch := list(islice(chosen, frame_batch)):
        pictures = torch.stack([frame.unit() for frame in batch])
        noises = [CanvasNoise(seed, frame.index) for frame in batch]
        yield from model.restored(pictures, noises, options, alive)
