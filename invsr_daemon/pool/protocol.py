"""What jobs need of a pool: leases on workers by priority, and processes that read strangers' files.

Local processes are one make of it (`local`); others may place workers on other machines. They only place
workers and keep them alive: attempts, priorities and pauses are decided here and in `jobs`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from ..files.folders import HeldFile
from ..records import Precision, Task, VideoSettings
from ..wire.events import Progress
from ..wire.plans import Job, Plan, Priority
from ..wire.tasks import Done


@dataclass(frozen=True)
class Numerics:
    """How every worker of a pool computes, so that all pieces of a job are alike.

    `precision` is what `precision: auto` stands for; `threads` are each worker's on the CPU, 1 or more.
    """

    precision: Precision
    threads: int


class Worker(Protocol):
    """Does one task at a time, on a device of its own."""

    @property
    def device(self) -> str:
        """The device, as settings name it."""

    async def run(self, task: Task, progress: Progress) -> Done:
        """Do a task. `progress` is told of frames as they are done.

        Raises what the worker reports (InvsrError); DeviceLostError if its device fails, WorkerLostError if
        it dies or falls silent. Cancelled, it leaves the task undone.
        """


class MediaReaders(Protocol):
    """Read films and pictures for whoever must not be crashed by one."""

    async def look(self, job: Job) -> Plan:
        """The plan of a job. Raises InputError, ConfigError, WorkerLostError."""

    async def join(self, plan: Plan, hidden: HeldFile) -> None:
        """Put a plan's pieces together in an empty file.

        Raises InputError, OutputError, ResourceError.
        """

    async def check(self, settings: Sequence[VideoSettings]) -> list[str | None]:
        """For each of these settings why no film can be encoded with it, if so. Raises WorkerLostError."""


class Pool(Protocol):
    """Workers that come and go, leased to whoever is first in line."""

    # Required

    @property
    def media(self) -> MediaReaders: ...

    @property
    def numerics(self) -> Numerics:
        """The same for all its workers, and for as long as the pool lasts."""

    @property
    def size(self) -> int:
        """How many workers there are now; it may change at any time."""

    @property
    def busy(self) -> int:
        """How many of them are leased."""

    @property
    def set_aside(self) -> Mapping[str, str]:
        """Why devices are set aside, by device. Their workers are leased to nobody until they are well."""

    def lease(
        self, priority: Priority = (), avoid: Collection[str] = ()
    ) -> AbstractAsyncContextManager[Worker]:
        """A worker for the block; it waits for one. Lower priorities come first, then who asked first.

        `avoid`: rather none on these devices, if there are others. Raises NoDeviceError if all devices are
        set aside.
        """

    async def are_well(self, devices: Collection[str]) -> bool:
        """Whether devices compute as they should, tried at once. Those that do not are set aside."""

    def pause(self) -> None:
        """Lease no worker until `resume`; those that are leased go on."""

    def resume(self) -> None:
        """Lease workers again."""


def told(set_aside: Mapping[str, str]) -> str:
    """Why devices are set aside, in a line."""
    return "; ".join(f"{device}: {reason}" for device, reason in set_aside.items())
