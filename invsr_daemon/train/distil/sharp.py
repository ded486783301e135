"""Sharp pictures to spoil: photographs at several sizes, and drawn ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from ...errors import ConfigError

HERE = Path(__file__).parent
LONGEST_SIDES = (1600, 1024, 720)
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
KEPT = 400  # decoded pictures


@dataclass(frozen=True)
class Source:
    """A file and the length that its longest side is reduced to."""

    path: Path
    longest: int

    def pixels(self) -> np.ndarray:
        """uint8 [H,W,3]; transparency on white."""
        return _pixels(self.path, self.longest)


def names_in(path: Path) -> tuple[str, ...]:
    """A list's lines without comments."""
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return tuple(line for line in lines if line and not line.startswith("#"))


def photographs(folders: Iterable[Path], names: Sequence[str], never: Sequence[str]) -> tuple[Source, ...]:
    """Every listed photograph at each size. Raises ConfigError if there is none, or a held-out one among
    them.
    """
    paths = sorted(
        path
        for folder in folders
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and not path.is_symlink()
        and any(name in path.as_posix() for name in names)
    )
    held_out = [path for path in paths if any(name in path.as_posix() for name in never)]
    if held_out:
        raise ConfigError(f"{held_out[0]} is measured on and must not be trained on")
    if not paths:
        raise ConfigError("none of the listed photographs was found")
    return tuple(source for path in paths for source in _sizes(path))


def drawn(folder: Path) -> tuple[Source, ...]:
    """Every drawn picture at its own size. Raises ConfigError if there is none."""
    paths = sorted(path for path in folder.rglob("*.png"))
    if not paths:
        raise ConfigError(f"no drawn pictures in {folder}: run train.distil.gather")
    return tuple(Source(path, max(_size(path))) for path in paths)


def cut(source: Source, side: int, rng: np.random.Generator) -> np.ndarray:
    """A square at a random place, turned and mirrored at random. Small pictures are mirrored at their
    borders.
    """
    pixels = source.pixels()
    missing = [(0, max(0, side - each)) for each in pixels.shape[:2]]
    if any(after for _, after in missing):
        pixels = np.pad(pixels, (*missing, (0, 0)), mode="symmetric")
    top, left = (int(rng.integers(0, each - side + 1)) for each in pixels.shape[:2])
    square = np.rot90(pixels[top : top + side, left : left + side], int(rng.integers(4)))
    return np.ascontiguousarray(square[:, ::-1] if rng.random() < 0.5 else square)


def _sizes(path: Path) -> list[Source]:
    """What it can be reduced to; as it is if it is small already."""
    longest = max(_size(path))
    return [Source(path, each) for each in LONGEST_SIDES if each < longest] or [Source(path, longest)]


def _size(path: Path) -> tuple[int, int]:
    with Image.open(path) as opened:
        return opened.size


@lru_cache(maxsize=KEPT)
def _pixels(path: Path, longest: int) -> np.ndarray:
    with Image.open(path) as opened:
        opened.draft("RGB", (longest, longest))
        picture = opened.convert("RGBA" if "A" in opened.getbands() else "RGB")
    if picture.mode == "RGBA":
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    factor = longest / max(picture.size)
    if factor < 1:
        width, height = (max(1, round(side * factor)) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(picture)
