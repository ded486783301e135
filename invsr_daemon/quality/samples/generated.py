"""The generated films: one of each kind of motion, over photographs.

Velocities are in pixels of the truth per frame; a pixel of the poor picture is four of them. Photographs go
on beyond their edges mirrored, so that any motion may last.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ...errors import ConfigError
from .clips import Pixels
from .scenes import Generated, Layer, Matrix, Path, Shape, Shot, texture

Size = tuple[int, int]
# In levels of 255: the noise of a small camera in poor light.
SENSOR_NOISE = 5.0
SHOT_FRAMES = 20
SLIDES = 2
# Frames of the slide show for one of another film's: each picture is held for a second or two.
SLIDE_SHOW_LENGTH = 2


@dataclass(frozen=True)
class Studio:
    """What films are made of: photographs [H,W,3], the truth's size (height, width), a length in frames."""

    photographs: tuple[Pixels, ...]
    size: Size
    frames: int
    seed: int = 0

    def photograph(self, number: int) -> Pixels:
        """The photograph of any number: they repeat, then mirrored, so that two neighbours always differ."""
        turn, index = divmod(number, len(self.photographs))
        picture = self.photographs[index]
        return np.ascontiguousarray(picture[:, ::-1]) if turn % 2 else picture

    def centre(self) -> tuple[float, float]:
        """The frame's centre as (x, y)."""
        return (self.size[1] - 1) / 2, (self.size[0] - 1) / 2

    def background(self, number: int, path: Path | None = None) -> Layer:
        """A photograph in the middle of the frame, and from there along a path of the frame."""
        weights = texture(self.photograph(number), self.size)
        start = middle(weights.shape[:2], self.size)
        return Layer(weights, after(start, path) if path else lambda _: start)

    def clip(self, name: str, *layers: Layer, noise: float = 0.0) -> Generated:
        return Generated(name, self.size, (Shot(self.frames, layers),), noise, self.seed)


def middle(texture_size: Sequence[int], size: Size) -> Matrix:
    """Frame -> texture, both having the same middle, on a whole pixel."""
    return shifted((texture_size[1] - size[1]) // 2, (texture_size[0] - size[0]) // 2)


def shifted(x: float, y: float) -> Matrix:
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])


def after(start: Matrix, path: Path) -> Path:
    """A path within the frame, then the way from frame to texture."""
    return lambda t: start @ path(t)


def panning(x: float, y: float) -> Path:
    """What is in view moves by (-x, -y) a frame."""
    return lambda t: shifted(x * t, y * t)


def turned(centre: tuple[float, float], angle: float, scale: float) -> Matrix:
    """About a centre, by `angle` radians, enlarged `scale` times."""
    cosine, sine = math.cos(angle) / scale, math.sin(angle) / scale
    about = np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])
    matrix: Matrix = shifted(*centre) @ about @ shifted(-centre[0], -centre[1])
    return matrix


def pan_slow(studio: Studio) -> Generated:
    return studio.clip("pan-slow", studio.background(0, panning(0.37, 0.21)))


def pan(studio: Studio) -> Generated:
    return studio.clip("pan", studio.background(1, panning(2.6, 1.1)))


def pan_fast(studio: Studio) -> Generated:
    return studio.clip("pan-fast", studio.background(2, panning(14.3, -5.7)))


def zoom(studio: Studio) -> Generated:
    centre = studio.centre()
    return studio.clip("zoom", studio.background(3, lambda t: turned(centre, 0.0, 1.006**t)))


def rotation(studio: Studio) -> Generated:
    centre, per_frame = studio.centre(), math.radians(0.35)
    return studio.clip("rotation", studio.background(0, lambda t: turned(centre, per_frame * t, 1.0)))


def static(studio: Studio) -> Generated:
    return studio.clip("static", studio.background(1))


def static_noise(studio: Studio) -> Generated:
    return studio.clip("static-noise", studio.background(1), noise=SENSOR_NOISE)


def moving_object(studio: Studio) -> Generated:
    return studio.clip("object", studio.background(2), _object(studio, 3, edge=1.0))


def soft_object(studio: Studio) -> Generated:
    return studio.clip("object-soft", studio.background(3), _object(studio, 0, edge=12.0))


def cuts(studio: Studio) -> Generated:
    """A slow pan, cut to another one every 20 frames."""
    lengths = [min(SHOT_FRAMES, studio.frames - done) for done in range(0, studio.frames, SHOT_FRAMES)]
    velocities = ((1.3, 0.6), (-0.9, 0.4), (0.5, -1.1))
    shots = tuple(
        Shot(length, (studio.background(number, panning(*velocities[number % 3])),))
        for number, length in enumerate(lengths)
    )
    return Generated("cuts", studio.size, shots, seed=studio.seed)


