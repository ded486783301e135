"""`invsr-daemon evaluate`: methods side by side on the same pictures, as a table, JSON and a contact sheet.

Every result is rounded to 8 bits before it is measured, as it would be stored.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from .. import __version__
from ..errors import ConfigError, OutputError
from ..settings.reading import load
from ..settings.settings import Settings
from .metrics import psnr_ssim as metrics
from .metrics.niqe import PATCH, PRISTINE, niqe
from .metrics.optional import Offer, optional_metrics
from .picture_methods import SCALE, Method, open_methods, parse_methods
from .samples.pictures import DEGRADATIONS, Degradation, Sample, find_sources, read_samples
from .sheet import Cell, draw_row, draw_sheet, enlarged

# On every side as many pixels as the scale are left out, as in the literature.
BORDER = SCALE
LIBRARIES = ("torch", "diffusers", "numpy", "Pillow", "opencv-python-headless")
DECIMALS = {"PSNR": 2, "SSIM": 4, "NIQE": 2, "s/MPix": 2}


@dataclass(frozen=True)
class PictureOptions:
    """What `invsr-daemon evaluate` was asked for; what is None is as the settings have it."""

    degradation: Degradation = "bicubic"
    methods: str = "bicubic,lanczos,default"
    seed: int | None = None
    device: str = "cpu"
    limit: int | None = None
    crop: int | None = None
    frames: int = 4
    config_file: Path | None = None
    json_file: Path | None = None
    sheet_file: Path | None = None


@dataclass(frozen=True)
class Score:
    """One method on one picture: metrics by name (None where one has no value) and its cost."""

    values: dict[str, float | None]
    seconds: float
    megapixels: float


@dataclass(frozen=True)
class Measured:
    """One picture: size (width, height) of the results, a score per method's label.

    `truth` holds the truth's own values of the metrics without reference; nothing if there is none.
    """

    name: str
    size: tuple[int, int]
    scores: dict[str, Score]
    truth: dict[str, float | None]


@dataclass(frozen=True)
class Report:
    """Everything that was measured, and with what."""

    settings: dict[str, Any]
    methods: tuple[Method, ...]
    pictures: tuple[Measured, ...]
    missing: dict[str, str]
    rows: tuple[Image.Image, ...] = field(repr=False, default=())

    def mean(self, label: str) -> dict[str, float | None]:
        """A method's metrics, averaged over the pictures that have a value, and seconds per megapixel."""
        scores = [picture.scores[label] for picture in self.pictures]
        means = {name: mean(score.values[name] for score in scores) for name in scores[0].values}
        pixels = sum(score.megapixels for score in scores)
        return {**means, "s/MPix": sum(score.seconds for score in scores) / pixels}

    def truth_mean(self) -> dict[str, float | None]:
        """What the metrics without reference say about the truth; empty if there is none."""
        names = self.pictures[0].truth
        return {name: mean(picture.truth[name] for picture in self.pictures) for name in names}

    def table(self) -> str:
        """A line per method, aligned, and below it what a reader must know."""
        means = {method.spec.label: self.mean(method.spec.label) for method in self.methods}
        names = list(next(iter(means.values())))
        lines = [["method", *names]]
        if truth := self.truth_mean():
            means["truth"] = truth
        lines += [
            [label, *(text_of(name, mean.get(name)) for name in names)] for label, mean in means.items()
        ]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        aligned = [
            "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in lines
        ]
        return "\n".join([self._heading(), *aligned, *self._footnotes(names)])

    def sheet(self) -> bytes:
        """The contact sheet as PNG."""
        encoded = io.BytesIO()
        draw_sheet(self.rows).save(encoded, "PNG")
        return encoded.getvalue()

    def as_json(self) -> bytes:
        """Every number, with versions, settings and fingerprints; UTF-8."""
        methods = [
            {
                "label": method.spec.label,
                "name": method.spec.name,
                "fingerprint": method.fingerprint,
                **method.spec.settings(),
                "mean": self.mean(method.spec.label),
            }
            for method in self.methods
        ]
        pictures = [
            {
                "name": picture.name,
                "size": picture.size,
                "results": {
                    label: {**score.values, "seconds": score.seconds}
                    for label, score in picture.scores.items()
                },
                "truth": picture.truth,
            }
            for picture in self.pictures
        ]
        whole = {
            "versions": versions(),
            "niqe_statistics_sha256": hashlib.sha256(PRISTINE.read_bytes()).hexdigest(),
            "settings": self.settings,
            "methods": methods,
            "truth": {"mean": self.truth_mean()},
            "pictures": pictures,
            "not_available": self.missing,
        }
        return json.dumps(whole, indent=2, allow_nan=False).encode() + b"\n"

    def _heading(self) -> str:
        given = self.settings
        count = "1 picture" if len(self.pictures) == 1 else f"{len(self.pictures)} pictures"
        return f"{count}; degradation {given['degradation']}; seed {given['seed']}; {given['device']}"

    def _footnotes(self, names: Sequence[str]) -> list[str]:
        notes = []
        scores = [score for picture in self.pictures for score in picture.scores.values()]
        for name in names:
            lacking = sum(score.values.get(name, 0.0) is None for score in scores)
            why = f" (fewer than 9 patches of {PATCH}x{PATCH} pixels)" if name == "NIQE" else ""
            if lacking:
                notes.append(f"{name}: no value for {lacking} of {len(scores)} results{why}")
        notes += [f"{name} not available: {reason}" for name, reason in self.missing.items()]
        return notes


