"""Make the fixed sets on which the embedded model is judged: nothing in them is ever trained on.

    python benchmarks/fixed_sets.py --unpacked DIR [DIR ...] --out DIR [--longest-side 768]

Folders of sharp PNGs: `eight` (validation_set.py's), `photographs` (24 more), `screens` (6 windows and 6
pages), `drawings` (12), `grey` (12 without colour), and `text` (12 pages at three sizes, each with its
words in a .txt). `--unpacked` holds unpacked Debian packages (`dpkg-deb -x`): lomiri-wallpapers-16.04,
mate-backgrounds, plasma-workspace-wallpapers, lxqt-themes, palapeli-data, supertuxkart-data,
stellarium-data, openclipart-svg, papirus-icon-theme and fonts-*. scikit-image, scikit-learn and matplotlib
bring the rest with them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import skimage
import sklearn.datasets
from PIL import Image, ImageDraw, ImageFont
from validation_set import SMALL, WALLPAPERS, reduced

from invsr_daemon.train.distil.gather import WORDS, Materials, draw

SEED = 99  # of drawings; training's is another
MULTIPLE = 8  # sides, so that a quarter of them is even
PHOTOGRAPHS = {
    "umang": "umang_by_Abhishek_Mudgal.jpg",
    "cincinnati-bridge": "palapeli/collection/cincinnati-bridge.jpg",
    "honey-bee": "palapeli/collection/european-honey-bee.jpg",
    "chameleon": "palapeli/collection/panther-chameleon-female.jpg",
    "castle": "palapeli/collection/castle-maintenon.jpg",
    "citrus": "palapeli/collection/citrus-fruits.jpg",
    "butterfly-wimer": "wallpapers/Butterfly-Kenneth-Wimer.jpg",
    "valendas": "wallpapers/Valendas.png",
    "after-the-rain": "wallpapers/after-the-rain.jpg",
    "appleflower": "wallpapers/appleflower.png",
    "butterfly": "wallpapers/butterfly.png",
    "drop": "wallpapers/drop.png",
    "flowers": "wallpapers/flowers.png",
    "fog": "wallpapers/fog.jpg",
    "forest-floor": "black_forest/forest_floor.jpg",
    "brick-wall": "black_forest/brick_wall_06.jpg",
    "mars": "landscapes/mars/mars.png",
    "hurricane": "landscapes/hurricane/hurricane1.png",
}
SKIMAGE = ("rocket.jpg", "hubble_deep_field.jpg", "motorcycle_left.png")
SKLEARN = ("china.jpg", "flower.jpg")
MATPLOTLIB = ("grace_hopper.jpg",)
GREY = ("camera", "brick", "grass", "gravel", "moon", "coins", "clock_motion", "page", "text", "cell")
GREY_PHOTOGRAPHS = ("castle", "honey-bee")
TEXT_SIZES = (32, 40, 52)  # of the sharp page's letters; a quarter of that is left
TEXT_FONTS = ("DejaVuSans.ttf", "LiberationSerif-Regular.ttf", "Lato-Regular.ttf", "DejaVuSansMono.ttf")
TEXT_SIDES = (1024, 768)


def found(paths: Sequence[Path], part: str) -> Path:
    """The first path that holds `part`. Raises FileNotFoundError."""
    path = next((each for each in paths if part in each.as_posix()), None)
    if path is None:
        raise FileNotFoundError(f"there is no {part}: which package is not unpacked?")
    return path


def opened(path: Path) -> Image.Image:
    """RGB; transparency on white."""
    with Image.open(path) as picture:
        if "A" not in picture.getbands():
            return picture.convert("RGB")
        layer = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def even(picture: Image.Image) -> Image.Image:
    """Cut to sides that a quarter of is even."""
    width, height = (side // MULTIPLE * MULTIPLE for side in picture.size)
    return picture.crop((0, 0, width, height))


def eight(paths: Sequence[Path]) -> Iterator[tuple[str, Image.Image]]:
    for name, part in WALLPAPERS.items():
        if name != "umang":
            yield name, opened(found(paths, part))
    folder = Path(skimage.__file__).parent / "data"
    for name in SMALL:
        yield name, opened(folder / f"{name}.png")


def photographs(paths: Sequence[Path]) -> Iterator[tuple[str, Image.Image]]:
    for name, part in PHOTOGRAPHS.items():
        yield name, opened(found(paths, part))
    folders = {
        Path(skimage.__file__).parent / "data": SKIMAGE,
        Path(sklearn.datasets.__file__).parent / "images": SKLEARN,
        Path(matplotlib.get_data_path()) / "sample_data": MATPLOTLIB,
    }
    for folder, names in folders.items():
        for name in names:
            yield Path(name).stem, opened(folder / name)


def grey(paths: Sequence[Path]) -> Iterator[tuple[str, Image.Image]]:
    folder = Path(skimage.__file__).parent / "data"
    for name in GREY:
        yield name, opened(folder / f"{name}.png").convert("L").convert("RGB")
    for name in GREY_PHOTOGRAPHS:
        yield name, opened(found(paths, PHOTOGRAPHS[name])).convert("L").convert("RGB")


def drawings(kinds: dict[str, int], given: Materials) -> Iterator[tuple[str, Image.Image]]:
    for kind, count in kinds.items():
        for number in range(count):
            yield f"{kind}-{number}", draw(kind, number, SEED, given)


def text(given: Materials) -> Iterator[tuple[str, Image.Image, str]]:
    """Pages with the words on them, dark on white."""
    for font_name in TEXT_FONTS:
        path = next(each for each in given.fonts if each.name == font_name)
        for size in TEXT_SIZES:
            rng = np.random.default_rng([SEED, size, TEXT_FONTS.index(font_name)])
            picture, words = _page(ImageFont.truetype(str(path), size), size, rng)
            yield f"{path.stem}-{size}", picture, words


def _page(font: ImageFont.FreeTypeFont, size: int, rng: np.random.Generator) -> tuple[Image.Image, str]:
    picture = Image.new("RGB", TEXT_SIDES, "white")
    draw_on, lines = ImageDraw.Draw(picture), []
    plain = [word for word in WORDS if word.isascii() and word.isalpha()]
    for top in range(24, TEXT_SIDES[1] - 2 * size, round(size * 1.5)):
        line = ""
        while True:
            longer = f"{line} {rng.choice(plain)}".strip()
            if font.getlength(longer) > TEXT_SIDES[0] - 60:
                break
            line = longer
        draw_on.text((30, top), line, font=font, fill=(20, 20, 20))
        lines.append(line)
    return picture, "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--unpacked", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--longest-side", type=int, default=768)
    wanted = parser.parse_args()
    suffixes = (".jpg", ".png")
    paths = [
        path
        for folder in wanted.unpacked
        for path in sorted(folder.rglob("*"))
        if path.suffix in suffixes and path.is_file() and not path.is_symlink()
    ]
    given = Materials.found(wanted.unpacked[0])
    sets = {
        "eight": eight(paths),
        "photographs": photographs(paths),
        "grey": grey(paths),
        "screens": drawings({"window": 6, "page": 6}, given),
        "drawings": drawings({"lines": 6, "clips": 3, "diagram": 3}, given),
    }
    for name, pictures in sets.items():
        folder = wanted.out / name
        folder.mkdir(parents=True, exist_ok=True)
        for title, picture in pictures:
            even(reduced(picture, wanted.longest_side)).save(folder / f"{title}.png")
    folder = wanted.out / "text"
    folder.mkdir(parents=True, exist_ok=True)
    for title, picture, words in text(given):
        picture.save(folder / f"{title}.png")
        (folder / f"{title}.txt").write_text(words + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
