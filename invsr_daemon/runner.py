"""One job from plan to published result: probe, cut into chunks, restore on the pool, assemble, publish.

Finished chunk files are the resume points. They lie in a work folder named by the job's key, a hash of
everything that decides the result, so the same command finds them again and another one does not.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

from . import __version__
from .config import Settings
from .media.assemble import SUFFIXES, ChunkFile, Layout, assemble, plan_layout
from .media.encode import film_size
from .media.image import SUFFIX, image_format, probe_image
from .media.probe import plan_chunks, probe_video
from .media.source import check_regular
from .outbox import check_free, publishing
from .pool import Pool, Progress
from .records import (
    ConfigError,
    Film,
    ImageInfo,
    ImageTask,
    InputError,
    InvsrError,
    ModelSettings,
    OutputError,
    Task,
    VideoTask,
    WorkerLostError,
    output_size,
)

log = logging.getLogger(__name__)


# What tells one input from another without reading it: path, inode, size, time of last change.
Identity = tuple[str, int, int, int]


# Another version of these may give other bytes: chunks of both must not meet in one film.
DECISIVE_PACKAGES = ("torch", "diffusers", "av", "pillow")


class Interrupted(InvsrError):
    """Stopped on request; the same job resumes where it was."""

    retryable = True


@dataclass(frozen=True)
class Target:
    """Where a result goes. Without `suffix` the result's format decides it."""

    folder: Path
    stem: str
    suffix: str | None = None

    def path(self, suffix: str) -> Path:
        return self.folder / f"{self.stem}{self.suffix or suffix}"


@dataclass(frozen=True)
class Job:
    """One input and everything that decides its result. `source` is absolute and no symlink."""

    source: Path
    target: Target
    settings: Settings
    model: ModelSettings
    model_fingerprint: str
    overwrite: bool = False


@dataclass(frozen=True)
class Plan:
    """A job looked at: its work, in order, and where the pieces and the result go."""

    job: Job
    identity: Identity
    key: str
    work: Path
    output: Path
    frames: int
    tasks: tuple[Task, ...]
    film: Film | None
    layout: Layout | None
    notes: tuple[str, ...]

    def waiting(self) -> tuple[Task, ...]:
        """Tasks whose file is not there yet."""
        return tuple(task for task in self.tasks if not task.output.exists())


@dataclass(frozen=True)
class Result:
    """A published result. `computed` counts the frames this run restored, `frames` all of them."""

    output: Path
    frames: int
    computed: int
    notes: tuple[str, ...]
    was_there: bool = False


class Run(Protocol):
    """A worker's way to do a task."""

    async def __call__(self, task: Task, progress: Progress) -> float: ...


class Observer(Protocol):
    """Whoever wants to know how a job goes."""

    def planned(self, plan: Plan) -> None: ...

    def progress(self, plan: Plan, frames: int) -> None: ...

    def ended(self, plan: Plan) -> None: ...


def plan_job(job: Job) -> Plan:
    """Look at a job's input. Raises InputError, ConfigError or OutputExistsError."""
    identity = _identity(job.source)
    image = probe_image(job.source, job.settings.limits.max_input_pixels)
    plan = _plan_film(job, identity) if image is None else _plan_image(job, identity, image)
    if not _published_before(plan):
        check_free(plan.output, overwrite=job.overwrite)
    return plan


def _identity(source: Path) -> Identity:
    found = check_regular(source)
    return str(source), found.st_ino, found.st_size, found.st_mtime_ns


