"""Make the folder of sharp pictures on which the model card's tables were measured.

    python benchmarks/validation_set.py --photographs DIR --out DIR [--longest-side 1024]

`--photographs` is a folder that holds, at any depth, the photographs of three Debian packages
(lomiri-wallpapers-16.04, mate-backgrounds, plasma-workspace-wallpapers; `apt-get download` and
`dpkg-deb -x` bring them without installing anything). Astronaut, coffee and chelsea come with
scikit-image. None of them is in `train/configs/photographs.txt`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from skimage import data

# A name for each, and the part of its path that no other photograph has.
WALLPAPERS = {
    "Bridge": "Bridge_by_Sander_Klootwijk.jpg",
    "EveningGlow": "EveningGlow/contents/images/2560x1600",
    "Kite": "Kite/contents/images/2560x1600",
    "LadyBird": "LadyBird.jpg",
    "life": "life_by_Aitzol_Berasategi.jpg",
    "umang": "umang_by_Abhishek_Mudgal.jpg",
}
SMALL = ("astronaut", "coffee", "chelsea")


def wallpapers(photographs: Path, names: tuple[str, ...]) -> Iterator[tuple[str, Image.Image]]:
    """Each wallpaper with its name. Raises FileNotFoundError if one is missing."""
    paths = [path for path in sorted(photographs.rglob("*")) if path.is_file() and not path.is_symlink()]
    for name in names:
        found = [path for path in paths if WALLPAPERS[name] in path.as_posix()]
        if not found:
            raise FileNotFoundError(f"there is no {WALLPAPERS[name]} below {photographs}")
        with Image.open(found[0]) as opened:
            yield name, opened.convert("RGB")


def reduced(picture: Image.Image, longest_side: int) -> Image.Image:
    """A camera's picture, sharp per pixel once it is smaller."""
    factor = longest_side / max(picture.size)
    if factor >= 1:
        return picture
    width, height = (round(side * factor) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--photographs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--longest-side", type=int, default=1024)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    large = given.longest_side > 1024
    names = tuple(name for name in WALLPAPERS if large or name != "umang")
    for name, picture in wallpapers(given.photographs, names):
        reduced(picture, given.longest_side).save(given.out / f"{name}.png")
    for name in () if large else SMALL:
        Image.fromarray(getattr(data, name)()).save(given.out / f"{name}.png")


if __name__ == "__main__":
    main()
