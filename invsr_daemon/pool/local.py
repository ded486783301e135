"""A pool of processes on this machine: a worker for each device, and media processes as they are needed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Self

from ..confinement import confinement_problem
from ..errors import NoDeviceError
from ..wire.plans import Priority
from .health import DeviceHealth, Service
from .leasing import Leases
from .media import MediaProcesses
from .numerics import numerics_of
from .probing import device_problem
from .protocol import Numerics, told
from .reach import Reach
from .worker import Programs, WorkerProcess

log = logging.getLogger(__name__)


class LocalPool:
    """Worker processes on devices of this machine. One that dies is replaced when it is next asked.

    While all devices are set aside, whoever wants a worker waits for `patience` seconds, and is then refused.
    """

    def __init__(
        self,
        devices: tuple[str, ...],
        threads: int,
        reach: Reach,
        stall_seconds: float | None = None,
        *,
        patience: float = 0.0,
        programs: Programs | None = None,
    ) -> None:
        programs = programs or Programs()
        self._numerics = numerics_of(devices, threads)
        self.media = MediaProcesses(stall_seconds, reach.inbox)
        self._patience = patience
        self._impatient: asyncio.TimerHandle | None = None
        probe = partial(device_problem, module=programs.probe)
        service = Service(self._retire, self._take_back)
        self._health = DeviceHealth(devices, probe, service, programs.probe_seconds)
        self._workers = [
            WorkerProcess(
                device,
                devices.count(device) - 1,
                self._numerics.threads,
                reach,
                stall_seconds,
                self._health,
                programs,
            )
            for device in devices
        ]
        self._leases = Leases(self._workers)

    async def __aenter__(self) -> Self:
        if problem := confinement_problem():
            log.warning("%s", problem)
        return self

    async def __aexit__(self, *exception: object) -> None:
        if self._impatient is not None:
            self._impatient.cancel()
        await asyncio.gather(
            self._health.stop(), self.media.stop(), *(worker.stop() for worker in self._workers)
        )

    @property
    def numerics(self) -> Numerics:
        return self._numerics

    @property
    def size(self) -> int:
        return len(self._leases.workers)

    @property
    def busy(self) -> int:
        return self._leases.busy

    @property
    def set_aside(self) -> Mapping[str, str]:
        return self._health.problems

    def lease(
        self, priority: Priority = (), avoid: Collection[str] = ()
    ) -> AbstractAsyncContextManager[WorkerProcess]:
        return self._leases.lease(priority, avoid)

    async def are_well(self, devices: Collection[str]) -> bool:
        return all(await asyncio.gather(*(self._health.check(device) for device in devices)))

    def pause(self) -> None:
        self._leases.pause()

    def resume(self) -> None:
        self._leases.resume()

    def refuse(self) -> None:
        """Let nobody wait any more, if all devices are set aside."""
        if not self._leases.workers:
            self._leases.refuse(NoDeviceError(f"no device can be used: {told(self.set_aside)}"))

    def _retire(self, device: str) -> None:
        for worker in self._on(device):
            self._leases.remove(worker)
        if self._leases.workers:
            return
        if self._patience:
            log.warning("no device is left: waiting %.0f s at most for one", self._patience)
        self._impatient = asyncio.get_running_loop().call_later(self._patience, self.refuse)

    def _take_back(self, device: str) -> None:
        if self._impatient is not None:
            self._impatient.cancel()
        for worker in self._on(device):
            self._leases.add(worker)

    def _on(self, device: str) -> list[WorkerProcess]:
        return [worker for worker in self._workers if worker.device == device]
