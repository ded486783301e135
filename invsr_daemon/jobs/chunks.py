"""A plan's tasks on the pool."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import (
    DeviceLostError,
    DeviceUnfitError,
    Interrupted,
    InvsrError,
    NoDeviceError,
    WorkerLostError,
)
from ..pool.protocol import Pool, Worker
from ..pool.retrying import died_of_it
from ..records import Task
from ..wire.events import AttemptProgress
from ..wire.plans import Plan
from .observing import Observer
from .seals import seal

log = logging.getLogger(__name__)


@dataclass
class Failures:
    """How a task has failed so far: workers' deaths, devices' faults and wants, and on which devices."""

    deaths: int = 0
    unfit: DeviceUnfitError | None = None
    faults: list[DeviceLostError] = field(default_factory=list)
    devices: set[str] = field(default_factory=set)

    def add(self, device: str, error: InvsrError) -> None:
        """Count one more."""
        self.devices.add(device)
        if isinstance(error, DeviceUnfitError):
            self.unfit = error
        elif isinstance(error, DeviceLostError):
            self.faults.append(error)
        else:
            self.deaths += 1

    def end(self, device: str, most: int) -> InvsrError | None:
        """The error to end with, if only this device again is left to try.

        So it is after so many faults, and as soon as a device has proved unfit.
        """
        if device not in self.devices:
            return None
        return self.unfit or (self.faults[-1] if len(self.faults) >= most else None)


class Dispatcher:
    """A plan's tasks on the pool; the first failure stops those that have not begun."""

    def __init__(self, plan: Plan, pool: Pool, observer: Observer, stopping: asyncio.Event) -> None:
        self._plan = plan
        self._pool = pool
        self._observer = observer
        self._stopping = stopping
        self._most = plan.job.settings.limits.worker_deaths
        self._errors: list[InvsrError] = []
        self._waiting: set[Path] = set()  # outputs of tasks that wait for a worker
        self._begun = asyncio.Event()

    async def run(self, tasks: Iterable[Task]) -> None:
        """Do the tasks in order, as many at once as there are workers, however their number changes."""
        async with asyncio.TaskGroup() as group:
            for task in tasks:
                await self._few_wait()
                if self._over:
                    break
                self._waiting.add(task.output)
                group.create_task(self._do(task))
        if self._stopping.is_set() and self._plan.waiting() and all(map(_no_device, self._errors)):
            raise Interrupted("stopped")
        if self._errors:
            raise self._errors[0]

    async def _few_wait(self) -> None:
        """Let as many tasks wait as there are workers: all of them may become free at once."""
        while len(self._waiting) >= max(1, self._pool.size):
            self._begun.clear()
            await self._begun.wait()

    async def _do(self, task: Task) -> None:
        try:
            await self._with_retries(task)
        except InvsrError as error:
            self._errors.append(error)
        finally:
            self._has_begun(task)

    def _has_begun(self, task: Task) -> None:
        self._waiting.discard(task.output)
        self._begun.set()

    @property
    def _over(self) -> bool:
        return bool(self._errors) or self._stopping.is_set()

    async def _with_retries(self, task: Task) -> None:
        """Try a task again, elsewhere if it can be, when its worker dies or the device fails.

        A device's own faults are not the task's: it ends with one only if there have been many, and no other
        device is left to try. Then the job is put off.
        """
        failures = Failures()
        while (error := await self._tried(task, failures)) is not None:
            await self._judge(failures, error)

    async def _tried(self, task: Task, failures: Failures) -> InvsrError | None:
        """Try a task once. The error, if it may be tried again."""
        async with self._pool.lease(self._plan.job.priority, failures.devices) as worker:
            self._has_begun(task)
            if self._over:
                return None
            if fault := failures.end(worker.device, self._most):
                raise fault
            try:
                await self._attempt(task, worker)
            except (DeviceLostError, DeviceUnfitError, WorkerLostError) as error:
                failures.add(worker.device, error)
                return error
        return None

    async def _judge(self, failures: Failures, error: InvsrError) -> None:
        """Raise the error that a task ends with, if workers died of it too often and the devices are well."""
        source = self._plan.job.source.name
        if isinstance(error, DeviceLostError | DeviceUnfitError):
            log.warning("%s: %s", source, error)
            return
        log.warning("%s: attempt %d of %d: %s", source, failures.deaths, self._most, error)
        if failures.deaths >= self._most:
            if await self._pool.are_well(failures.devices):
                raise died_of_it(failures.deaths, error) from error
            failures.deaths = 0  # a device is sick: its deaths say nothing of the task

    async def _attempt(self, task: Task, worker: Worker) -> None:
        """Do a task; what the observer was told of it is taken back if it fails."""
        progress = AttemptProgress(lambda frames: self._observer.progress(self._plan, frames))
        try:
            done = await worker.run(task, progress)
        except InvsrError:
            progress.take_back()
            raise
        await asyncio.to_thread(seal, task.output, done.notes)
        self._observer.finished(self._plan, task, worker.device, done.seconds)


def _no_device(error: InvsrError) -> bool:
    return isinstance(error, NoDeviceError)
