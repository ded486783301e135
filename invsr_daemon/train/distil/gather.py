"""Draw what is no photograph: text, windows, diagrams, line art, flat fills, icons and clip art.

    python -m invsr_daemon.train.distil.gather --unpacked DIR --out DIR [--each 60] [--seed 1]

`--unpacked` is where Debian packages were unpacked (`dpkg-deb -x`): fonts-*, openclipart-svg and an icon
theme. SVG files are rendered by rsvg-convert (Debian's librsvg2-bin). A picture is a function of its kind,
the seed and its number.
"""

from __future__ import annotations

import argparse
import io
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIDE = 1024
_TEXT = (
    "the of and to in is that it for was on are as with his they at be this have from or had by word "
    "but what some we can out other were all there when up use your how said an each she which do "
    "their time if will way about many then them write would like so these her long make thing see "
    "him two has look more day could go come did number sound no most people my over know water than "
    "call first who may down side been now find Über Straße façade naïve Grüße Señor Ångström Zürich "
    "1984 2.718 3,141 42% (a) [b] {c} <d> x=y+1; f(x)"
)
WORDS = _TEXT.split()
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Materials:
    """What is drawn with."""

    fonts: Sequence[Path]
    vectors: Sequence[Path]

    @classmethod
    def found(cls, folder: Path) -> Materials:
        """Below a folder. Symbol fonts without Latin letters stay out."""
        fonts = [
            path
            for path in sorted(folder.rglob("*"))
            if path.suffix.lower() in (".ttf", ".otf") and path.is_file() and _writes_latin(path)
        ]
        clips = sorted((folder / "usr/share/openclipart/svg").rglob("*.svg"))
        icons = [path for path in sorted((folder / "usr/share/icons").rglob("*/64/*.svg")) if path.is_file()]
        icons += [
            path for path in sorted((folder / "usr/share/icons").rglob("64x64/*/*.svg")) if path.is_file()
        ]
        return cls(fonts, [*clips, *icons])


def _writes_latin(path: Path) -> bool:
    try:
        font = ImageFont.truetype(str(path), 32)
        shapes = {bytes(font.getmask(letter)) for letter in "abcxyzAQ4"}
    except (OSError, ValueError):
        return False
    return len(shapes) == 9


def page(rng: np.random.Generator, given: Materials) -> Image.Image:
    """Text of a few sizes and fonts, dark on light or light on dark."""
    paper, ink = _paper_and_ink(rng)
    picture = Image.new("RGB", (SIDE, SIDE), paper)
    draw = ImageDraw.Draw(picture)
    top = int(rng.integers(-20, 30))
    while top < SIDE:
        size = int(
            rng.choice((22, 28, 34, 40, 48, 60, 84, 130), p=(0.1, 0.16, 0.2, 0.2, 0.14, 0.1, 0.06, 0.04))
        )
        font = _font(rng, given, size)
        for _ in range(int(rng.integers(1, 7))):
            draw.text((int(rng.integers(-10, 40)), top), _line(rng, size), font=font, fill=ink)
            top += int(size * rng.uniform(1.15, 1.5))
        top += int(rng.integers(0, 40))
        if rng.random() < 0.2:
            ink = _readable(rng, paper)
    return picture