def talking_head(studio: Studio) -> Generated:
    """A small ellipse that sways, nods and comes nearer by a little before a still background."""
    height, width = studio.size
    centre, radii = (0.5 * width, 0.5 * height), (0.11 * width, 0.19 * height)

    def path(t: int) -> Matrix:
        sway, nod = 2.5 * math.sin(t / 5), 1.5 * math.sin(t / 3.3)
        return turned(centre, 0.02 * math.sin(t / 7), 1 + 0.015 * math.sin(t / 9)) @ shifted(-sway, -nod)

    head = texture(studio.photograph(0), studio.size)
    start = middle(head.shape[:2], studio.size)
    layer = Layer(head, after(start, path), Shape(centre, radii, edge=6.0), outline=path)
    return studio.clip("talking-head", studio.background(1), layer)


def screen(studio: Studio) -> Generated:
    """A recorded screen: nothing changes but a few scrolling lines, and a cursor that wanders and rests."""
    height, width = studio.size
    desktop = Layer(texture(draw_desktop(studio.photograph(2), studio.size)))
    pane = Shape((0.7 * width, 0.7 * height), (0.12 * width, 0.08 * height), edge=1e-6, box=True)
    lines = texture(draw_text((4 * height, width), size=height // 24, seed=1))
    scrolling = Layer(lines, lambda t: shifted(0, 2.0 * t), pane, outline=lambda _: shifted(0, 0))
    arrow = Shape((8.0, 8.0), (6.0, 6.0), edge=1e-6, box=True)
    cursor = Layer(texture(np.full((17, 17, 3), 20, np.uint8)), _wandering(width, height), arrow)
    return studio.clip("screen", desktop, scrolling, cursor)


def slides(studio: Studio) -> Generated:
    """Still pictures, each held for as many frames as another film has."""
    held = studio.frames * SLIDE_SHOW_LENGTH // SLIDES
    shots = tuple(Shot(held, (studio.background(number),)) for number in range(SLIDES))
    return Generated("slides", studio.size, shots, seed=studio.seed)


CLIPS: dict[str, Callable[[Studio], Generated]] = {
    "pan-slow": pan_slow,
    "pan": pan,
    "pan-fast": pan_fast,
    "zoom": zoom,
    "rotation": rotation,
    "static": static,
    "static-noise": static_noise,
    "object": moving_object,
    "object-soft": soft_object,
    "cuts": cuts,
    "talking-head": talking_head,
    "screen": screen,
    "slides": slides,
}


def generated(names: Sequence[str], studio: Studio) -> Iterator[Generated]:
    """The films of these names, each made in its turn. Raises ConfigError for one that there is not."""
    for name in names:
        if name not in CLIPS:
            raise ConfigError(f"there is no clip {name!r}, only {', '.join(CLIPS)}")
    return (CLIPS[name](studio) for name in names)


def draw_desktop(photograph: Pixels, size: Size) -> Pixels:
    """Two windows with text over a photograph, [H,W,3] of `size`."""
    height, width = size
    picture = Image.fromarray(photograph).resize((width, height), Image.Resampling.LANCZOS)
    pen = ImageDraw.Draw(picture)
    for left, top, right, bottom in ((0.04, 0.06, 0.5, 0.8), (0.54, 0.5, 0.96, 0.94)):
        box = [
            round(share * side)
            for share, side in zip((left, top, right, bottom), 2 * (width, height), strict=True)
        ]
        text = draw_text((box[3] - box[1], box[2] - box[0]), size=max(8, height // 28), seed=box[0])
        picture.paste(Image.fromarray(text), (box[0], box[1]))
        pen.rectangle(box, outline=(40, 40, 60), width=3)
        pen.rectangle((box[0], box[1] - height // 30, box[2], box[1]), fill=(60, 80, 140))
    return np.asarray(picture)


def draw_text(area: Size, size: int, seed: int) -> Pixels:
    """Lines of made-up words, black on white, [H,W,3]."""
    height, width = area
    picture = Image.new("RGB", (width, height), "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(size)
    rng = np.random.default_rng(seed)
    for y in range(size // 2, height, round(1.4 * size)):
        words = ["".join(rng.choice(list("abcdeghilmnorstu"), rng.integers(2, 9))) for _ in range(12)]
        pen.text((size // 2, y), " ".join(words)[: int(rng.integers(20, 80))], fill="black", font=font)
    return np.asarray(picture)


def _object(studio: Studio, number: int, edge: float) -> Layer:
    """A piece of another photograph, on its way across the middle of the frame."""
    height, width = studio.size
    weights = texture(studio.photograph(number), studio.size)
    start = middle(weights.shape[:2], studio.size)
    speed = min(3.1, 0.4 * width / studio.frames)
    path = panning(-speed, -0.3 * speed)
    shape = Shape((0.3 * width, 0.4 * height), (0.14 * width, 0.2 * height), edge)
    return Layer(weights, after(start, path), shape, outline=path)


def _wandering(width: int, height: int) -> Path:
    """A cursor's path: it crosses the screen for some frames, rests as long, and so on."""

    def path(t: int) -> Matrix:
        moved = t // 24 * 12 + min(t % 24, 12)
        return shifted(
            -(0.56 * width + 4 * moved % (0.3 * width)), -(0.6 * height + 2 * moved % (0.2 * height))
        )

    return path
