"""The picture in the README: one frame of a film, enlarged bicubically beside the same frame restored.

    python benchmarks/before_after.py FILM RESTORED OUT.png [--frame N] [--crop LEFT,TOP,WIDTH,HEIGHT]

The crop is in pixels of the restored film.
"""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path

import av
from PIL import Image


def frame(film: Path, index: int) -> Image.Image:
    with av.open(str(film)) as container:
        decoded = next(islice(container.decode(video=0), index, None))
    return Image.fromarray(decoded.to_ndarray(format="rgb24"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("film", type=Path)
    parser.add_argument("restored", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--frame", type=int, default=0)
    parser.add_argument("--crop", default="0,0,480,400")
    arguments = parser.parse_args()
    left, top, width, height = map(int, arguments.crop.split(","))
    after = frame(arguments.restored, arguments.frame)
    before = frame(arguments.film, arguments.frame).resize(after.size, Image.Resampling.BICUBIC)
    pair = Image.new("RGB", (2 * width + 4, height), "white")
    for position, picture in enumerate((before, after)):
        pair.paste(picture.crop((left, top, left + width, top + height)), (position * (width + 4), 0))
    pair.save(arguments.out, optimize=True)


if __name__ == "__main__":
    main()