def window(rng: np.random.Generator, given: Materials) -> Image.Image:
    """Something like a program's window at high density: bars, panes, buttons, fields, thin frames."""
    paper, ink = _paper_and_ink(rng)
    picture = Image.new("RGB", (SIDE, SIDE), paper)
    draw = ImageDraw.Draw(picture)
    accent = _colour(rng)
    draw.rectangle((0, 0, SIDE, 90), fill=accent)
    draw.text((30, 22), _line(rng, 90), font=_font(rng, given, 40), fill=_readable(rng, accent))
    for _ in range(int(rng.integers(14, 34))):
        left, top = (int(each) for each in rng.integers(0, SIDE, 2))
        right, bottom = left + int(rng.integers(60, 420)), max(top, 90) + int(rng.integers(40, 260))
        fill = _shade(rng, paper) if rng.random() < 0.6 else _colour(rng)
        radius, width = int(rng.integers(0, 24)), int(rng.choice((0, 2, 3, 4, 4, 8)))
        draw.rounded_rectangle(
            (left, max(top, 90), right, bottom), radius, fill, ink if width else None, width
        )
        size = int(rng.choice((24, 30, 36, 44)))
        text = " ".join(rng.choice(WORDS, int(rng.integers(1, 5))))
        draw.text(
            (left + 16, max(top, 90) + 10), text, font=_font(rng, given, size), fill=_readable(rng, fill)
        )
    return picture


def diagram(rng: np.random.Generator, given: Materials) -> Image.Image:
    """Axes, curves, bars, boxes and arrows with labels; antialiased by drawing twice as large."""
    paper, ink = _paper_and_ink(rng)
    double = 2 * SIDE
    picture = Image.new("RGB", (double, double), paper)
    draw = ImageDraw.Draw(picture)
    for _ in range(int(rng.integers(3, 10))):
        steps = np.linspace(0, double, int(rng.integers(4, 60)))
        heights = rng.uniform(0, double) + np.cumsum(rng.normal(0, 70, steps.size))
        points = list(zip(steps.tolist(), heights.tolist(), strict=True))
        draw.line(points, fill=_readable(rng, paper), width=int(rng.choice((3, 4, 6, 8, 12))), joint="curve")
    for _ in range(int(rng.integers(4, 20))):
        left, top = (int(each) for each in rng.integers(0, double, 2))
        box = (left, top, left + int(rng.integers(20, 500)), top + int(rng.integers(20, 500)))
        fill = _colour(rng) if rng.random() < 0.5 else None
        shape = draw.ellipse if rng.random() < 0.4 else draw.rectangle
        shape(box, fill=fill, outline=ink, width=int(rng.choice((2, 4, 6, 8))))
    for _ in range(int(rng.integers(4, 16))):
        left, top = (int(each) for each in rng.integers(0, double, 2))
        text = " ".join(rng.choice(WORDS, 2))
        draw.text(
            (left, top), text, font=_font(rng, given, int(rng.integers(44, 110))), fill=_readable(rng, paper)
        )
    return picture.resize((SIDE, SIDE), Image.Resampling.BOX)


def lines(rng: np.random.Generator, given: Materials) -> Image.Image:
    """Line art: strokes of every width and direction, hatching, grids, rings; black on white half the
    time.
    """
    paper, ink = ((255, 255, 255), (0, 0, 0)) if rng.random() < 0.5 else _paper_and_ink(rng)
    double = 2 * SIDE
    picture = Image.new("RGB", (double, double), paper)
    draw = ImageDraw.Draw(picture)
    for _ in range(int(rng.integers(10, 40))):
        x, y = rng.uniform(0, double, 2)
        angle, bend = rng.uniform(0, 2 * np.pi), rng.normal(0, 0.05)
        points = [(x, y)]
        for _ in range(int(rng.integers(2, 80))):
            x, y, angle = x + 40 * np.cos(angle), y + 40 * np.sin(angle), angle + bend
            points.append((x, y))
        draw.line(points, fill=ink, width=int(rng.choice((3, 4, 6, 8, 10, 14, 24))), joint="curve")
    for _ in range(int(rng.integers(1, 5))):
        left, top = (int(each) for each in rng.integers(0, double, 2))
        gap, width = int(rng.integers(14, 60)), int(rng.choice((3, 4, 6, 8)))
        slope = int(rng.integers(-300, 300))
        for number in range(int(rng.integers(6, 24))):
            start = left + number * gap
            draw.line(((start, top), (start + slope, top + 500)), fill=ink, width=width)
            if rng.random() < 0.5:
                radius = number * gap
                ring = (left - radius, top - radius, left + radius, top + radius)
                draw.ellipse(ring, outline=ink, width=width)
    return picture.resize((SIDE, SIDE), Image.Resampling.BOX)


