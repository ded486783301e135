"""`invsr-daemon evaluate --video`: methods side by side on the same films, as a table, JSON and a plot.

Films are generated from photographs, with a flow that is exactly known, or real. All methods go through a
film together, frame by frame, so that memory holds only what one of them looks ahead.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain, tee
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError
from ..media.names import PICTURE_SUFFIXES
from ..records import SMALLEST_SIDE
from ..settings.reading import load
from ..settings.settings import Settings
from .evaluate_pictures import (
    BORDER,
    DECIMALS,
    check_counts,
    check_folders,
    device_named,
    finite,
    mean,
    text_of,
    versions,
    write_files,
)
from .film_methods import TRUTH, VideoMethod, open_video_methods, parse_video_methods
from .metrics import psnr_ssim as metrics
from .metrics.niqe import distance, patch_features
from .metrics.temporal import (
    Deviation,
    change,
    compensated_change,
    interior,
    luma,
    masked_mean,
    mean_square,
    residuals,
    seam,
)
from .picture_methods import SCALE
from .plot import Curve, Panel, draw_panels
from .samples.clips import Clip, Pixels, Step
from .samples.films import Filmed
from .samples.generated import CLIPS, Studio, generated
from .samples.photographs import read_photographs
from .samples.pictures import find_sources
from .tiles import Tiles

FRAMES = 48
# Shorter than the daemon's chunks, which are as long as these films: so that a chunk begins in the middle.
CHUNK_FRAMES = 24
SIZE = "448x320"
MOST_PHOTOGRAPHS = 6
# NIQE is slow: it is measured on one frame of so many, which is enough.
NIQE_EVERY = 4
# A change in the truth may change so many pixels around it: filters reach two pixels of the poor picture.
REACH = 4 * SCALE


@dataclass(frozen=True)
class FilmOptions:
    """What `invsr-daemon evaluate --video` was asked for; what is None is as the settings have it."""

    methods: str = "bicubic,default"
    clips: str = ",".join(CLIPS)
    size: str = SIZE
    frames: int = FRAMES
    chunk_frames: int = CHUNK_FRAMES
    seed: int | None = None
    device: str = "cpu"
    crop: int | None = None
    config_file: Path | None = None
    json_file: Path | None = None
    plot_file: Path | None = None


@dataclass(frozen=True)
class VideoScore:
    """One method on one film; None where something has no value.

    `values`: by the table's column. `changes`, `compensated`: per frame, from the one before; None in the
    first frame of a shot. `seams`: by frame where a chunk or an anchor begins, of both; see `temporal.seam`.
    """

    values: dict[str, float | None]
    changes: tuple[float | None, ...]
    compensated: tuple[float | None, ...]
    seams: dict[int, tuple[float | None, float | None]]
    tiles: Tiles | None
    seconds: float


@dataclass(frozen=True)
class Watched:
    """One film: size (height, width) of the results, where chunks begin, scores by method and the truth's."""

    name: str
    size: tuple[int, int]
    frames: int
    chunk_starts: tuple[int, ...]
    scores: dict[str, VideoScore]


@dataclass(frozen=True)
class VideoReport:
    """Everything that was measured, and with what."""

    settings: dict[str, Any]
    methods: tuple[VideoMethod, ...] = field(repr=False)
    films: tuple[Watched, ...]

    def table(self) -> str:
        """Markdown: a line per film and method."""
        names = list(next(iter(self.films[0].scores.values())).values)
        lines = [["film", "method", *names, *WORK, "s/frame"]]
        for film in self.films:
            for label, score in film.scores.items():
                work = [
                    str(getattr(score.tiles, name).tiles) if score.tiles else "-" for name in WORK.values()
                ]
                values = [text_of(name, value, DIGITS) for name, value in score.values.items()]
                cost = f"{score.seconds / film.frames:.2f}" if label != TRUTH else "-"
                lines.append([film.name, label, *values, *work, cost])
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        rules = [
            "-" * width if column < 2 else "-" * (width - 1) + ":" for column, width in enumerate(widths)
        ]
        padded = [
            [
                cell.ljust(width) if column < 2 else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            ]
            for line in (lines[0], rules, *lines[1:])
        ]
        return "\n".join([self._heading(), "", *("| " + " | ".join(line) + " |" for line in padded)])

    def as_json(self) -> bytes:
        """Every number, with versions, settings and fingerprints; UTF-8."""
        methods = [
            {
                "label": method.spec.label,
                "name": method.spec.picture.name,
                "fingerprint": method.fingerprint,
                **method.spec.settings(),
            }
            for method in self.methods
        ]
        whole = {
            "versions": versions(),
            "settings": self.settings,
            "methods": methods,
            "films": [asdict(film) for film in self.films],
        }
        return json.dumps(whole, indent=1, allow_nan=False).encode() + b"\n"

    def plot(self, labels: Mapping[str, str] | None = None) -> bytes:
        """The change from frame to frame beside motion, a panel per film, as PNG.

        `labels`: which methods, by label, and how to call them; the truth is the last. All if not given.
        """
        shown = labels or {label: label for label in self.films[0].scores}
        return draw_panels(
            [
                Panel(
                    f"{film.name}: change from frame to frame beside motion",
                    tuple(Curve(name, film.scores[label].compensated) for label, name in shown.items()),
                    film.chunk_starts[1:],
                )
                for film in self.films
            ]
        )

    def _heading(self) -> str:
        given = self.settings
        return (
            f"{len(self.films)} films; chunks of {given['chunk_frames']} frames; seed {given['seed']}; "
            f"{given['device']}"
        )


