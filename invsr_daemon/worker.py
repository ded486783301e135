"""One worker process: it owns one device and a loaded model, and does one task at a time.

    python -m invsr_daemon.worker --device cuda:0 --threads 4

Tasks come and events go as `child` has it. When the parent is gone the process ends at once: what it was at
is lost, what it finished is not. Inside a task decoding, inference and encoding overlap.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from .child import Progress, serve
from .films import Pixels, film_frames, picture, restore_film
from .media.decode import RgbFrame, decode_chunk
from .media.encode import film_size, open_chunk
from .media.image import image_format, read_image, write_image
from .model.averaging import FilmFrame
from .model.invsr import InvSR, Options
from .model.noise import CanvasNoise
from .overlap import read_ahead, write_behind
from .records import (
    ConfigError,
    ImageTask,
    ModelSettings,
    ResourceError,
    Task,
    VideoTask,
    output_size,
)
from .wire import parse_task

log = logging.getLogger(__name__)

QUEUED_FRAMES = 2
_PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Restorer:
    """A device and the model that is loaded on it; models are kept until another is asked for."""

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)
        self._loaded: tuple[str, torch.dtype] | None = None
        self._model: InvSR | None = None
        # Where memory did not suffice: settings whose canvases lie in main memory, and smaller tiles.
        self._in_main_memory: set[ModelSettings] = set()
        self._tiles: dict[ModelSettings, int] = {}

    def image(
        self, pixels: Pixels, settings: ModelSettings, size: tuple[int, int], alive: Callable[[], None]
    ) -> Pixels:
        """Restore a picture [H,W,3]; the result is of `size` (width, height) and the same depth."""
        frames, noises = picture(pixels)[None], [CanvasNoise(settings.seed)]
        while True:
            try:
                with _memory_errors():
                    model = self.model(settings)
                    restored = model.restored(frames, noises, self._options(settings, size), alive)
                    return _quantised(restored[0], _top(pixels))
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
        """After running out of it. Raises ResourceError if nothing is left to be spared.

        Canvases go first: they are a film's largest part, and the result stays what it would have been.
        """
        if self.device.type != "cpu" and settings not in self._in_main_memory:
            log.warning("out of memory on %s: going on with canvases in main memory", self.device)
            self._in_main_memory.add(settings)
            return
        tiling = self.model(settings).tiling
        smaller = _smaller_tile(self._tile(settings) or tiling.tile, tiling.multiple)
        if smaller is None:
            raise ResourceError(f"the memory of {self.device} does not suffice for one tile") from error
        log.warning("out of memory on %s: going on with tiles of %d", self.device, smaller)
        self._tiles[settings] = smaller

    def _options(self, settings: ModelSettings, size: tuple[int, int]) -> Options:
        return Options(
            timesteps=settings.timesteps,
            tile=self._tile(settings),
            tile_batch=self._tile_batch(settings),
            color_fix=settings.color_fix,
            guidance_scale=settings.guidance_scale,
            size=(size[1], size[0]),
            canvas_device=torch.device("cpu") if settings in self._in_main_memory else None,
        )

    def _tile(self, settings: ModelSettings) -> int | None:
        """The tile that was asked for, or the smaller one that memory allowed."""
        return self._tiles.get(settings, settings.tile)

    def model(self, settings: ModelSettings) -> InvSR:
        wanted = (settings.model, self._dtype(settings))
        if self._model is None or self._loaded != wanted:
            self._model = None
            self._model = InvSR.load(settings.model, self.device, wanted[1])
            self._loaded = wanted
        try:
            self._model.tiling_for(settings.tile)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        return self._model

    def _tile_batch(self, settings: ModelSettings) -> int:
        """On a CPU one tile after the other: several at once are no quicker there and need memory."""
        return 1 if self.device.type == "cpu" else settings.tile_batch

    def _dtype(self, settings: ModelSettings) -> torch.dtype:
        if settings.precision == "auto":
            return _quickest(self.device)
        return _PRECISIONS[settings.precision]


def _quickest(device: torch.device) -> torch.dtype:
    """What a device computes in soonest; bfloat16 only pays where a CPU has matrix units (AMX)."""
    if device.type == "cuda":
        return torch.float16
    capabilities = getattr(torch.cpu, "get_capabilities", dict[str, object])  # newer than our oldest torch
    return torch.bfloat16 if capabilities().get("amx_bf16") else torch.float32


def _smaller_tile(tile: int, multiple: int) -> int | None:
    """Half of it, as a model takes it; None if that is too small for any."""
    half = tile // 2 // multiple * multiple
    return half if half >= 2 * multiple else None


@contextmanager
def _memory_errors() -> Iterator[None]:
    """MemoryError for what torch raises: where main memory is short that is a RuntimeError like any other."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            raise MemoryError(str(error)) from error
        raise


