"""A device and the model that is loaded on it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .. import hub
from ..errors import ConfigError, DeviceOccupiedError, ModelChangedError, ResourceError
from ..records import ModelSettings, largest_level
from ..restorers.batches import release
from ..restorers.film.averaging import FilmFrame
from ..restorers.film.pipeline import Pixels, picture, restore_film
from ..restorers.noise import CanvasNoise
from ..restorers.opening import InvSR
from ..restorers.options import Options
from .faults import memory_errors

log = logging.getLogger(__name__)

CONTEXTS_LEAVE = 0.94  # of a device's memory, where several processes use it
PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Sparing:
    """What a task does without, since memory did not suffice. `tile`: a smaller one than was asked for."""

    tried_again: bool = False
    in_main_memory: bool = False  # where canvases lie
    tile: int | None = None


def memory_share(sharers: int) -> float:
    """The share of a device's memory that one of several workers on it may allocate.

    What the contexts of all take, some hundred MB each, is not allocated through torch, and left to them.
    """
    return CONTEXTS_LEAVE / sharers


class DeviceRestorer:
    """A device and the model that is loaded on it. A model stays loaded until a task needs another one.

    Memory that did not suffice for one task says nothing of the next: `begin` each with it.
    """

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)
        self._loaded: tuple[str, str, torch.dtype] | None = None  # directory, fingerprint, precision
        self._model: InvSR | None = None
        self._sparing = Sparing()

    def wake(self, sharers: int = 1) -> None:
        """Begin to use the device, which has so many workers, this one included.

        Whatever that raises, no file is to blame for it.
        """
        torch.zeros(1, device=self.device)
        if sharers > 1 and self.device.type == "cuda":
            torch.cuda.set_per_process_memory_fraction(memory_share(sharers), self.device)

    def begin(self) -> None:
        """Begin a task: with as much memory as there is by now."""
        self._sparing = Sparing()
        if self._model is not None:
            self._model.forget_shortage()

    @property
    def notes(self) -> tuple[str, ...]:
        """What the task had to do without, if anything: its result may not be what it is elsewhere."""
        parts = ["fewer tiles at once"] if self._model is not None and self._model.is_short else []
        parts += ["canvases in main memory"] if self._sparing.in_main_memory else []
        parts += [f"tiles of {self._sparing.tile}"] if self._sparing.tile else []
        return (f"the memory of {self.device} was short: made with {', '.join(parts)}",) if parts else ()

    def image(
        self, pixels: Pixels, settings: ModelSettings, size: tuple[int, int], alive: Callable[[], None]
    ) -> Pixels:
        """Restore a picture [H,W,3]; the result is of `size` (width, height) and the same depth."""
        frames, noises = picture(pixels)[None], [CanvasNoise(settings.seed)]
        while True:
            try:
                with memory_errors():
                    model = self.model(settings)
                    restored = model.restored(frames, noises, self._options(settings, size), alive)
                    return quantised(restored[0], largest_level(8 * pixels.itemsize))
            except MemoryError as error:
                self.spare_memory(settings, error)

    def film(
        self,
        frames: Iterable[FilmFrame],
        wanted: range,
        settings: ModelSettings,
        size: tuple[int, int],
        alive: Callable[[], None],
    ) -> Iterator[Tensor]:
        """The wanted frames of a film: float32 [3,H,W] in [0,1]. See `restore_film`."""
        return restore_film(
            self.model(settings),
            frames,
            wanted,
            self._options(settings, size),
            settings.temporal,
            seed=settings.seed,
            frame_batch=settings.frame_batch,
            alive=alive,
        )

    def spare_memory(self, settings: ModelSettings, error: BaseException) -> None:
        """After running out of it, for the rest of a task. Raises ResourceError if nothing is left to spare.

        First garbage goes. Canvases are next: they are a film's largest part. Tiles become smaller only for
        models that take any size: for the others a smaller one makes another picture.
        """
        if not self._sparing.tried_again:
            release(self.device)
            self._sparing = replace(self._sparing, tried_again=True)
            return
        if self.device.type != "cpu" and not self._sparing.in_main_memory:
            log.warning("out of memory on %s: going on with canvases in main memory", self.device)
            self._sparing = replace(self._sparing, in_main_memory=True)
            return
        tiling = self.model(settings).tiling_for(self._tile(settings))
        smaller = None if tiling.fill_tile else _smaller_tile(tiling.tile, tiling.multiple)
        if smaller is None:
            raise ResourceError(f"the memory of {self.device} does not suffice for one tile") from error
        log.warning("out of memory on %s: going on with tiles of %d", self.device, smaller)
        self._sparing = replace(self._sparing, tile=smaller)

    def _options(self, settings: ModelSettings, size: tuple[int, int]) -> Options:
        return Options(
            timesteps=settings.timesteps,
            tile=self._tile(settings),
            tile_batch=self._tile_batch(settings),
            color_fix=settings.color_fix,
            guidance_scale=settings.guidance_scale,
            size=(size[1], size[0]),
            canvas_device=torch.device("cpu") if self._sparing.in_main_memory else None,
        )

    def _tile(self, settings: ModelSettings) -> int | None:
        """The tile that was asked for, or the smaller one that memory allowed."""
        return self._sparing.tile or settings.tile

    def model(self, settings: ModelSettings) -> InvSR:
        wanted = (settings.model, settings.fingerprint, PRECISIONS[settings.precision])
        if self._model is None or self._loaded != wanted:
            self._model = None
            self._model = self._load(*wanted)
            self._loaded = wanted
        try:
            self._model.tiling_for(settings.tile)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        return self._model

    def _load(self, model: str, expected: str, dtype: torch.dtype) -> InvSR:
        """Raises ModelError, ModelChangedError; DeviceOccupiedError if there is no room for it."""
        try:
            with memory_errors():
                loaded = InvSR.load(model, self.device, dtype)
        except MemoryError as error:
            where = f"the memory of {self.device} does not suffice for the model"
            raise DeviceOccupiedError(f"{where}: others have taken it{_free(self.device)}") from error
        # Afterwards, for files may be exchanged while they are read.
        if expected and hub.fingerprint(Path(model)) != expected:
            raise ModelChangedError(f"the model at {model} was changed since the job was planned")
        return loaded

    def _tile_batch(self, settings: ModelSettings) -> int:
        """On a CPU one tile after the other: several at once are no quicker there and need memory."""
        return 1 if self.device.type == "cpu" else settings.tile_batch


def _free(device: torch.device) -> str:
    """How much memory a device has left, in words, if it tells."""
    if device.type != "cuda":
        return ""
    free, total = torch.cuda.mem_get_info(device)
    return f" ({free >> 20} of {total >> 20} MiB are free)"


def _smaller_tile(tile: int, multiple: int) -> int | None:
    """Half of it, as a model takes it; None if that is too small for any."""
    half = tile // 2 // multiple * multiple
    return half if half >= 2 * multiple else None


@torch.inference_mode()
def quantised(restored: Tensor, top: int) -> Pixels:
    """[3,H,W] in [0,1] -> [H,W,3]; rounded on the device (less crosses the bus), a channel at a time."""
    kind = torch.uint8 if top == 255 else torch.int32
    whole = torch.empty(*restored.shape[1:], 3, dtype=kind, device=restored.device)
    for number, channel in enumerate(restored):
        whole[..., number] = channel.mul(top).add_(0.5)
    pixels = whole.cpu().numpy()
    return pixels if top == 255 else pixels.astype(np.uint16)