WORK = {"predictor": "noise_predictor", "encode": "vae_encode", "UNet": "unet", "decode": "vae_decode"}
DIGITS = {**DECIMALS, "std": 3, "E_warp": 2, "change": 3, "beside motion": 3, "seam": 3, "seam b.m.": 3}


def evaluate_film_files(paths: Sequence[Path], options: FilmOptions, say: Callable[[str], None]) -> str:
    """`evaluate_picture_files` for films, and photographs to make films of."""
    settings = load(options.config_file, {"seed": options.seed})
    _check(options)
    clips = open_clips(paths, options, settings)
    device = device_named(options.device)
    methods = open_video_methods(parse_video_methods(options.methods, settings), settings, device)
    films = tuple(watch(clip, methods, options.chunk_frames, say) for clip in clips)
    report = VideoReport(recorded(options, settings), methods, films)
    write_files((options.json_file, report.as_json), (options.plot_file, report.plot))
    return report.table()


def open_clips(paths: Sequence[Path], options: FilmOptions, settings: Settings) -> Iterator[Clip]:
    """Return generated films if there is a photograph among the paths, then the films among the paths.

    Everything is read and checked before this returns. Raises ConfigError, InputError.
    """
    sources = find_sources(paths)
    photographs = [source.path for source in sources if source.path.suffix.lower() in PICTURE_SUFFIXES]
    limit = settings.limits.max_input_pixels
    filmed = [
        Filmed.open(source.path, source.name, options.frames, options.crop, limit)
        for source in sources
        if source.path not in photographs
    ]
    names = [name.strip() for name in options.clips.split(",") if name.strip()]
    if not filmed and not (photographs and names):
        raise ConfigError("there is no film to measure")
    if not (photographs and names):
        return iter(filmed)
    used = read_photographs(photographs, MOST_PHOTOGRAPHS)
    studio = Studio(used, parsed_size(options.size), options.frames, settings.seed)
    return chain(generated(names, studio), filmed)


def watch(
    clip: Clip, methods: Sequence[VideoMethod], chunk_frames: int, say: Callable[[str], None] = lambda _: None
) -> Watched:
    """Every method on one film, in chunks as a worker would."""
    starts = tuple(range(0, clip.frames, chunk_frames))
    tracks = {method.spec.label: Track() for method in methods}
    truth = Track()
    first, *feeds = tee(clip.steps(), len(methods) + 1)
    films = [
        tracks[method.spec.label].timed(method.restore((step.poor for step in feed), starts))
        for method, feed in zip(methods, feeds, strict=True)
    ]
    for step, *restored in zip(first, *films, strict=True):
        truth.add(step, step.truth)  # the truth compared with itself
        for track, frame in zip(tracks.values(), restored, strict=True):
            track.add(step, frame)
    scores = {
        method.spec.label: tracks[method.spec.label].score({*starts, *method.anchors}, truth, method.tiles)
        for method in methods
    }
    own = truth.score(starts, truth, None)
    say(f"{clip.name}: " + ", ".join(f"{label} {track.seconds:.1f} s" for label, track in tracks.items()))
    return Watched(clip.name, clip.size, clip.frames, starts, {**scores, TRUTH: own})


