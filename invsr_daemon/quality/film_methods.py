"""What is compared on films: the methods for pictures, frame by frame, and models with a memory.

bicubic, lanczos
MODEL[:temporal=off|static|full][:phase=N][:OPTION=VALUE]...
    as the daemon restores films (`restorers/film/`), in chunks that see as far around them as a worker's;
    with a phase as if the film's first frame were that many frames into it: chunks and anchors begin at
    other frames, so that what they do to a frame can be told from what the frame shows
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice, pairwise
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from ..errors import ConfigError
from ..records import TemporalSettings
from ..restorers.film.averaging import FilmFrame
from ..restorers.film.pipeline import film_frames, restore_film
from ..restorers.options import Options
from ..settings.settings import Settings
from .picture_methods import SEPARATOR, MethodSpec, ModelMethod, Resampling, open_methods, parse_methods
from .samples.clips import Pixels, quantised
from .tiles import TileCounter, Tiles

Temporal = Literal["off", "static", "full"]
TEMPORAL: tuple[Temporal, ...] = get_args(Temporal)
OWN_OPTIONS = ("temporal", "phase")  # beside the options of pictures
TRUTH = "truth"  # the default, which may be named


@dataclass(frozen=True)
class VideoSpec:
    """A method as it was asked for; `temporal` is None for one that treats each frame as a picture.

    `phase`: how many frames earlier chunks and anchors begin than they would.
    """

    label: str
    picture: MethodSpec
    temporal: TemporalSettings | None = None
    phase: int = 0

    def settings(self) -> dict[str, object]:
        """Everything but the label and the name, for a record; empty for a filter."""
        if self.temporal is None:
            return {}
        return {
            **self.picture.settings(),
            "temporal": self.temporal.mode,
            "noise_anchor_interval": self.temporal.anchor_interval,
            "static_tolerance": self.temporal.static_tolerance,
            "phase": self.phase,
        }


class VideoMethod(Protocol):
    """Enlarges a film four times. One film after the other, each from its first frame."""

    @property
    def spec(self) -> VideoSpec: ...

    @property
    def fingerprint(self) -> str | None:
        """The model's, if there is one."""

    @property
    def tiles(self) -> Tiles | None:
        """What the networks computed since the film began; None if there are no networks."""

    @property
    def anchors(self) -> tuple[int, ...]:
        """Frames of the film so far where it began anew by itself, as at a chunk; cuts are not meant."""

    def restore(self, frames: Iterable[Pixels], chunk_starts: Sequence[int]) -> Iterator[Pixels]:
        """Frames [h,w,3] -> [4h,4w,3], one for one and in order.

        `chunk_starts`: the frames at which a worker would begin anew, the first of them 0. It may look
        ahead: what it has taken and not yet given is all that memory holds of a film.
        """


@dataclass(frozen=True)
class EachFrame:
    """A filter of Pillow's."""

    spec: VideoSpec
    filter: Resampling
    fingerprint: str | None = None
    tiles: Tiles | None = None
    anchors: tuple[int, ...] = ()

    def restore(self, frames: Iterable[Pixels], chunk_starts: Sequence[int]) -> Iterator[Pixels]:
        for frame in frames:
            yield _pixels(self.filter.restore(_picture(frame)))


class FilmModelMethod:
    """A model, with what it remembers from frame to frame."""

    def __init__(self, spec: VideoSpec, model: ModelMethod, counter: TileCounter) -> None:
        self.spec = spec
        self._model = model
        self._counter = counter
        self._tiles = Tiles()
        self.anchors: tuple[int, ...] = ()

    @property
    def fingerprint(self) -> str | None:
        return self._model.fingerprint

    @property
    def tiles(self) -> Tiles | None:
        return self._tiles

    def restore(self, frames: Iterable[Pixels], chunk_starts: Sequence[int]) -> Iterator[Pixels]:
        self._tiles, self.anchors = Tiles(), ()
        restored = self._film(frames, chunk_starts)
        while True:
            before = self._counter.counted
            with self._counter.counting():  # others use the same networks between two frames
                frame = next(restored, None)
            self._tiles += self._counter.counted - before
            if frame is None:
                return
            yield frame

    def _film(self, frames: Iterable[Pixels], chunk_starts: Sequence[int]) -> Iterator[Pixels]:
        """Restore chunk after chunk, each with the frames that it looks at around it."""
        temporal, picture, phase = self.spec.temporal, self.spec.picture, self.spec.phase
        assert temporal is not None
        options = Options(
            timesteps=picture.timesteps,
            tile=picture.tile,
            tile_batch=self._model.tile_batch,
            color_fix=picture.color_fix,
            guidance_scale=self._model.guidance_scale,
        )
        numbered = film_frames(frames, phase, temporal)
        beginning = (replace(frame, cut=True) for frame in islice(numbered, 1))
        reader = _Reader(chain(beginning, numbered), temporal.context)
        starts = (phase, *(start for start in chunk_starts if start > phase))
        for start, stop in pairwise((*starts, sys.maxsize)):
            wanted = range(start, stop)
            around = reader.around(wanted)
            restored = restore_film(
                self._model.model, around, wanted, options, temporal, seed=self._model.seed
            )
            for index, frame in enumerate(restored, start):
                if temporal.mode != "off" and index > phase and index % temporal.anchor_interval == 0:
                    self.anchors = (*self.anchors, index - phase)
                yield _pixels(frame[None].cpu())


