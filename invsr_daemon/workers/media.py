"""A process that reads strangers' files in the parent's stead: it plans jobs and joins finished pieces.

    python -m invsr_daemon.workers.media

Each request is answered by a process of its own, which first gives up all rights but those to the request's
source, pieces and result. A file that crashes a decoder costs that process, not the daemon; and what decoding
needs in memory goes when it ends.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import asdict, replace
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

from .. import __version__
from ..confinement import Allowed, Limits, confine, forbid_sockets, limit
from ..errors import ConfigError, InputError, InternalError
from ..files.folders import HeldFile
from ..files.inputs import CHANGED, check_regular
from ..files.publishing import explaining
from ..media.assemble import SUFFIXES, ChunkFile, assemble
from ..media.encode import chunk_suffix, film_losses, film_size
from ..media.image import SUFFIX, probe_image
from ..media.image_writing import check_side, image_format, picture_losses
from ..media.names import WRITTEN_SUFFIXES
from ..media.probe import Alive, Length, plan_chunks, probe_video, silent
from ..media.rehearsal import plan_layout
from ..media.sizes import check_file
from ..media.source import TOO_MUCH_MEMORY, OpenFile
from ..media.trial import encoding_problem
from ..media.verify import verify_film, verify_picture
from ..records import Identity, ImageInfo, ImageSettings, ImageTask, VideoTask, output_size
from ..wire.events import Progress
from ..wire.plans import Job, Plan
from ..wire.requests import Check, Join, Look, parse_request, plain
from .pulse import Pulse
from .serving import serve_apart

# Half of a tile of this size is a multiple of every known model's.
HALVED = 32
CPU_SECONDS = 7 * 86_400  # on all cores together, for one request
ROOM_BYTES = 1 << 30  # for what muxers write beside the streams
# Another version of these may give other bytes: chunks of both must not meet in one film.
DECISIVE_PACKAGES = ("torch", "diffusers", "av", "pillow")


def answer(line: str, source: int | None, progress: Progress) -> Any:
    """What a request asks for, about the open file `source`. Raises InvsrError."""
    request = parse_request(line)
    try:
        match request:
            case Look():
                return plain(_looked(request.job, _needed(source), progress))
            case Join():
                return _joined(request.plan, _needed(source), request.hidden)
            case Check():  # nothing of a stranger's
                return [encoding_problem(each) for each in request.settings]
    except MemoryError as error:
        raise InputError(TOO_MUCH_MEMORY) from error


def _needed(source: int | None) -> int:
    if source is None:
        raise InternalError("a request came without its source")
    return source


def _looked(job: Job, source: int, progress: Progress) -> Plan:
    limits = job.settings.limits
    limit(Limits(limits.max_memory, file_size=0, cpu_seconds=CPU_SECONDS))
    confine(Allowed())
    forbid_sockets()
    return plan_job(job, OpenFile(job.source, source), Pulse(progress))


def _joined(plan: Plan, source: int, hidden: HeldFile) -> None:
    with explaining(hidden.place.path.parent), hidden.opened() as result:
        limit(Limits(plan.job.settings.limits.max_memory, _most_bytes(plan, source), CPU_SECONDS))
        confine(Allowed(reads=(plan.work,), files=(result,)))
        forbid_sockets()
        join(plan, OpenFile(plan.job.source, source), OpenFile(hidden.place.path, result))


def _most_bytes(plan: Plan, source: int) -> int:
    """What a result cannot be larger than: its pieces, and all of the source's other streams."""
    pieces = sum(task.output.stat().st_size for task in plan.tasks)
    return 2 * (pieces + os.fstat(source).st_size) + ROOM_BYTES


def plan_job(job: Job, file: OpenFile, alive: Alive = silent) -> Plan:
    """Look at a job's input; `alive` is called for each new frame. Raises InputError, ConfigError."""
    identity = check_regular(file.descriptor)
    check_file(file.descriptor, job.settings.limits.max_input_size)
    image = probe_image(file, job.settings.limits.max_input_pixels)
    if image is None:
        return _plan_film(job, identity, file, alive)
    return _plan_image(job, identity, image)