def _key(job: Job, identity: Identity, *writing: object) -> str:
    model = asdict(job.model) | {"model": job.model_fingerprint}
    threads = job.settings.limits.cpu_threads
    versions = [__version__, *(version(package) for package in DECISIVE_PACKAGES)]
    parts = [versions, identity, model, threads, str(job.target), *(repr(each) for each in writing)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _plan_film(job: Job, identity: Identity) -> Plan:
    settings = job.settings
    film = probe_video(job.source, settings.limits.max_input_pixels)
    video = settings.video_settings()
    _check_output(*film_size(film.info, video, job.model.scale), settings.limits.max_output_pixels)
    layout = plan_layout(film.info, _container(job), video.codec)
    key = _key(job, identity, video, layout, settings.video.chunk_frames)
    work = _work_folder(settings, key)
    tasks = tuple(
        VideoTask(film.info, chunk, job.model, video, work / f"chunk-{chunk.index:06}.nut")
        for chunk in plan_chunks(film, settings.video.chunk_frames)
    )
    notes = film.info.notes + layout.notes
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
    _check_output(
        *output_size(info.width, info.height, job.model.scale, even=False), settings.limits.max_output_pixels
    )
    image = settings.image_settings()
    if job.target.suffix:
        image = replace(image, format=job.target.suffix.removeprefix(".").lower())
    format = image_format(info, image)
    key = _key(job, identity, image)
    work = _work_folder(settings, key)
    task = ImageTask(info, job.model, image, work / f"image{SUFFIX[format]}")
    own = job.source.suffix.lower()
    suffix = own if format == info.format and own else SUFFIX[format]
    return Plan(job, identity, key, work, job.target.path(suffix), 1, (task,), None, None, ())


def _check_output(width: int, height: int, most: int) -> None:
    if width * height > most:
        limit = f"the limit of {most} pixels (limits.max_output_pixels)"
        raise InputError(f"the result of {width}x{height} would exceed {limit}")


def _work_folder(settings: Settings, key: str) -> Path:
    return settings.state_dir / "work" / key[:32]


async def run_job(job: Job, pool: Pool, observer: Observer, stopping: asyncio.Event) -> Result:
    """Do a job. Raises InvsrError; Interrupted if `stopping` was set before the end.

    Finished work goes only if the input itself is to blame; for all else it waits for the next run.
    """
    plan = await asyncio.to_thread(plan_job, job)
    if _published_before(plan):
        return Result(plan.output, plan.frames, 0, plan.notes, was_there=True)
    observer.planned(plan)
    try:
        return await _run_plan(plan, pool, observer, stopping)
    finally:
        observer.ended(plan)


async def _run_plan(plan: Plan, pool: Pool, observer: Observer, stopping: asyncio.Event) -> Result:
    with _locked(plan.work):
        waiting = plan.waiting()
        computed = sum(_frames(task) for task in waiting)
        observer.progress(plan, plan.frames - computed)
        try:
            await _restore(plan, waiting, pool, observer, stopping)
            await asyncio.to_thread(_publish, plan)
        except InputError:
            await asyncio.to_thread(shutil.rmtree, plan.work, ignore_errors=True)
            raise
        await asyncio.to_thread(shutil.rmtree, plan.work, ignore_errors=True)
    return Result(plan.output, plan.frames, computed, plan.notes)


def _frames(task: Task) -> int:
    return len(task.chunk.pts) if isinstance(task, VideoTask) else 1


async def _restore(
    plan: Plan, waiting: tuple[Task, ...], pool: Pool, observer: Observer, stopping: asyncio.Event
) -> None:
    """Every waiting task on the pool; the first failure stops those that have not begun."""
    failed = asyncio.Event()
    errors: list[InvsrError] = []

    async def one(task: Task) -> None:
        async with pool.lease() as worker:
            if failed.is_set() or stopping.is_set():
                return
            try:
                await _with_retries(plan, task, worker.run, observer)
            except InvsrError as error:
                errors.append(error)
                failed.set()

    async with asyncio.TaskGroup() as group:
        for task in waiting:
            group.create_task(one(task))
    if errors:
        raise errors[0]
    if stopping.is_set() and plan.waiting():
        raise Interrupted("stopped")


async def _with_retries(plan: Plan, task: Task, run: Run, observer: Observer) -> None:
    """A worker's death costs an attempt, and what the observer was told of it is taken back."""
    most = plan.job.settings.limits.worker_deaths
    for attempt in range(1, most + 1):
        told = 0

        def progress(frames: int) -> None:
            nonlocal told
            told += frames
            observer.progress(plan, frames)

        try:
            await run(task, progress)
        except WorkerLostError as error:
            observer.progress(plan, -told)
            log.warning("%s: attempt %d of %d: %s", plan.job.source.name, attempt, most, error)
            if attempt == most:
                raise InputError(f"{most} workers died of it; the last: {error}") from error
        else:
            return


def _publish(plan: Plan) -> None:
    """Assemble, check that the input is still the same, and give the result its name."""
    if _identity(plan.job.source) != plan.identity:
        raise InputError("it was changed while it was being restored")
    with publishing(plan.output, plan.key, overwrite=plan.job.overwrite) as partial:
        if plan.film is None or plan.layout is None:
            shutil.copyfile(plan.tasks[0].output, partial)
        else:
            chunks = [ChunkFile(t.chunk, t.output) for t in plan.tasks if isinstance(t, VideoTask)]
            assemble(plan.film, chunks, plan.layout, partial)
    _remember(plan)


def _done_file(plan: Plan) -> Path:
    return plan.job.settings.state_dir / "done" / f"{plan.key[:32]}.json"


def _state_of(output: Path) -> dict[str, object]:
    found = output.stat()
    return {"output": str(output), "size": found.st_size, "mtime_ns": found.st_mtime_ns}


def _remember(plan: Plan) -> None:
    """Note that this job's result is the file that lies there now; the result stands without it too."""
    note = _done_file(plan)
    partial = note.with_suffix(".partial")
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(_state_of(plan.output)))
        partial.replace(note)
    except OSError as error:
        log.warning("%s was published, but that cannot be noted in %s: %s", plan.output, note.parent, error)


def _published_before(plan: Plan) -> bool:
    """Whether the output is this very job's result, from an earlier run of the same command."""
    note = _done_file(plan)
    return note.exists() and plan.output.exists() and json.loads(note.read_text()) == _state_of(plan.output)


@contextmanager
def _locked(work: Path) -> Iterator[None]:
    """The work folder for this process alone. Raises InputError if another one has it."""
    try:
        work.mkdir(parents=True, exist_ok=True)
        lock = (work / "lock").open("w")
    except OSError as error:
        raise OutputError(f"the work folder {work} cannot be written to: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError("another process is restoring it at this moment") from error
        yield