def clips(rng: np.random.Generator, given: Materials) -> Image.Image:
    """One to nine vector drawings on a plain ground."""
    paper = (255, 255, 255) if rng.random() < 0.6 else _colour(rng)
    picture = Image.new("RGB", (SIDE, SIDE), paper)
    across = int(rng.integers(1, 4))
    cell = SIDE // across
    for number in range(across * across):
        clip = None
        for _ in range(6):
            clip = _rendered(given.vectors[int(rng.integers(len(given.vectors)))], cell)
            if clip is not None:
                break
        if clip is not None:
            picture.paste(clip, (number % across * cell, number // across * cell), clip)
    return picture


def _rendered(path: Path, side: int) -> Image.Image | None:
    """An SVG file, or nothing where the renderer fails or takes long."""
    command = ["rsvg-convert", "--width", str(side), "--height", str(side), "--keep-aspect-ratio", str(path)]
    try:
        done = subprocess.run(command, check=True, capture_output=True, timeout=10)
        return Image.open(io.BytesIO(done.stdout)).convert("RGBA")
    except (subprocess.SubprocessError, OSError):
        return None


def _font(rng: np.random.Generator, given: Materials, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(given.fonts[int(rng.integers(len(given.fonts)))]), size)


def _line(rng: np.random.Generator, size: int) -> str:
    return " ".join(rng.choice(WORDS, max(2, 2 * SIDE // (5 * size))))


def _colour(rng: np.random.Generator) -> Colour:
    red, green, blue = (int(each) for each in rng.integers(0, 256, 3))
    return red, green, blue


def _shade(rng: np.random.Generator, of: Colour) -> Colour:
    red, green, blue = (int(np.clip(each + rng.integers(-30, 31), 0, 255)) for each in of)
    return red, green, blue


def _paper_and_ink(rng: np.random.Generator) -> tuple[Colour, Colour]:
    kind = rng.random()
    if kind < 0.45:
        return (255, 255, 255), (0, 0, 0)
    grey = int(rng.integers(200, 256)) if kind < 0.75 else int(rng.integers(0, 60))
    paper = (grey, grey, grey) if rng.random() < 0.5 else _shade(rng, (grey, grey, grey))
    return paper, _readable(rng, paper)


def _readable(rng: np.random.Generator, on: Colour) -> Colour:
    """A colour well apart from another in brightness, half the time grey."""
    dark = sum(on) > 384
    level = int(rng.integers(0, 90)) if dark else int(rng.integers(170, 256))
    if rng.random() < 0.5:
        return level, level, level
    return _shade(rng, (level, level, level))


KINDS: dict[str, Callable[[np.random.Generator, Materials], Image.Image]] = {
    "page": page,
    "window": window,
    "diagram": diagram,
    "lines": lines,
    "clips": clips,
}


def draw(kind: str, number: int, seed: int, given: Materials) -> Image.Image:
    """A picture as a function of its values."""
    return KINDS[kind](np.random.default_rng([seed, list(KINDS).index(kind), number]), given)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--unpacked", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--each", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    wanted = parser.parse_args()
    given = Materials.found(wanted.unpacked)
    print(f"{len(given.fonts)} fonts, {len(given.vectors)} vector drawings", flush=True)
    wanted.out.mkdir(parents=True, exist_ok=True)
    for number in range(wanted.each):
        for kind in KINDS:
            path = wanted.out / f"{kind}-{number:03d}.png"
            if not path.exists():
                draw(kind, number, wanted.seed, given).save(path.with_suffix(".partial"), "png")
                path.with_suffix(".partial").rename(path)


if __name__ == "__main__":
    main()