def evaluate_picture_files(paths: Sequence[Path], options: PictureOptions, say: Callable[[str], None]) -> str:
    """Measure, write the files that were asked for, and return the table.

    Args:
        paths: files and folders.
        options: see there.
        say: is called with a line of progress at a time.

    Raises:
        ConfigError: an option is wrong, or there is nothing to measure.
        InputError: a file cannot be read.
        OutputError: a file cannot be written.
    """
    settings = load(options.config_file, {"seed": options.seed})
    _check(options)
    sources = find_sources(paths)
    device = device_named(options.device)
    methods = open_methods(parse_methods(options.methods, settings), settings, device, settings.seed)
    samples = read_samples(
        sources,
        options.degradation,
        seed=settings.seed,
        crop=options.crop,
        frames=options.frames,
        max_pixels=settings.limits.max_input_pixels,
    )
    with closing(samples):
        chosen = islice(samples, options.limit)
        report = evaluate(chosen, methods, optional_metrics(device), _recorded(options, settings), say)
    write_files((options.json_file, report.as_json), (options.sheet_file, report.sheet))
    return report.table()


def evaluate(
    samples: Iterable[Sample],
    methods: tuple[Method, ...],
    offer: Offer,
    settings: dict[str, Any],
    say: Callable[[str], None] = lambda _: None,
) -> Report:
    """Every method on every sample. `settings` are for the record. There must be a sample."""
    pictures, rows, truth = [], [], False
    for sample in samples:
        measured, row = _measured(sample, methods, offer)
        pictures.append(measured)
        rows.append(row)
        truth = sample.truth is not None
        seconds = ", ".join(f"{label} {score.seconds:.2f} s" for label, score in measured.scores.items())
        say(f"{sample.name}: {seconds}")
    missing = dict(offer.missing)
    if not truth:
        missing |= {metric.name: "it needs the truth" for metric in offer.available if metric.needs_truth}
    return Report(settings, methods, tuple(pictures), missing, tuple(rows))


