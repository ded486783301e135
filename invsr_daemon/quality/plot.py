"""Curves over frames, drawn with Pillow: a panel per film, two beside each other."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

# Everything is drawn twice as large and then reduced, for smooth lines.
FINE = 2
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = (FINE * size for size in (640, 260, 56, 14, 30, 40))
ACROSS, LEGEND, FONT_SIZE = 2, 34 * FINE, 13 * FINE
PAPER, INK, FAINT, SEAM = "white", "#202020", "#e2e2e2", "#9a9a9a"
# Okabe and Ito's colours, which everyone can tell apart; the last curve, the truth, is black.
COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


@dataclass(frozen=True)
class Curve:
    """A value per frame; None leaves a gap."""

    label: str
    values: tuple[float | None, ...]


@dataclass(frozen=True)
class Panel:
    """Curves over the same frames; `marks`: frames where a chunk begins. The last curve is the truth's."""

    title: str
    curves: tuple[Curve, ...]
    marks: tuple[int, ...] = ()


def draw_panels(panels: Sequence[Panel]) -> bytes:
    """PNG. All panels have the same curves; each has its own scale, from zero, in levels of 255."""
    rows = -(-len(panels) // ACROSS)
    picture = Image.new("RGB", (WIDTH * min(ACROSS, len(panels)), LEGEND + HEIGHT * rows), PAPER)
    pen = ImageDraw.Draw(picture)
    _legend(pen, [curve.label for curve in panels[0].curves])
    for number, panel in enumerate(panels):
        _panel(pen, panel, number % ACROSS * WIDTH, LEGEND + number // ACROSS * HEIGHT)
    encoded = io.BytesIO()
    picture.reduce(FINE).save(encoded, "PNG", optimize=True)
    return encoded.getvalue()


def _panel(pen: ImageDraw.ImageDraw, panel: Panel, x: int, y: int) -> None:
    frames = max(len(curve.values) for curve in panel.curves)
    top = max((value for curve in panel.curves for value in curve.values if value is not None), default=1.0)
    step = _step(top)
    most = max(step * math.ceil(top / step), step)
    left, right, upper, lower = x + LEFT, x + WIDTH - RIGHT, y + TOP, y + HEIGHT - BOTTOM

    def place(frame: float, value: float) -> tuple[float, float]:
        return left + (right - left) * frame / max(frames - 1, 1), lower - (lower - upper) * value / most

    font = ImageFont.load_default(FONT_SIZE)
    for tick in range(round(most / step) + 1):
        height = place(0, tick * step)[1]
        pen.line((left, height, right, height), fill=FAINT, width=FINE)
        pen.text((left - 6 * FINE, height), f"{tick * step:g}", fill=INK, font=font, anchor="rm")
    every = max(1, round(_step(frames - 1)))
    for frame in range(0, frames, every):
        pen.text((place(frame, 0)[0], lower + 4 * FINE), str(frame), fill=INK, font=font, anchor="ma")
    for mark in panel.marks:
        across = place(mark, 0)[0]
        for dash in range(upper, lower, 8 * FINE):
            pen.line((across, dash, across, dash + 3 * FINE), fill=SEAM, width=FINE)
    pen.line((left, upper, left, lower, right, lower), fill=INK, width=FINE)
    pen.text((left, y + 8 * FINE), f"{panel.title} (levels of 255)", fill=INK, font=font)
    pen.text((right, y + HEIGHT - 8 * FINE), "frame", fill=INK, font=font, anchor="rs")
    for number, curve in enumerate(panel.curves):
        run: list[tuple[float, float]] = []
        for frame, value in [*enumerate(curve.values), (frames, None)]:
            if value is not None:
                run.append(place(frame, value))
                continue
            if run:
                pen.line(run, fill=_colour(number, len(panel.curves)), width=3, joint="curve")
            run = []


def _legend(pen: ImageDraw.ImageDraw, labels: Sequence[str]) -> None:
    x, font = LEFT, ImageFont.load_default(FONT_SIZE)
    for number, label in enumerate([*labels, "chunk begins"]):
        colour = _colour(number, len(labels)) if number < len(labels) else SEAM
        pen.line((x, LEGEND // 2, x + 22 * FINE, LEGEND // 2), fill=colour, width=3 * FINE)
        pen.text((x + 28 * FINE, LEGEND // 2), label, fill=INK, font=font, anchor="lm")
        x += 52 * FINE + round(pen.textlength(label, font=font))


def _colour(number: int, count: int) -> str:
    return INK if number == count - 1 else COLOURS[number % len(COLOURS)]


def _step(most: float) -> float:
    """1, 2 or 5 times a power of ten: about five of them make `most`."""
    rough = max(most, 1e-3) / 5
    power = 10 ** math.floor(math.log10(rough))
    return float(next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999))
