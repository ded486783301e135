"""One worker process: it owns one device and a loaded model, and does one task at a time.

    python -m invsr_daemon.workers.restore --device cuda:0 --threads 4

Tasks come and events go as `child` has it. When the parent is gone the process ends at once: what it was at
is lost, what it finished is not. Inside a task decoding, inference and encoding overlap.
"""

from __future__ import annotations

import argparse
import json
import time
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from ..media.colour import as_grey
from ..media.decode import RgbFrame, decode_chunk
from ..media.encode import film_size, open_chunk
from ..media.image import read_image
from ..media.image_writing import image_format, write_image
from ..media.source import OpenFile
from ..media.transparency import fill_unseen
from ..records import ImageTask, Task, VideoTask, largest_level, output_size
from ..restorers.film.averaging import FilmFrame
from ..restorers.film.pipeline import Pixels, film_frames
from ..wire.events import AttemptProgress, Progress
from ..wire.tasks import Done, parse_task, plain_done
from .device import DeviceRestorer, quantised
from .faults import device_faults, memory_errors
from .overlap import read_ahead, write_behind
from .serving import serve

QUEUED_FRAMES = 2


def restore_chunk(
    task: VideoTask, restorer: DeviceRestorer, progress: Progress, file: OpenFile | None = None
) -> None:
    """Decode, restore and encode one chunk into `task.output`; anew if memory runs out.

    `file`: the film, if it is open already.
    """
    attempt = AttemptProgress(progress)
    while True:
        try:
            with memory_errors():
                _restore_chunk(task, restorer, attempt, file)
            return
        except MemoryError as error:
            restorer.spare_memory(task.model, error)
            attempt.take_back()


def _restore_chunk(
    task: VideoTask, restorer: DeviceRestorer, progress: Progress, file: OpenFile | None
) -> None:
    size = film_size(task.info, task.video, task.model.scale)
    top = largest_level(task.info.depth)
    with (
        open_chunk(task.output, task.info, task.chunk, task.video, task.model.scale) as encoder,
        read_ahead(_frames(task, file), QUEUED_FRAMES) as frames,
        write_behind(encoder.encode, QUEUED_FRAMES) as encoded,
    ):
        restored = restorer.film(frames, task.chunk.own, task.model, size, lambda: progress(0))
        for pts, pixels in zip(task.chunk.pts, _arrays(restored, top), strict=True):
            encoded.put(RgbFrame(pts, as_grey(pixels) if task.info.grey else pixels))
            progress(1)


def _frames(task: VideoTask, file: OpenFile | None) -> Iterator[FilmFrame]:
    decoded = (frame.pixels for frame in decode_chunk(task.info, task.chunk, file))
    return film_frames(decoded, task.chunk.first, task.model.temporal)


def _arrays(restored: Iterable[Tensor], top: int) -> Iterator[Pixels]:
    """Frames as arrays; a repeated one is converted once. None is held on to here: they are large."""
    last: weakref.ref[Tensor] | None = None
    pixels: Pixels | None = None
    for frame in restored:
        if pixels is None or last is None or last() is not frame:
            last, pixels = weakref.ref(frame), quantised(frame, top)
        del frame
        yield pixels


def restore_image(
    task: ImageTask, restorer: DeviceRestorer, progress: Progress, file: OpenFile | None = None
) -> None:
    """Read, restore and write one picture into `task.output`. `file`: the picture, if it is open already."""
    image = read_image(task.info, file)
    height, width = image.pixels.shape[:2]
    size = output_size(width, height, task.model.scale, even=False)
    seen = image.pixels if image.alpha is None else fill_unseen(image.pixels, image.alpha)
    pixels = restorer.image(seen, task.model, size, lambda: progress(0))
    write_image(replace(image, pixels=pixels), image_format(task.info, task.image), task.image, task.output)
    progress(1)


def perform(task: Task, restorer: DeviceRestorer, progress: Progress, source: int | None = None) -> Done:
    """Do one task. `source`: its input, if that is open already.

    Raises InvsrError; DeviceLostError if it is the device that fails.
    """
    began = time.monotonic()
    file = None if source is None else OpenFile(task.info.path, source)
    restorer.begin()
    with device_faults(restorer.device):
        if task.kind == "video":
            restore_chunk(task, restorer, progress, file)
        else:
            restore_image(task, restorer, progress, file)
    return Done(time.monotonic() - began, restorer.notes)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m invsr_daemon.workers.restore")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--sharers", type=int, default=1, help="workers on this device, this one included")
    parser.add_argument("--list-devices", action="store_true", help="print the CUDA devices and end")
    arguments = parser.parse_args()
    if arguments.list_devices:
        print(json.dumps([f"cuda:{index}" for index in range(torch.cuda.device_count())]))
        return
    _make_repeatable(arguments.threads)
    restorer = DeviceRestorer(arguments.device)
    restorer.wake(arguments.sharers)
    serve(lambda line, source, progress: plain_done(perform(parse_task(line), restorer, progress, source)))


def _make_repeatable(threads: int) -> None:
    """Sums depend on the number of threads and on autotuned kernels: fix both."""
    if threads:
        torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


if __name__ == "__main__":
    main()
