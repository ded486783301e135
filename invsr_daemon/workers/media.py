"""A process that reads strangers' files in the parent's stead: it plans jobs and joins finished pieces.

    python -m invsr_daemon.workers.media

A file that crashes a decoder costs this process, not the daemon; and what decoding needs in memory goes
when it ends.
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
from ..errors import ConfigError, InputError
from ..files.folders import HeldFile
from ..files.publishing import explaining
from ..media.assemble import SUFFIXES, ChunkFile, assemble, plan_layout
from ..media.encode import chunk_suffix, film_losses, film_size
from ..media.image import SUFFIX, check_side, image_format, picture_losses, probe_image
from ..media.names import WRITTEN_SUFFIXES
from ..media.probe import plan_chunks, probe_video
from ..media.source import check_regular
from ..media.trial import encoding_problem
from ..media.verify import verify_film, verify_picture
from ..records import Identity, ImageInfo, ImageSettings, ImageTask, VideoTask, output_size
from ..wire.events import Progress
from ..wire.plans import Job, Plan
from ..wire.requests import Check, Join, Look, parse_request, plain
from .serving import serve

# Half of a tile of this size is a multiple of every known model's.
HALVED = 32
# Another version of these may give other bytes: chunks of both must not meet in one film.
DECISIVE_PACKAGES = ("torch", "diffusers", "av", "pillow")


def answer(line: str, _: Progress) -> Any:
    """What a request asks for. Raises InvsrError."""
    request = parse_request(line)
    match request:
        case Look():
            return plain(plan_job(request.job))
        case Join():
            return join(request.plan, request.hidden)
        case Check():
            return [encoding_problem(each) for each in request.settings]


def plan_job(job: Job) -> Plan:
    """Look at a job's input. Raises InputError, ConfigError."""
    identity = Identity.of(check_regular(job.source))
    image = probe_image(job.source, job.settings.limits.max_input_pixels)
    return _plan_film(job, identity) if image is None else _plan_image(job, identity, image)


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


def _plan_film(job: Job, identity: Identity) -> Plan:
    settings = job.settings
    film = probe_video(job.source, settings.limits.max_input_pixels)
    video = settings.video_settings()
    _check_output(*film_size(film.info, video, job.model.scale), settings.limits.max_output_pixels)
    layout = plan_layout(film.info, _container(job), video.codec)
    key = _key(job, identity, video, layout, settings.video.chunk_frames)
    work, suffix = _work_folder(job, key), chunk_suffix(video.codec)
    tasks = tuple(
        VideoTask(film.info, chunk, job.model, video, work / f"chunk-{chunk.index:06}{suffix}")
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
    task = ImageTask(info, job.model, image, work / f"image{SUFFIX[format]}")
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


def join(plan: Plan, hidden: HeldFile) -> None:
    """Put a plan's pieces together in a hidden file, and look at it once more.

    Raises InputError if the input is not the same any more, OutputError, DiskFullError.
    """
    with explaining(hidden.place.path.parent), hidden.writable() as partial:
        _write(plan, partial)
    if Identity.of(check_regular(plan.job.source)) != plan.identity:
        raise InputError("it was changed while it was being restored")


def _write(plan: Plan, partial: Path) -> None:
    if plan.film is None or plan.layout is None:
        (task,) = plan.tasks
        assert isinstance(task, ImageTask)  # whatever is no film is a picture
        verify_picture(task.output, task)
        shutil.copyfile(task.output, partial)
        return
    chunks = [ChunkFile(t.chunk, t.output) for t in plan.tasks if isinstance(t, VideoTask)]
    assemble(plan.film, chunks, plan.layout, partial)
    verify_film(partial, plan.film, plan.layout)


if __name__ == "__main__":
    serve(answer)
