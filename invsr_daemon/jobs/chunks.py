"""A plan's tasks on the pool."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from ..errors import Interrupted, InvsrError, WorkerLostError
from ..pool.protocol import Pool, Worker
from ..pool.retrying import died_of_it
from ..records import Task
from ..wire.events import AttemptProgress
from ..wire.plans import Plan
from .observing import Observer

log = logging.getLogger(__name__)


class Dispatcher:
    """A plan's tasks on the pool; the first failure stops those that have not begun."""

    def __init__(self, plan: Plan, pool: Pool, observer: Observer, stopping: asyncio.Event) -> None:
        self._plan = plan
        self._pool = pool
        self._observer = observer
        self._stopping = stopping
        self._errors: list[InvsrError] = []
        self._waiting = 0  # tasks that wait for a worker
        self._begun = asyncio.Event()

    async def run(self, tasks: Iterable[Task]) -> None:
        """Do the tasks in order, as many at once as there are workers, however their number changes."""
        async with asyncio.TaskGroup() as group:
            for task in tasks:
                await self._few_wait()
                if self._over:
                    break
                self._waiting += 1
                group.create_task(self._do(task))
        if self._errors:
            raise self._errors[0]
        if self._stopping.is_set() and self._plan.waiting():
            raise Interrupted("stopped")

    async def _few_wait(self) -> None:
        """Let as many tasks wait as there are workers: all of them may become free at once."""
        while self._waiting >= max(1, self._pool.size):
            self._begun.clear()
            await self._begun.wait()

    async def _do(self, task: Task) -> None:
        try:
            await self._with_retries(task)
        except InvsrError as error:
            self._errors.append(error)

    def _has_begun(self) -> None:
        self._waiting -= 1
        self._begun.set()

    @property
    def _over(self) -> bool:
        return bool(self._errors) or self._stopping.is_set()

    async def _with_retries(self, task: Task) -> None:
        """A worker's death costs an attempt; the next is made by another worker, if there is one."""
        most = self._plan.job.settings.limits.worker_deaths
        lost: Worker | None = None
        for attempt in range(1, most + 1):
            async with self._pool.lease(self._plan.job.priority, avoid=lost) as worker:
                if attempt == 1:
                    self._has_begun()
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
        progress = AttemptProgress(lambda frames: self._observer.progress(self._plan, frames))
        try:
            seconds = await worker.run(task, progress)
        except InvsrError:
            progress.take_back()
            raise
        self._observer.finished(self._plan, task, worker.device, seconds)