class Track:
    """What is kept of one method's film while it goes by."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.changes: list[float | None] = []
        self.compensated: list[float | None] = []
        self._errors: list[float | None] = []
        self._quality: list[dict[str, float | None]] = []
        self._patches: list[Tensor] = []
        self._stds: list[float | None] = []
        self._shot: Deviation | None = None
        self._before: tuple[Step, Pixels] | None = None

    def timed(self, frames: Iterator[Pixels]) -> Iterator[Pixels]:
        """Pass frames on, and count the time that they take."""
        while True:
            begun = time.perf_counter()
            frame = next(frames, None)
            self.seconds += time.perf_counter() - begun
            if frame is None:
                return
            yield frame

    def add(self, step: Step, frame: Pixels) -> None:
        """Take one more frame of the result."""
        self._compare(step, frame)
        if step.motion is None:
            self._close_shot()
        if step.motion is None or self._before is None:
            self.changes.append(None)
            self.compensated.append(None)
        else:
            earlier = self._before[1]
            apart = residuals(earlier, frame, step.motion.forward)
            self.changes.append(change(earlier, frame))
            self.compensated.append(compensated_change(apart))
            self._errors.append(mean_square(apart))
        grey = luma(frame)
        self._shot = Deviation.of(grey) if self._shot is None else self._shot.add(grey)
        self._before = step, frame

    def score(self, starts: Collection[int], truth: Track, tiles: Tiles | None) -> VideoScore:
        """Score the film once it is over; `starts`: the frames where something began anew."""
        self._close_shot()
        seams = {
            start: (
                seam(self.changes, start, reference=truth.changes, without=starts),
                seam(self.compensated, start, without=starts),
            )
            for start in sorted(starts)
            if start
        }
        values = {
            "PSNR": mean(each["PSNR"] for each in self._quality),
            "SSIM": mean(each["SSIM"] for each in self._quality),
            "NIQE": mean(distance(patches) for patches in self._patches),
            "std": mean(self._stds),
            "E_warp": mean(self._errors),
            "change": mean(self.changes),
            "beside motion": mean(self.compensated),
            "seam": _largest(pair[0] for pair in seams.values()),
            "seam b.m.": _largest(pair[1] for pair in seams.values()),
        }
        series = tuple(self.changes), tuple(self.compensated)
        return VideoScore(values, *series, seams, tiles, self.seconds)

    def _compare(self, step: Step, frame: Pixels) -> None:
        """Measure PSNR and SSIM of each frame, and NIQE's patches of some; repeated frames only once."""
        again = self._before is not None and (
            np.array_equal(frame, self._before[1]) and np.array_equal(step.truth, self._before[0].truth)
        )
        if frame is step.truth:
            compared: dict[str, float | None] = {"PSNR": None, "SSIM": 1.0}
        elif not again:
            restored, truth = (
                torch.from_numpy(each).permute(2, 0, 1)[None].float() / 255 for each in (frame, step.truth)
            )
            compared = {
                "PSNR": finite(float(metrics.psnr(restored, truth, BORDER))),
                "SSIM": finite(float(metrics.ssim(restored, truth, BORDER))),
            }
        self._quality.append(self._quality[-1] if again else compared)
        if step.index % NIQE_EVERY == 0:
            self._patches.append(patch_features(torch.from_numpy(frame).permute(2, 0, 1).float() / 255))

    def _close_shot(self) -> None:
        """Measure what was static in the shot that ends here."""
        if self._shot is None or self._before is None:
            return
        static = self._before[0].static
        if static is not None and self._shot.count > 1:
            self._stds.append(masked_mean(self._shot.std(), interior(static, REACH)))
        self._shot = None


def parsed_size(text: str) -> tuple[int, int]:
    """WIDTHxHEIGHT -> (height, width). Raises ConfigError."""
    width, _, height = text.partition("x")
    smallest = SMALLEST_SIDE * SCALE
    if not (width.isdigit() and height.isdigit()) or int(width) % SCALE or int(height) % SCALE:
        raise ConfigError(f"--size must be WIDTHxHEIGHT in multiples of {SCALE}, not {text!r}")
    if min(int(width), int(height)) < smallest:
        raise ConfigError(f"--size must be at least {smallest}x{smallest}, not {text}")
    return int(height), int(width)


def _check(options: FilmOptions) -> None:
    """Refuse what would otherwise fail only after the work is done."""
    check_counts(options, "frames", "chunk_frames", "crop")
    check_folders(options.json_file, options.plot_file)


def recorded(options: FilmOptions, settings: Settings) -> dict[str, Any]:
    """The settings that decide the numbers, for JSON."""
    files = ("config_file", "json_file", "plot_file", "methods")
    kept = {name: value for name, value in asdict(options).items() if name not in files}
    return {**kept, "seed": settings.seed, "scale": SCALE, "border": BORDER, "niqe_every": NIQE_EVERY}


def _largest(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)