def _key(job: Job, identity: Identity, *writing: object) -> str:
    model = asdict(job.model)
    model["model"] = model.pop("fingerprint")  # wherever its files lie
    model |= _tiling_version(job)
    threads = job.settings.limits.cpu_threads
    versions = [__version__, *(version(package) for package in DECISIVE_PACKAGES)]
    source = [os.fsencode(job.source).hex(), str(identity)]
    parts = [versions, source, model, threads, *(repr(each) for each in writing)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _tiling_version(job: Job) -> dict[str, str]:
    """What sets apart pieces of earlier versions whose tiles overlapped by less than half."""
    tile = job.model.tile
    return {} if tile is None or tile % HALVED == 0 else {"overlap": "half"}


def _plan_film(job: Job, identity: Identity, file: OpenFile, alive: Alive) -> Plan:
    settings = job.settings
    limits = settings.limits
    most = Length(limits.max_frames, limits.max_duration)
    film = probe_video(file, limits.max_input_pixels, alive, most)
    video = settings.video_settings()
    _check_output(*film_size(film.info, video, job.model.scale), limits.max_output_pixels)
    layout = plan_layout(film.info, _container(job), video.codec, file, alive)
    key = _key(job, identity, video, layout, settings.video.chunk_frames)
    work, suffix = _work_folder(job, key), chunk_suffix(video.codec)
    tasks = tuple(
        VideoTask(film.info, chunk, job.model, video, work / f"chunk-{chunk.index:06}{suffix}", identity)
        for chunk in plan_chunks(film, settings.video.chunk_frames, job.model.temporal.context)
    )
    notes = film.info.notes + film_losses(film.info, video, job.model.scale) + layout.notes
    output = job.target.path(f".{layout.container}")
    return Plan(job, identity, key, work, output, len(film.pts), tasks, film, layout, notes)


def _container(job: Job) -> str:
    """The configured container, unless the target's name asks for one."""
    if job.target.suffix is None:
        return job.settings.video.container
    wanted = job.target.suffix.lower()
    if wanted not in SUFFIXES:
        raise ConfigError(f"a film cannot be written as {wanted}, only as {', '.join(SUFFIXES)}")
    return SUFFIXES[wanted]


def _plan_image(job: Job, identity: Identity, info: ImageInfo) -> Plan:
    settings = job.settings
    size = output_size(info.width, info.height, job.model.scale, even=False)
    _check_output(*size, settings.limits.max_output_pixels)
    image = _as_named(settings.image_settings(), job.target.suffix)
    format = image_format(info, image)
    check_side(format, *size)
    key = _key(job, identity, image)
    work = _work_folder(job, key)
    task = ImageTask(info, job.model, image, work / f"image{SUFFIX[format]}", identity)
    own = job.source.suffix.lower()
    suffix = own if own in WRITTEN_SUFFIXES[format] else SUFFIX[format]
    notes = picture_losses(info, format)
    return Plan(job, identity, key, work, job.target.path(suffix), 1, (task,), None, None, notes)


def _as_named(image: ImageSettings, suffix: str | None) -> ImageSettings:
    """The settings with the format that the target's name asks for, if it does."""
    if suffix is None:
        return image
    wanted = suffix.lower()
    if wanted not in chain(*WRITTEN_SUFFIXES.values()):
        raise ConfigError(f"a picture cannot be written as {wanted}, only as {', '.join(SUFFIX.values())}")
    return replace(image, format=wanted.removeprefix("."))


def _check_output(width: int, height: int, most: int) -> None:
    if width * height > most:
        limit = f"the limit of {most} pixels (limits.max_output_pixels)"
        raise InputError(f"the result of {width}x{height} would exceed {limit}")


def _work_folder(job: Job, key: str) -> Path:
    return job.settings.state_dir / "work" / job.subfolder / key[:32]


def join(plan: Plan, source: OpenFile, result: OpenFile) -> None:
    """Put a plan's pieces together in a hidden file, and look at it once more.

    Raises InputError if the input is not the same any more, OutputError, DiskFullError.
    """
    with explaining(result.path.parent):
        _write(plan, source, result)
    if check_regular(source.descriptor) != plan.identity:
        raise InputError(CHANGED)


def _write(plan: Plan, source: OpenFile, result: OpenFile) -> None:
    output = Path(f"/proc/self/fd/{result.descriptor}")  # its name may lead elsewhere by now
    if plan.film is None or plan.layout is None:
        (task,) = plan.tasks
        assert isinstance(task, ImageTask)  # whatever is no film is a picture
        shutil.copyfile(task.output, output)
        verify_picture(result, task)
        return
    chunks = [ChunkFile(t.chunk, t.output) for t in plan.tasks if isinstance(t, VideoTask)]
    assemble(plan.film, chunks, plan.layout, output, source)
    verify_film(result, plan.film, plan.layout)


if __name__ == "__main__":
    serve_apart(answer)
