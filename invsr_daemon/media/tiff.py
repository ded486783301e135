"""TIFF pictures of more than 8 bits per channel, of four inks, or with smaller copies of themselves.

Pillow cuts or misreads those; tifffile reads them as they are (TIFF 6.0; BigTIFF).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tifffile import EXTRASAMPLE, FILETYPE, PHOTOMETRIC, TiffFile, TiffPage

from ..errors import InputError
from ..logs import counted
from .inks import inks_as_rgb

UNSIGNED = 1  # SampleFormat
# Samples per pixel that mean colours. What follows them is alpha, or unknown.
COLOURS: dict[int, int] = {
    PHOTOMETRIC.MINISWHITE: 1,
    PHOTOMETRIC.MINISBLACK: 1,
    PHOTOMETRIC.RGB: 3,
    PHOTOMETRIC.SEPARATED: 4,
}
ALPHA = (EXTRASAMPLE.ASSOCALPHA, EXTRASAMPLE.UNASSALPHA)
MOST_SAMPLES = 16
TOP_8, TOP_16 = 255, 65535

Samples = NDArray[np.uint8] | NDArray[np.uint16]


@dataclass(frozen=True)
class Layout:
    """What a TIFF's largest page says of its samples.

    `page`: which one that is. `kind`: PhotometricInterpretation. `alpha`: ExtraSamples. `unknown`: how many
    samples are neither colour nor alpha. `copies`: other pages, which are reduced ones of it.
    """

    page: int
    kind: int
    bits: int
    alpha: int | None
    unknown: int
    copies: int

    def __str__(self) -> str:
        return f"TIFF of {self.bits} bits per channel ({PHOTOMETRIC(self.kind).name})"

    @property
    def inks(self) -> bool:
        """Whether it is CMYK."""
        return self.kind == PHOTOMETRIC.SEPARATED

    @property
    def grey(self) -> bool:
        return self.kind in (PHOTOMETRIC.MINISWHITE, PHOTOMETRIC.MINISBLACK)

    def notes(self) -> Iterator[str]:
        """What reading it loses."""
        if self.inks and self.bits > 8:
            yield f"its {self.bits} bits per channel are cut to 8: CMYK is converted with no more"
        if self.unknown:
            others = counted(self.unknown, "further channel")
            yield f"left out: {others} (neither colour nor transparency)"
        if self.copies:
            yield f"left out: {counted(self.copies, 'smaller page')}"


def layout(content: IO[bytes]) -> Layout:
    """How a TIFF is laid out; nothing is decoded.

    Raises InputError if it has several pages, or samples that are not read.
    """
    with _opened(content) as tiff:
        page = _first(tiff)
        copies = _reduced_copies(tiff, page)
        colours = COLOURS.get(page.photometric, page.samplesperpixel)
        further = tuple(page.extrasamples) or (EXTRASAMPLE.UNSPECIFIED,) * (page.samplesperpixel - colours)
        alpha = next((kind for kind in further[:1] if kind in ALPHA), None)
        unknown = len(further) - (alpha is not None)
        return Layout(page.index, page.photometric, page.bitspersample, alpha, unknown, copies)


def check_deep(content: IO[bytes], found: Layout) -> None:
    """Raises InputError if a TIFF of more than 8 bits per channel is of a kind that is not read."""
    with _opened(content) as tiff:
        page = _first(tiff)
        if found.bits > 16:
            raise InputError(f"it has {found.bits} bits per channel, which is not supported")
        if found.kind not in COLOURS or page.samplesperpixel < COLOURS[found.kind]:
            raise InputError(f"it is a {found}, which is not supported")
        if page.sampleformat != UNSIGNED or page.samplesperpixel > MOST_SAMPLES:
            raise InputError("its channels are no whole numbers, or too many, which is not supported")


def read_deep(content: IO[bytes], found: Layout) -> tuple[NDArray[np.uint16], NDArray[np.uint16] | None]:
    """Colours [H,W,3] of 16 bits, and alpha [H,W] if there is any, of a TIFF that is not CMYK."""
    samples = _scaled(_decoded(content), found.bits)
    colours = COLOURS[found.kind]
    pixels = samples[..., :colours]
    if found.kind == PHOTOMETRIC.MINISWHITE:
        pixels = TOP_16 - pixels
    if found.alpha is None:
        return _three(pixels), None
    alpha = np.ascontiguousarray(samples[..., colours])
    if found.alpha == EXTRASAMPLE.ASSOCALPHA:
        pixels = _unassociated(pixels, alpha)
    return _three(pixels), alpha


def read_inks(content: IO[bytes], found: Layout, profile: bytes | None) -> Image.Image:
    """CMYK as RGB of 8 bits: by its profile if there is one, otherwise as Pillow does it."""
    samples = _scaled(_decoded(content), found.bits)[..., :4]
    return inks_as_rgb(Image.fromarray((samples >> 8).astype(np.uint8), "CMYK"), profile)


@contextmanager
def _opened(content: IO[bytes]) -> Iterator[TiffFile]:
    content.seek(0)
    with TiffFile(content) as tiff:
        yield tiff


def _first(tiff: TiffFile) -> TiffPage:
    """The page that is read: the first one that is no reduced copy."""
    pages = [page for page in tiff.pages if isinstance(page, TiffPage)]
    return next((page for page in pages if not page.subfiletype & FILETYPE.REDUCEDIMAGE), pages[0])


def _reduced_copies(tiff: TiffFile, first: TiffPage) -> int:
    """How many other pages there are, if all are the first one in smaller. Raises InputError if not."""
    pages = list(tiff.pages)
    others = [page.aspage() for page in pages if page.index != first.index]
    if all(_is_reduced(page, first) for page in others):
        return len(others)
    raise InputError("it has several pages, which is not supported")


def _is_reduced(page: TiffPage, first: TiffPage) -> bool:
    """By its own word, or by a size that is the first one's, halved some times."""
    if page.subfiletype & FILETYPE.REDUCEDIMAGE:
        return True
    halved = [(first.imagewidth >> times, first.imagelength >> times) for times in range(1, 16)]
    return min(page.imagewidth, page.imagelength) > 0 and (page.imagewidth, page.imagelength) in halved


def _decoded(content: IO[bytes]) -> Samples:
    """The page's samples [H,W,S]."""
    with _opened(content) as tiff:
        page = _first(tiff)
        length = tiff.filehandle.size
        if any(
            start + size > length for start, size in zip(page.dataoffsets, page.databytecounts, strict=True)
        ):
            raise InputError("the picture is damaged: it is cut off")
        decoded = page.asarray(maxworkers=1)
        if page.axes.startswith("S"):  # a plane for each channel
            decoded = np.moveaxis(decoded, 0, -1)
    return cast("Samples", decoded.reshape(*decoded.shape[:2], -1))


def _scaled(samples: Samples, bits: int) -> NDArray[np.uint16]:
    """Samples of so many bits over the whole range of 16."""
    if bits == 16:
        return samples.astype(np.uint16, copy=False)
    top = (1 << bits) - 1
    return ((samples.astype(np.uint32) * TOP_16 + top // 2) // top).astype(np.uint16)


def _unassociated(pixels: NDArray[np.uint16], alpha: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Colours as they are without the alpha that they were multiplied with."""
    share = np.maximum(alpha, 1)[..., None].astype(np.uint64)
    return ((pixels.astype(np.uint64) * TOP_16 + share // 2) // share).clip(0, TOP_16).astype(np.uint16)


def _three(pixels: NDArray[np.uint16]) -> NDArray[np.uint16]:
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))
