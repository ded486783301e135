"""One job from plan to published result: probe, cut into chunks, restore on the pool, assemble, publish.

Finished chunk files are the resume points. They lie in a work folder named by the job's key, a hash of
everything that decides the result, so the same command finds them again and another one does not.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from ..errors import InputError, Interrupted, OutputExistsError, ResourceError, UnreadableError
from ..files.publishing import HiddenFile, check_free, check_writable
from ..pool.protocol import Pool
from ..pool.retrying import outliving
from ..records import Task
from ..wire.plans import Job, Plan, frames_of
from .chunks import Dispatcher
from .notes import published_before, write_note
from .observing import Observer, Result
from .room import check_room
from .seals import notes_of, remove_damaged, seal_rest
from .settling import settled
from .workfolders import clean_up_after, discard, lock_work

T = TypeVar("T")

MOST_REPAIRS = 3  # rounds in which damaged pieces are computed again


async def run_job(job: Job, pool: Pool, observer: Observer, stopping: asyncio.Event) -> Result:
    """Do a job. Raises InvsrError; Interrupted if `stopping` was set before the end.

    Finished work goes only if the input itself is to blame; for all else it waits for the next run.
    """
    job = settled(job, pool.numerics)
    plan = await _before(stopping, _outliving(job, lambda: pool.media.look(job)))
    observer.looked(plan)
    if output := published_before(plan):
        wants = await asyncio.to_thread(notes_of, plan.tasks)
        await asyncio.to_thread(clean_up_after, plan)
        return Result(plan, output, 0, was_there=True, wants=wants)
    check_free(plan.place, job.policy.collision)
    _spare_the_original(plan)
    with lock_work(plan.work):
        # Not before: the hidden file may be the result that another process is about to name.
        await asyncio.to_thread(check_writable, plan.place, plan.key)
        observer.planned(plan)
        try:
            return await _run_plan(plan, pool, observer, stopping)
        finally:
            observer.ended(plan)


async def _run_plan(plan: Plan, pool: Pool, observer: Observer, stopping: asyncio.Event) -> Result:
    await asyncio.to_thread(seal_rest, plan.tasks)
    observer.progress(plan, plan.frames - _frames(plan.waiting()))
    try:
        computed = await _computed(plan, pool, observer, stopping)
        wants = await asyncio.to_thread(notes_of, plan.tasks)
        output = await _published(plan, pool, stopping)
    except UnreadableError:  # that may be changed without the file being touched
        raise
    except InputError:
        await asyncio.to_thread(discard, plan)
        raise
    await asyncio.to_thread(discard, plan)
    return Result(plan, output, computed, wants=wants)


async def _computed(plan: Plan, pool: Pool, observer: Observer, stopping: asyncio.Event) -> int:
    """Compute all pieces that are not there, or are damaged; how many frames those have."""
    computed = 0
    for _ in range(MOST_REPAIRS + 1):
        waiting = plan.waiting()
        await Dispatcher(plan, pool, observer, stopping).run(waiting)
        computed += _frames(waiting)
        if not await asyncio.to_thread(remove_damaged, plan.tasks):
            return computed
        observer.progress(plan, -_frames(plan.waiting()))
    raise ResourceError(f"what is written to {plan.work} does not stay as it was: its disk fails")


def _frames(tasks: Iterable[Task]) -> int:
    return sum(frames_of(task) for task in tasks)


async def _published(plan: Plan, pool: Pool, stopping: asyncio.Event) -> Path:
    """Join the pieces in a hidden file and give it the result's name. Raises NoRoomError if it cannot fit."""
    await asyncio.to_thread(check_room, plan)
    hidden = HiddenFile(plan.place, plan.key)
    try:
        await asyncio.to_thread(hidden.open, plan.job.policy.mode)
        await _outliving(plan.job, lambda: pool.media.join(plan, hidden.held))
        return await _named(plan, hidden, stopping)
    finally:
        await asyncio.to_thread(hidden.discard)


async def _named(plan: Plan, hidden: HiddenFile, stopping: asyncio.Event) -> Path:
    """Give the result its name, on a thread.

    A thread cannot be cancelled. So this waits for its end even if it is cancelled itself, unless `stopping`
    is set: then the process is about to end, and its threads with it.
    """
    naming = asyncio.create_task(
        asyncio.to_thread(hidden.finish, plan.job.policy, lambda imprint: write_note(plan, imprint))
    )
    try:
        imprint = await asyncio.shield(naming)
    except asyncio.CancelledError:
        if stopping.is_set():
            raise
        await asyncio.wait([naming])
        if naming.exception() is not None:
            raise
        imprint = naming.result()  # the result has its name: it is too late to cancel
    return Path(imprint.output)


async def _before(stopping: asyncio.Event, work: Coroutine[Any, Any, T]) -> T:
    """Do some work. Raises Interrupted if `stopping` is set before the work ends."""
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


def _spare_the_original(plan: Plan) -> None:
    """Raise OutputExistsError if the result would replace the input, by whatever path."""
    with suppress(OSError):  # nothing is there, or writing will tell what else is wrong
        if os.path.samestat(os.lstat(plan.output), os.lstat(plan.job.source)):
            raise OutputExistsError(f"{plan.output} is the original itself, which is never replaced")