class _Reader:
    """Reads a film once, and keeps the frames near the present chunk."""

    def __init__(self, frames: Iterator[FilmFrame], context: tuple[int, int]) -> None:
        self._frames = frames
        self._before, self._after = context
        self._kept: deque[FilmFrame] = deque()

    def around(self, wanted: range) -> Iterator[FilmFrame]:
        """Return a chunk's frames, and those before and after them that it looks at."""
        while self._kept and self._kept[0].index < wanted.start - self._before:
            self._kept.popleft()
        yield from tuple(self._kept)
        last = wanted.stop + self._after - 1
        while not self._kept or self._kept[-1].index < last:
            frame = next(self._frames, None)
            if frame is None:
                return
            self._kept.append(frame)
            yield frame
            while self._kept[0].index < min(wanted.stop, frame.index - self._after) - self._before:
                self._kept.popleft()


def parse_video_methods(text: str, settings: Settings) -> tuple[VideoSpec, ...]:
    """The methods of a list; what one leaves open is as the settings have it. Raises ConfigError."""
    labels = [part.strip() for part in SEPARATOR.split(text) if part.strip()]
    specs = tuple(_parsed(label, settings) for label in labels if label != TRUTH)
    if not specs:
        raise ConfigError("no method was given: name some, such as bicubic,default")
    if twice := {label for label in labels if labels.count(label) > 1}:
        raise ConfigError(f"method {sorted(twice)[0]!r} was given twice")
    return specs


def open_video_methods(
    specs: Sequence[VideoSpec], settings: Settings, device: torch.device
) -> tuple[VideoMethod, ...]:
    """Find every model, then load each once. Raises ConfigError naming the method that cannot be had."""
    pictures = open_methods([spec.picture for spec in specs], settings, device, settings.seed)
    methods: list[VideoMethod] = []
    for spec, method in zip(specs, pictures, strict=True):
        if isinstance(method, ModelMethod):
            methods.append(FilmModelMethod(spec, method, TileCounter(method.model)))
        else:
            assert isinstance(method, Resampling)
            methods.append(EachFrame(spec, method))
    return tuple(methods)


def _parsed(label: str, settings: Settings) -> VideoSpec:
    parts = [part.partition("=") for part in label.split(":")]
    given = {key: value for key, _, value in parts if key in OWN_OPTIONS}
    rest = ":".join("".join(part) for part in parts if part[0] not in OWN_OPTIONS)
    (picture,) = parse_methods(rest, settings)
    picture = replace(picture, label=label)
    if not picture.timesteps:
        if given:
            raise ConfigError(f"method {label!r}: {picture.name} has no options")
        return VideoSpec(label, picture)
    mode, phase = given.get("temporal", settings.temporal), given.get("phase", "0")
    if mode not in TEMPORAL:
        raise ConfigError(f"method {label!r}: temporal must be one of {', '.join(TEMPORAL)}")
    if not (phase.isascii() and phase.isdigit()):
        raise ConfigError(f"method {label!r}: phase must be a number of frames, not {phase!r}")
    return VideoSpec(label, picture, replace(settings.temporal_settings(), mode=mode), int(phase))


def _picture(frame: Pixels) -> Tensor:
    """[h,w,3] -> [1,3,h,w] in [0,1]."""
    return torch.from_numpy(frame).permute(2, 0, 1)[None].float() / 255


def _pixels(picture: Tensor) -> Pixels:
    """[1,3,H,W] in [0,1] -> [H,W,3]."""
    return quantised(picture[0].permute(1, 2, 0) * 255)
