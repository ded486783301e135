"""A pool in memory: no processes; each worker does what the test says."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager

from invsr_daemon.errors import InternalError, NoDeviceError
from invsr_daemon.files.folders import HeldFile
from invsr_daemon.pool.leasing import Leases
from invsr_daemon.pool.protocol import Numerics
from invsr_daemon.records import Task, VideoSettings
from invsr_daemon.wire.events import Progress
from invsr_daemon.wire.plans import Job, Plan, Priority
from invsr_daemon.wire.tasks import Done

Perform = Callable[["MemoryWorker", Task, Progress], Awaitable[Done]]


async def write(worker: MemoryWorker, task: Task, progress: Progress) -> Done:
    """The simplest work: the task's file is there at once."""
    progress(1)
    task.output.write_text(worker.device)
    return Done(0.0)


class MemoryWorker:
    """A worker that remembers the tasks it was given."""

    def __init__(self, device: str, perform: Perform) -> None:
        self.device = device
        self.given: list[Task] = []
        self._perform = perform

    async def run(self, task: Task, progress: Progress) -> Done:
        self.given.append(task)
        return await self._perform(self, task, progress)


class NoMedia:
    """Reads nothing: who needs plans and results takes real processes."""

    async def look(self, job: Job) -> Plan:
        raise InternalError("a pool in memory reads no files")

    async def join(self, plan: Plan, hidden: HeldFile) -> None:
        raise InternalError("a pool in memory joins no files")

    async def check(self, settings: Sequence[VideoSettings]) -> list[str | None]:
        return [None] * len(settings)


class MemoryPool:
    """Workers that are added and removed at will."""

    def __init__(self, *devices: str, perform: Perform = write) -> None:
        self.media = NoMedia()
        self.numerics = Numerics("fp32", 1)
        self.sick: set[str] = set()
        self._perform = perform
        self._leases = Leases(MemoryWorker(device, perform) for device in devices)

    @property
    def size(self) -> int:
        return len(self._leases.workers)

    @property
    def busy(self) -> int:
        return self._leases.busy

    def add(self, device: str) -> MemoryWorker:
        worker = MemoryWorker(device, self._perform)
        self._leases.add(worker)
        return worker

    def remove(self, worker: MemoryWorker) -> None:
        self._leases.remove(worker)

    @property
    def workers(self) -> tuple[MemoryWorker, ...]:
        return self._leases.workers

    def lease(
        self, priority: Priority = (), avoid: Collection[str] = ()
    ) -> AbstractAsyncContextManager[MemoryWorker]:
        return self._leases.lease(priority, avoid)

    async def are_well(self, devices: Collection[str]) -> bool:
        return not self.sick & set(devices)

    def refuse(self) -> None:
        """As if all devices had been set aside."""
        self._leases.refuse(NoDeviceError("no device can be used"))

    @property
    def set_aside(self) -> Mapping[str, str]:
        return dict.fromkeys(self.sick, "it is sick")

    def pause(self) -> None:
        self._leases.pause()

    def resume(self) -> None:
        self._leases.resume()
