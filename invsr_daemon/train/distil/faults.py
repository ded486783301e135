"""From sharp to poor, on 8-bit pictures: what happens to photographs, pages and films before they come here.

Every function takes and gives uint8 [H,W,3]; randomness comes from the generator passed in. `spoilt`
chooses a fault by its share. Block grids lie where the picture begins: whoever cuts afterwards moves them
about.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import av
import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from .. import degrade

SCALE = 4
MARGIN = 4  # LR pixels around the picture that a film's frames pan over
RESAMPLING = (Image.Resampling.BICUBIC, Image.Resampling.LANCZOS, Image.Resampling.BOX)

Fault = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def reduced(sharp: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A quarter of the size: mostly bicubic, as evaluation has it; else as other programs do it."""
    if rng.random() < 0.7:
        return _array(degrade.bicubic(_tensor(sharp), SCALE))
    height, width = sharp.shape[:2]
    resampling = RESAMPLING[int(rng.integers(len(RESAMPLING)))]
    return np.asarray(Image.fromarray(sharp).resize((width // SCALE, height // SCALE), resampling))


def compressed(poor: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """JPEG, one time in three twice, the second time on another grid."""
    once = jpeg(poor, int(rng.integers(30, 96)), int(rng.integers(2)) * 2)
    if rng.random() < 0.65:
        return once
    down, right = (int(each) for each in rng.integers(0, 8, 2))
    moved = np.pad(once, ((down, 0), (right, 0), (0, 0)), mode="edge")
    return jpeg(moved, int(rng.integers(40, 96)), int(rng.integers(2)) * 2)[down:, right:]


def jpeg(picture: np.ndarray, quality: int, subsampling: int) -> np.ndarray:
    """`subsampling`: 0 is 4:4:4, 2 is 4:2:0. A picture without colour is stored without colour."""
    return _stored(picture, "jpeg", quality=quality, subsampling=subsampling)


def webp(poor: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return _stored(poor, "webp", quality=int(rng.integers(30, 96)))


def _stored(picture: np.ndarray, kind: str, **options: Any) -> np.ndarray:
    file = io.BytesIO()
    image = Image.fromarray(picture)
    grey = kind == "jpeg" and bool((picture == picture[..., :1]).all())
    (image.convert("L") if grey else image).save(file, kind, **options)
    with Image.open(file) as opened:
        return np.asarray(opened.convert("RGB"))


def film(poor: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A frame out of a panned shot, H.264 or MPEG-2, at rates from good to bad."""
    height, width = (side - 2 * MARGIN for side in poor.shape[:2])
    offsets = [MARGIN + int(step * rng.choice((-1, 0, 1))) for step in (3, 2, 1)] + [MARGIN]
    frames = [poor[each : each + height, MARGIN : MARGIN + width] for each in offsets]
    if rng.random() < 0.7:
        options = {"crf": str(int(rng.integers(18, 35))), "preset": "veryfast", "bf": "0"}
        last = _coded(frames, "libx264", "h264", options)
    else:
        scale = str(int(rng.integers(2, 13)))
        last = _coded(frames, "mpeg2video", "mpeg2video", {"qmin": scale, "qmax": scale})
    whole = poor.copy()
    whole[MARGIN : MARGIN + height, MARGIN : MARGIN + width] = last
    return whole


def _coded(frames: list[np.ndarray], encoder: str, decoder: str, options: dict[str, str]) -> np.ndarray:
    """The last of the frames, encoded and decoded. Sides must be even."""
    height, width = frames[0].shape[:2]
    writing: Any = av.CodecContext.create(encoder, "w")
    writing.width, writing.height, writing.pix_fmt = width, height, "yuv420p"
    writing.time_base, writing.framerate = Fraction(1, 25), Fraction(25)
    writing.options, writing.thread_count = options, 1
    reading: Any = av.CodecContext.create(decoder, "r")
    reading.thread_count = 1
    packets = []
    for number, pixels in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        frame.pts = number
        packets += writing.encode(frame.reformat(format="yuv420p"))
    packets += writing.encode(None)
    decoded = [frame for packet in packets for frame in reading.decode(packet)]
    decoded += reading.decode(None)
    return decoded[-1].to_ndarray(format="rgb24")


def sharpened(poor: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Unsharp masking, up to pale and dark halos; half of it compressed afterwards."""
    mask = ImageFilter.UnsharpMask(rng.uniform(0.5, 2.5), int(rng.integers(40, 260)), int(rng.integers(0, 4)))
    result = np.asarray(Image.fromarray(poor).filter(mask))
    return compressed(result, rng) if rng.random() < 0.5 else result


def discoloured(poor: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Damage to chroma alone: few samples of it, shifted, noisy."""
    luma, *chroma = Image.fromarray(poor).convert("YCbCr").split()
    factor = int(rng.integers(2, 6))
    height, width = poor.shape[:2]
    small = (max(1, width // factor), max(1, height // factor))
    planes = []
    for plane in chroma:
        coarse = np.asarray(plane.resize(small, Image.Resampling.BOX), np.float32)
        noisy = coarse + rng.normal(0, rng.uniform(0, 8), coarse.shape)
        back = Image.fromarray(noisy.round().clip(0, 255).astype(np.uint8))
        back = back.resize((width, height), Image.Resampling.BILINEAR)
        planes.append(Image.fromarray(np.roll(np.asarray(back), int(rng.integers(-1, 2)), axis=1)))
    return np.asarray(Image.merge("YCbCr", [luma, *planes]).convert("RGB"))


def combed(poor: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Two fields of different times, half blended: what a bad deinterlacer leaves."""
    moved = np.roll(poor, int(rng.choice((-2, -1, 1, 2))), axis=1)
    share = rng.uniform(0.2, 0.8)
    result = poor.astype(np.float32)
    result[1::2] += share * (moved[1::2] - result[1::2])
    return result.round().astype(np.uint8)


def _of_reduced(fault: Fault) -> Fault:
    return lambda sharp, rng: fault(reduced(sharp, rng), rng)


def _of_tensor(fault: Callable[[Tensor, np.random.Generator], Tensor]) -> Fault:
    return lambda sharp, rng: _array(fault(_tensor(sharp), rng))


# From sharp to poor, and how often.
FAULTS: Mapping[str, tuple[float, Fault]] = {
    "clean": (0.15, reduced),
    "jpeg": (0.32, _of_reduced(compressed)),
    "realistic": (0.14, _of_tensor(degrade.realistic)),
    "webp": (0.06, _of_reduced(webp)),
    "film": (0.13, _of_reduced(film)),
    "noise": (0.06, _of_tensor(degrade.any_noise)),
    "blur": (0.05, _of_tensor(degrade.any_blur)),
    "sharpened": (0.05, _of_reduced(sharpened)),
    "discoloured": (0.03, _of_reduced(discoloured)),
    "combed": (0.01, _of_reduced(combed)),
}


def spoilt(sharp: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, str]:
    """[4H,4W,3] -> [H,W,3], and the fault's name. H and W even, beyond 2 * MARGIN."""
    names = list(FAULTS)
    name = str(rng.choice(names, p=[FAULTS[each][0] for each in names]))
    return np.ascontiguousarray(FAULTS[name][1](sharp, rng)), name


def without_colour(picture: np.ndarray) -> np.ndarray:
    """Grey, in three equal channels."""
    return np.asarray(Image.fromarray(picture).convert("L").convert("RGB"))


def _tensor(picture: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255


def _array(tensor: Tensor) -> np.ndarray:
    return tensor[0].permute(1, 2, 0).mul(255).round().clamp(0, 255).to(torch.uint8).contiguous().numpy()
