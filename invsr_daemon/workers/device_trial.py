"""Whether a device computes what it should: what `invsr-daemon doctor --gpu` asks in a process of its own."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ..records import ModelSettings, Precision, TemporalSettings
from ..restorers.film.pipeline import film_frames
from .device import PRECISIONS, DeviceRestorer

GIB = 1 << 30
ENOUGH_MEMORY = 2 * GIB  # what the embedded model takes of a film in full HD, and some to spare
# How far a result may be from the CPU's, as a share of the largest: rounding, sums in another order.
FARTHEST = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 4e-2}
SIDE, CHANNELS = 512, 64
_ARCHITECTURE = re.compile(r"(?P<kind>sm|compute)_(?P<number>\d+)(?P<suffix>[af]?)")
FRAMES, HEIGHT, WIDTH, PAN_STEP = 4, 60, 96, 2
# What `precision: auto` is on such a device at most places.
PRECISION: dict[str, Precision] = {"cuda": "fp16"}
FILM = ModelSettings(
    model="default",
    timesteps=(200,),
    scale=4.0,
    seed=0,
    tile=None,
    tile_batch=4,
    frame_batch=1,
    color_fix="wavelet",
    guidance_scale=1.0,
    precision="fp32",
    temporal=TemporalSettings("full", 3, 2.0),
)


@dataclass(frozen=True)
class Seen:
    """What was looked at, and what there is to say; `problem` if it is not as it should be."""

    subject: str
    text: str
    problem: bool = False


def examined(device: torch.device) -> Iterator[Seen]:
    """Everything in turn, so that what is known is told if the next one crashes."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    if device.type == "cuda":
        yield architecture_seen(*_architecture(device))
        yield memory_seen(*torch.cuda.mem_get_info(device))
    yield products(device)
    yield convolutions(device)
    yield film_twice(DeviceRestorer(str(device)))


def _architecture(device: torch.device) -> tuple[str, list[str]]:
    """The device's, and those that this torch was built for, in torch's words."""
    built_for = torch.cuda.get_arch_list()
    if torch.version.hip:
        return str(torch.cuda.get_device_properties(device).gcnArchName).partition(":")[0], built_for
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}", built_for


def architecture_seen(name: str, built_for: list[str]) -> Seen:
    """`name`: `sm_90`, or ROCm's `gfx942`."""
    if name in built_for or any(_runs_on(name, each) for each in built_for):
        return Seen("architecture", name)
    text = f"this torch has no code for {name}, only for {', '.join(built_for) or 'no GPU'}"
    return Seen("architecture", text, problem=True)


def _runs_on(name: str, built: str) -> bool:
    """CUDA's rules: code runs where the minor number is later, too; with `a` at its end nowhere else, and
    `compute_` on all that is later, for the driver compiles it.
    """
    own, wanted = _ARCHITECTURE.fullmatch(name), _ARCHITECTURE.fullmatch(built)
    if own is None or wanted is None:
        return False
    there, least = int(own["number"]), int(wanted["number"])
    if wanted["suffix"] == "a":
        return there == least
    same_major = there // 10 == least // 10
    return there >= least and (same_major or (wanted["kind"] == "compute" and not wanted["suffix"]))


def memory_seen(free: int, total: int) -> Seen:
    """In bytes."""
    text = f"{free / GIB:.1f} of {total / GIB:.1f} GiB free"
    return Seen("memory", text, problem=free < ENOUGH_MEMORY)


def products(device: torch.device) -> Seen:
    """Matrix products against the CPU's."""
    one, other = _drawn(SIDE, SIDE), _drawn(SIDE, SIDE)
    return _compared("products", device, torch.mm, (one, other))


def convolutions(device: torch.device) -> Seen:
    """Convolutions, as the networks have them, against the CPU's."""
    pictures, weights = _drawn(1, CHANNELS, 48, 64), _drawn(CHANNELS, CHANNELS, 3, 3)
    return _compared("convolutions", device, partial(functional.conv2d, padding=1), (pictures, weights))


def _drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def _compared(
    subject: str, device: torch.device, compute: Callable[..., Tensor], inputs: tuple[Tensor, Tensor]
) -> Seen:
    """In each precision: the CPU computes in float32 with inputs that are rounded alike."""
    apart = {}
    for name, dtype in PRECISIONS.items():
        rounded = [each.to(dtype) for each in inputs]
        expected = compute(*(each.float() for each in rounded))
        found = compute(*(each.to(device) for each in rounded)).cpu().float()
        apart[name] = float((found - expected).abs().max() / expected.abs().max())
    wrong = [name for name, value in apart.items() if not value <= FARTHEST[name]]
    told = ", ".join(f"{name} {value:.0e}" for name, value in apart.items())
    if wrong:
        return Seen(subject, f"{subject} differ from the CPU's: {told}", problem=True)
    return Seen(subject, f"{subject} as the CPU's ({told})")


def film_twice(restorer: DeviceRestorer) -> Seen:
    """A small film, restored twice as a worker restores it."""
    first, second = film_digest(restorer), film_digest(restorer)
    if first is None or second is None:
        return Seen("film", "a restored film has values that are not finite", problem=True)
    if first != second:
        return Seen("film", "the same film has other bits the second time", problem=True)
    return Seen("film", "a film has the same bits twice")


def film_digest(restorer: DeviceRestorer) -> str | None:
    """Of all bits of the film; None if a value is not finite."""
    digest = hashlib.sha256()
    frames = film_frames(_pan(), 0, FILM.temporal)
    settings = replace(FILM, precision=PRECISION.get(restorer.device.type, FILM.precision))
    for frame in restorer.film(frames, range(FRAMES), settings, (4 * WIDTH, 4 * HEIGHT), lambda: None):
        values = frame.cpu()
        if not values.isfinite().all():
            return None
        digest.update(values.numpy().tobytes())
    return digest.hexdigest()


def _pan() -> list[NDArray[np.uint8]]:
    """A camera that pans over soft shapes under fine texture."""
    rng = np.random.default_rng(1)
    width = WIDTH + PAN_STEP * FRAMES
    shapes = np.kron(rng.integers(40, 216, (HEIGHT // 12, width // 12 + 1, 3)), np.ones((12, 12, 1)))
    wide = shapes[:, :width] + rng.normal(0, 8, (HEIGHT, width, 3))
    pixels = wide.clip(0, 255).astype(np.uint8)
    return [
        np.ascontiguousarray(pixels[:, PAN_STEP * index : PAN_STEP * index + WIDTH])
        for index in range(FRAMES)
    ]


def fail_assertion(device: torch.device) -> str | None:
    """What torch raises when an index is out of range on the device, which loses it for this process.

    None if nothing is raised.
    """
    try:
        beyond = torch.full((1,), 1000, device=device)
        torch.zeros(4, device=device)[beyond].cpu()
    except Exception as error:  # it has other classes on other devices
        return f"{type(error).__name__}: {error}".partition("\n")[0]
    return None
