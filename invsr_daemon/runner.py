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
import os
import shutil
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from .durable import sync_rename
from .outbox import Imprint, begin, check_free, check_writable, clear, explained, explaining, finish
from .plans import Job, Plan, frames_of
from .pool import Pool, Worker
from .records import InputError, InvsrError, OutputExistsError, Task, WorkerLostError, WorkersLostError

log = logging.getLogger(__name__)

T = TypeVar("T")


class Interrupted(InvsrError):
    """Stopped on request; the same job resumes where it was."""

    retryable = True


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

    def looked(self, plan: Plan) -> None:
        """It is known where the result goes, before anything there is looked at. May raise InvsrError."""

    def planned(self, plan: Plan) -> None: ...

    def progress(self, plan: Plan, frames: int) -> None: ...

    def finished(self, plan: Plan, task: Task, device: str, seconds: float) -> None:
        """A task's file is there, durably."""

    def ended(self, plan: Plan) -> None: ...


async def run_job(job: Job, pool: Pool, observer: Observer, stopping: asyncio.Event) -> Result:
    """Do a job. Raises InvsrError; Interrupted if `stopping` was set before the end.

    Finished work goes only if the input itself is to blame; for all else it waits for the next run.
    """
    plan = await _before(stopping, _outliving(job, lambda: pool.media.look(job)))
    observer.looked(plan)
    if output := _published_before(plan):
        await asyncio.to_thread(_clean_up_after, plan)
        return Result(plan, output, 0, was_there=True)
    check_free(plan.output, job.manners.collision)
    _spare_the_original(plan)
    with _locked(plan.work):
        # Not before: the hidden file may be the result that another process is about to name.
        await asyncio.to_thread(check_writable, plan.output, plan.key)
        observer.planned(plan)
        try:
            return await _run_plan(plan, pool, observer, stopping)
        finally:
            observer.ended(plan)


async def _run_plan(plan: Plan, pool: Pool, observer: Observer, stopping: asyncio.Event) -> Result:
    waiting = plan.waiting()
    computed = sum(frames_of(task) for task in waiting)
    observer.progress(plan, plan.frames - computed)
    try:
        await _Restoration(plan, pool, observer, stopping).run(waiting)
        output = await _published(plan, pool, stopping)
    except InputError:
        await asyncio.to_thread(discard, plan)
        raise
    await asyncio.to_thread(discard, plan)
    return Result(plan, output, computed)


async def _published(plan: Plan, pool: Pool, stopping: asyncio.Event) -> Path:
    """Join the pieces in a hidden file and give it the result's name."""
    try:
        partial = await asyncio.to_thread(begin, plan.output, plan.key)
        await _outliving(plan.job, lambda: pool.media.join(plan, partial))
        return await _named(plan, partial, stopping)
    finally:
        await asyncio.to_thread(clear, plan.output, plan.key)


async def _named(plan: Plan, partial: Path, stopping: asyncio.Event) -> Path:
    """Name the result on a thread. Cancelled meanwhile, it waits for that: an unwatched thread would go on.

    It does not wait if `stopping` is set: the process is about to end, and its threads with it.
    """
    naming = asyncio.create_task(
        asyncio.to_thread(
            finish, partial, plan.output, plan.job.manners, lambda imprint: _note(plan, imprint)
        )
    )
    try:
        imprint = await asyncio.shield(naming)
    except asyncio.CancelledError:
        if stopping.is_set():
            raise
        await asyncio.wait([naming])
        if naming.exception() is not None:
            raise
        imprint = naming.result()  # too late: it has its name
    return Path(imprint.output)


async def _before(stopping: asyncio.Event, work: Coroutine[Any, Any, T]) -> T:
    """Do something, unless it is time to stop before its end. Raises Interrupted then."""
    doing, stopped = asyncio.create_task(work), asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait({doing, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            raise Interrupted("stopped")
        return doing.result()
    finally:
        doing.cancel()
        stopped.cancel()
        await asyncio.wait({doing, stopped})


async def _outliving(job: Job, ask: Callable[[], Awaitable[T]]) -> T:
    return await outliving(job.source.name, job.settings.limits.worker_deaths, ask)


async def outliving(name: str, most: int, ask: Callable[[], Awaitable[T]]) -> T:
    """Ask a media process; another one if it dies, for it may have been short of memory.

    Raises WorkersLostError if so many have died of it.
    """
    for attempt in range(1, most):
        try:
            return await ask()
        except WorkerLostError as error:
            log.warning("%s: attempt %d of %d: %s", name, attempt, most, error)
    try:
        return await ask()
    except WorkerLostError as error:
        raise _died_of_it(most, error) from error


def _died_of_it(times: int, last: WorkerLostError) -> WorkersLostError:
    return WorkersLostError(f"{times} processes died of it; the last: {last}")


def _spare_the_original(plan: Plan) -> None:
    """Raise OutputExistsError if its result would take the input's own name, by whatever path."""
    with suppress(OSError):  # nothing is there; or more is wrong, which writing will tell
        if os.path.samestat(os.lstat(plan.output), os.lstat(plan.job.source)):
            raise OutputExistsError(f"{plan.output} is the original itself, which is never replaced")


def discard(plan: Plan) -> None:
    """Remove a plan's finished pieces."""
    shutil.rmtree(plan.work, ignore_errors=True)
    if plan.job.room:
        with suppress(OSError):  # pieces under another key may lie there
            plan.work.parent.rmdir()


def _clean_up_after(plan: Plan) -> None:
    """Remove what a run left that was killed after publishing: all pieces are there then."""
    clear(plan.output, plan.key)
    if plan.job.room:
        discard(plan)
    elif plan.work.is_dir():
        with suppress(InvsrError), _locked(plan.work):  # they may serve a run for another place by now
            if not plan.waiting():
                discard(plan)


def clear_room(state_dir: Path, room: str) -> None:
    """Remove everything that is kept of a job: it will not be run again."""
    for folder in ("work", "done"):
        shutil.rmtree(state_dir / folder / room, ignore_errors=True)


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
                        raise _died_of_it(most, error) from error
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


def _note_file(plan: Plan) -> Path:
    """The key leaves out where the result goes: pieces serve any place, but a note is about one."""
    named = hashlib.sha256(f"{plan.key} {plan.job.name}".encode(errors="surrogateescape")).hexdigest()
    return plan.job.settings.state_dir / "done" / plan.job.room / f"{named[:32]}.json"


def _note(plan: Plan, imprint: Imprint) -> None:
    """Note, durably, which file is about to get the result's name: so it is known after any crash."""
    note = _note_file(plan)
    partial = note.with_suffix(".partial")
    with explaining(note.parent):
        note.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(asdict(imprint)))
        sync_rename(partial, note)


def _published_before(plan: Plan) -> Path | None:
    """This very job's result, if an earlier run published it and it still lies there."""
    note = _note_file(plan)
    if not note.exists():
        return None
    imprint = Imprint(**json.loads(note.read_text()))
    if not imprint.lies_there():
        return None
    with suppress(OSError):  # it may not be ours
        os.utime(note)  # still of use: see retention.forget_loose
    return Path(imprint.output)


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