def _top(pixels: Pixels) -> int:
    return 65535 if pixels.dtype == np.uint16 else 255


@torch.inference_mode()
def _quantised(restored: Tensor, top: int) -> Pixels:
    """[3,H,W] in [0,1] -> [H,W,3]; rounded on the device (less crosses the bus), a channel at a time."""
    kind = torch.uint8 if top == 255 else torch.int32
    whole = torch.empty(*restored.shape[1:], 3, dtype=kind, device=restored.device)
    for number, channel in enumerate(restored):
        whole[..., number] = channel.mul(top).add_(0.5)
    pixels = whole.cpu().numpy()
    return pixels if top == 255 else pixels.astype(np.uint16)


def restore_chunk(task: VideoTask, restorer: Restorer, progress: Progress) -> None:
    """Decode, restore and encode one chunk into `task.output`; anew if memory runs out."""
    while True:
        told = 0

        def tell(frames: int) -> None:
            nonlocal told
            told += frames
            progress(frames)

        try:
            with _memory_errors():
                _restore_chunk(task, restorer, tell)
            return
        except MemoryError as error:
            restorer.spare_memory(task.model, error)
            progress(-told)


def _restore_chunk(task: VideoTask, restorer: Restorer, progress: Progress) -> None:
    size = film_size(task.info, task.video, task.model.scale)
    top = 65535 if task.info.depth > 8 else 255
    with (
        open_chunk(task.output, task.info, task.chunk, task.video, task.model.scale) as encoder,
        read_ahead(_frames(task), QUEUED_FRAMES) as frames,
        write_behind(encoder.encode, QUEUED_FRAMES) as encoded,
    ):
        restored = restorer.film(frames, task.chunk.own, task.model, size, lambda: progress(0))
        for pts, pixels in zip(task.chunk.pts, _arrays(restored, top), strict=True):
            encoded.put(RgbFrame(pts, pixels))
            progress(1)


def _frames(task: VideoTask) -> Iterator[FilmFrame]:
    decoded = (frame.pixels for frame in decode_chunk(task.info, task.chunk))
    return film_frames(decoded, task.chunk.first, task.model.temporal)


def _arrays(restored: Iterable[Tensor], top: int) -> Iterator[Pixels]:
    """Frames as arrays; a repeated one is converted once. None is held on to here: they are large."""
    last: weakref.ref[Tensor] | None = None
    pixels: Pixels | None = None
    for frame in restored:
        if pixels is None or last is None or last() is not frame:
            last, pixels = weakref.ref(frame), _quantised(frame, top)
        del frame
        yield pixels


def restore_image(task: ImageTask, restorer: Restorer, progress: Progress) -> None:
    """Read, restore and write one picture into `task.output`."""
    image = read_image(task.info)
    height, width = image.pixels.shape[:2]
    size = output_size(width, height, task.model.scale, even=False)
    pixels = restorer.image(image.pixels, task.model, size, lambda: progress(0))
    write_image(replace(image, pixels=pixels), image_format(task.info, task.image), task.image, task.output)
    progress(1)


def perform(task: Task, restorer: Restorer, progress: Progress) -> float:
    """Do one task; its seconds. Raises InvsrError."""
    began = time.monotonic()
    if task.kind == "video":
        restore_chunk(task, restorer, progress)
    else:
        restore_image(task, restorer, progress)
    return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m invsr_daemon.worker")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--list-devices", action="store_true", help="print the CUDA devices and end")
    arguments = parser.parse_args()
    if arguments.list_devices:
        print(json.dumps([f"cuda:{index}" for index in range(torch.cuda.device_count())]))
        return
    _make_repeatable(arguments.threads)
    restorer = Restorer(arguments.device)
    serve(lambda line, progress: perform(parse_task(line), restorer, progress))


def _make_repeatable(threads: int) -> None:
    """Sums depend on the number of threads and on autotuned kernels: fix both."""
    if threads:
        torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


if __name__ == "__main__":
    main()
