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
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

from . import __version__
from .config import Settings
from .durable import sync_rename
from .media.assemble import SUFFIXES, ChunkFile, Layout, assemble, plan_layout
from .media.encode import film_size
from .media.image import SUFFIX, image_format, probe_image
from .media.probe import plan_chunks, probe_video
from .media.source import check_regular
from .media.verify import verify_film, verify_picture
from .outbox import Imprint, Manners, check_free, clear, explained, publish
from .pool import Pool, Priority, Worker
from .records import (
    ConfigError,
    Film,
    ImageInfo,
    ImageTask,
    InputError,
    InvsrError,
    ModelSettings,
    Task,
    VideoTask,
    WorkerLostError,
    WorkersLostError,
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
    """One input and everything that decides its result. `source` is absolute and no symlink.

    `name` tells apart jobs that agree in all else; `priority`: lower ones get workers first. `room` is
    a folder for all that is kept of the job, whatever its key becomes: see `clear_room`.
    """

    source: Path
    target: Target
    settings: Settings
    model: ModelSettings
    model_fingerprint: str
    name: str
    manners: Manners
    priority: Priority = ()
    room: str = ""


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

    plan: Plan
    output: Path
    computed: int
    was_there: bool = False

    @property
    def frames(self) -> int:
        return self.plan.frames

    @property
    def notes(self) -> tuple[str, ...]:
        return self.plan.notes


class Observer(Protocol):
    """Whoever wants to know how a job goes."""

    def planned(self, plan: Plan) -> None: ...

    def progress(self, plan: Plan, frames: int) -> None: ...

    def finished(self, plan: Plan, task: Task, device: str, seconds: float) -> None:
        """A task's file is there, durably."""

    def ended(self, plan: Plan) -> None: ...


def plan_job(job: Job) -> Plan:
    """Look at a job's input. Raises InputError, ConfigError or OutputExistsError."""
    identity = _identity(job.source)
    image = probe_image(job.source, job.settings.limits.max_input_pixels)
    plan = _plan_film(job, identity) if image is None else _plan_image(job, identity, image)
    if _published_before(plan) is None:
        check_free(plan.output, job.manners.collision)
    return plan


def _identity(source: Path) -> Identity:
    found = check_regular(source)
    return str(source), found.st_ino, found.st_size, found.st_mtime_ns


def _key(job: Job, identity: Identity, *writing: object) -> str:
    model = asdict(job.model) | {"model": job.model_fingerprint}
    threads = job.settings.limits.cpu_threads
    versions = [__version__, *(version(package) for package in DECISIVE_PACKAGES)]
    parts = [versions, identity, model, threads, job.name, *(repr(each) for each in writing)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _plan_film(job: Job, identity: Identity) -> Plan:
    settings = job.settings
    film = probe_video(job.source, settings.limits.max_input_pixels)
    video = settings.video_settings()
    _check_output(*film_size(film.info, video, job.model.scale), settings.limits.max_output_pixels)
    layout = plan_layout(film.info, _container(job), video.codec)
    key = _key(job, identity, video, layout, settings.video.chunk_frames)
    work = _work_folder(job, key)
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
    work = _work_folder(job, key)
    task = ImageTask(info, job.model, image, work / f"image{SUFFIX[format]}")
    own = job.source.suffix.lower()
    suffix = own if format == info.format and own else SUFFIX[format]
    return Plan(job, identity, key, work, job.target.path(suffix), 1, (task,), None, None, ())


def _check_output(width: int, height: int, most: int) -> None:
    if width * height > most:
        limit = f"the limit of {most} pixels (limits.max_output_pixels)"
        raise InputError(f"the result of {width}x{height} would exceed {limit}")


def _work_folder(job: Job, key: str) -> Path:
    return job.settings.state_dir / "work" / job.room / key[:32]


async def run_job(job: Job, pool: Pool, observer: Observer, stopping: asyncio.Event) -> Result:
    """Do a job. Raises InvsrError; Interrupted if `stopping` was set before the end.

    Finished work goes only if the input itself is to blame; for all else it waits for the next run.
    """
    plan = await asyncio.to_thread(plan_job, job)
    if output := _published_before(plan):
        await asyncio.to_thread(_clean_up_after, plan)
        return Result(plan, output, 0, was_there=True)
    observer.planned(plan)
    try:
        return await _run_plan(plan, pool, observer, stopping)
    finally:
        observer.ended(plan)


async def _run_plan(plan: Plan, pool: Pool, observer: Observer, stopping: asyncio.Event) -> Result:
    with _locked(plan.work):
        waiting = plan.waiting()
        computed = sum(frames_of(task) for task in waiting)
        observer.progress(plan, plan.frames - computed)
        try:
            await _Restoration(plan, pool, observer, stopping).run(waiting)
            output = await _published(plan, stopping)
        except InputError:
            await asyncio.to_thread(discard, plan)
            raise
        await asyncio.to_thread(discard, plan)
    return Result(plan, output, computed)


async def _published(plan: Plan, stopping: asyncio.Event) -> Path:
    """Publish on a thread. Cancelled meanwhile, it waits for that: an unwatched thread would go on.

    It does not wait if `stopping` is set: the process is about to end, and its threads with it.
    """
    given_up = threading.Event()
    publishing = asyncio.create_task(asyncio.to_thread(_publish, plan, given_up))
    try:
        return await asyncio.shield(publishing)
    except asyncio.CancelledError:
        given_up.set()
        if stopping.is_set():
            raise
        await asyncio.wait([publishing])
        if publishing.exception() is not None:
            raise
        return publishing.result()  # too late: it has its name


def discard(plan: Plan) -> None:
    """Remove a plan's finished pieces."""
    shutil.rmtree(plan.work, ignore_errors=True)
    if plan.job.room:
        with suppress(OSError):  # pieces under another key may lie there
            plan.work.parent.rmdir()


def _clean_up_after(plan: Plan) -> None:
    """Remove what a run left that was killed after publishing."""
    clear(plan.output, plan.key)
    discard(plan)


def clear_room(state_dir: Path, room: str) -> None:
    """Remove everything that is kept of a job: it will not be run again."""
    for folder in ("work", "done"):
        shutil.rmtree(state_dir / folder / room, ignore_errors=True)


def frames_of(task: Task) -> int:
    """How many frames a task restores."""
    return len(task.chunk.pts) if isinstance(task, VideoTask) else 1


class _Restoration:
    """A plan's tasks on the pool; the first failure stops those that have not begun."""

    def __init__(self, plan: Plan, pool: Pool, observer: Observer, stopping: asyncio.Event) -> None:
        self._plan = plan
        self._pool = pool
        self._observer = observer
        self._stopping = stopping
        self._errors: list[InvsrError] = []

    async def run(self, tasks: Iterable[Task]) -> None:
        """Do the tasks in order, as many at once as there are workers."""
        left = iter(tasks)
        async with asyncio.TaskGroup() as group:
            for _ in self._pool.workers:
                group.create_task(self._one_by_one(left))
        if self._errors:
            raise self._errors[0]
        if self._stopping.is_set() and self._plan.waiting():
            raise Interrupted("stopped")

    async def _one_by_one(self, tasks: Iterator[Task]) -> None:
        for task in tasks:
            try:
                await self._with_retries(task)
            except InvsrError as error:
                self._errors.append(error)
            if self._over:
                return

    @property
    def _over(self) -> bool:
        return bool(self._errors) or self._stopping.is_set()

    async def _with_retries(self, task: Task) -> None:
        """A worker's death costs an attempt; the next is made by another worker, if there is one."""
        most = self._plan.job.settings.limits.worker_deaths
        lost: Worker | None = None
        for attempt in range(1, most + 1):
            async with self._pool.lease(self._plan.job.priority, avoid=lost) as worker:
                if self._over:
                    return
                try:
                    await self._attempt(task, worker)
                except WorkerLostError as error:
                    source = self._plan.job.source.name
                    log.warning("%s: attempt %d of %d: %s", source, attempt, most, error)
                    lost = worker
                    if attempt == most:
                        raise WorkersLostError(f"{most} workers died of it; the last: {error}") from error
                else:
                    return

    async def _attempt(self, task: Task, worker: Worker) -> None:
        """Do a task; what the observer was told of it is taken back if it fails."""
        told = 0

        def progress(frames: int) -> None:
            nonlocal told
            told += frames
            self._observer.progress(self._plan, frames)

        try:
            seconds = await worker.run(task, progress)
        except InvsrError:
            self._observer.progress(self._plan, -told)
            raise
        self._observer.finished(self._plan, task, worker.device, seconds)


def _publish(plan: Plan, given_up: threading.Event) -> Path:
    """Assemble, verify, check that the input is still the same, and give the result its name."""

    def write(partial: Path) -> None:
        _write(plan, partial)
        if given_up.is_set():
            raise Interrupted("stopped")
        if _identity(plan.job.source) != plan.identity:
            raise InputError("it was changed while it was being restored")

    imprint = publish(plan.output, plan.key, plan.job.manners, write, lambda imprint: _note(plan, imprint))
    return Path(imprint.output)


def _write(plan: Plan, partial: Path) -> None:
    if plan.film is None or plan.layout is None:
        (task,) = plan.tasks
        assert isinstance(task, ImageTask)  # whatever is no film is a picture
        shutil.copyfile(task.output, partial)
        verify_picture(partial, task)
        return
    chunks = [ChunkFile(t.chunk, t.output) for t in plan.tasks if isinstance(t, VideoTask)]
    assemble(plan.film, chunks, plan.layout, partial)
    verify_film(partial, plan.film, plan.layout)


def _note_file(plan: Plan) -> Path:
    return plan.job.settings.state_dir / "done" / plan.job.room / f"{plan.key[:32]}.json"


def _note(plan: Plan, imprint: Imprint) -> None:
    """Note, durably, which file is about to get the result's name: so it is known after any crash."""
    note = _note_file(plan)
    partial = note.with_suffix(".partial")
    note.parent.mkdir(parents=True, exist_ok=True)
    partial.write_text(json.dumps(asdict(imprint)))
    sync_rename(partial, note)


def _published_before(plan: Plan) -> Path | None:
    """This very job's result, if an earlier run published it and it still lies there."""
    note = _note_file(plan)
    if not note.exists():
        return None
    imprint = Imprint(**json.loads(note.read_text()))
    return Path(imprint.output) if imprint.lies_there() else None


@contextmanager
def _locked(work: Path) -> Iterator[None]:
    """The work folder for this process alone. Raises InputError if another one has it."""
    try:
        work.mkdir(parents=True, exist_ok=True)
        lock = (work / "lock").open("w")
    except OSError as error:
        raise explained(error, work) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError("another process is restoring it at this moment") from error
        yield