def _measured(sample: Sample, methods: Sequence[Method], offer: Offer) -> tuple[Measured, Image.Image]:
    cells = [Cell(sample.name, enlarged(sample.poor, SCALE))]
    scores = {}
    for method in methods:
        begun = time.perf_counter()
        restored = method.restore(sample.poor)
        seconds = time.perf_counter() - begun
        restored = restored.clamp(0, 1).mul(255).round().div(255)
        megapixels = restored.shape[-1] * restored.shape[-2] / 1e6
        score = Score(_values(restored, sample.truth, offer), seconds, megapixels)
        scores[method.spec.label] = score
        first, value = next(iter(score.values.items()))
        cells.append(Cell(f"{method.spec.label}  {first} {text_of(first, value)}", restored))
    if sample.truth is not None:
        cells.append(Cell("truth", sample.truth))
    height, width = (side * SCALE for side in sample.poor.shape[-2:])
    guide = cells[0].picture if sample.truth is None else sample.truth  # which favours no method
    truth = {} if sample.truth is None else _values(sample.truth, None, offer)
    return Measured(sample.name, (width, height), scores, truth), draw_row(cells, guide)


def _values(picture: Tensor, truth: Tensor | None, offer: Offer) -> dict[str, float | None]:
    """Every metric that can be measured. Those that compare need a truth."""
    values: dict[str, float | None] = {}
    if truth is not None:
        values["PSNR"] = finite(float(metrics.psnr(picture, truth, BORDER)))
        values["SSIM"] = finite(float(metrics.ssim(picture, truth, BORDER)))
    values["NIQE"] = niqe(picture[0])
    for metric in offer.available:
        if truth is not None or not metric.needs_truth:
            values[metric.name] = finite(metric.measure(picture, truth))
    return values


def _check(options: PictureOptions) -> None:
    """Refuse what would otherwise fail only after the work is done."""
    if options.degradation not in DEGRADATIONS:
        raise ConfigError(
            f"--degradation must be one of {', '.join(DEGRADATIONS)}, not {options.degradation!r}"
        )
    check_counts(options, "limit", "crop", "frames")
    check_folders(options.json_file, options.sheet_file)


def check_counts(options: object, *names: str) -> None:
    """Raise ConfigError if one of these options is given and is less than one."""
    for name in names:
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name.replace('_', '-')} must be at least 1, not {value}")


def check_folders(*files: Path | None) -> None:
    """Raise ConfigError if the folder of a file to write does not exist."""
    for file in files:
        if file is not None and not file.absolute().parent.is_dir():
            raise ConfigError(f"{file} cannot be written: there is no folder {file.absolute().parent}")


def device_named(name: str) -> torch.device:
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"--device {name}: torch knows no such device") from error


def _recorded(options: PictureOptions, settings: Settings) -> dict[str, Any]:
    """The settings that decide the numbers, for JSON."""
    files = ("config_file", "json_file", "sheet_file", "methods")
    kept = {name: value for name, value in asdict(options).items() if name not in files}
    guidance = settings.guidance_scale
    return {**kept, "seed": settings.seed, "guidance_scale": guidance, "scale": SCALE, "border": BORDER}


def write_files(*asked: tuple[Path | None, Callable[[], bytes]]) -> None:
    """Write each file that was asked for. Raises OutputError if that fails."""
    for file, content in asked:
        if file is not None:
            _write(file, content())


def _write(file: Path, content: bytes) -> None:
    try:
        file.write_bytes(content)
    except OSError as error:
        raise OutputError(f"{file} cannot be written: {error.strerror}") from error


def versions() -> dict[str, str]:
    """Of this program and of the libraries that decide the numbers."""
    return {"invsr-daemon": __version__, **{name: version(name) for name in LIBRARIES}}


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of those that have a value; None if none has."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def finite(value: float) -> float | None:
    """None for infinity, which JSON lacks: equal pictures have no PSNR."""
    return value if math.isfinite(value) else None


def text_of(name: str, value: float | None, decimals: Mapping[str, int] = DECIMALS) -> str:
    """A number as tables show it."""
    return "-" if value is None else f"{value:.{decimals.get(name, 4)}f}"
