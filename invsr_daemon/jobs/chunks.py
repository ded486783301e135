"""A plan's tasks on the pool."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator

from ..errors import Interrupted, InvsrError, WorkerLostError
from ..pool.local import Pool
from ..pool.retrying import died_of_it
from ..pool.worker import Worker
from ..records import Task
from ..wire.plans import Plan
from .observing import Observer

log = logging.getLogger(__name__)


class Restoration:
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
                        raise died_of_it(most, error) from error
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
