"""Which devices can be trusted: a sick one is set aside, probed, and taken back when it is well again.

The ends of tasks are the evidence. A device is set aside when a worker dies before it is ready, when it fails
twice with no success between, and when workers die of two different tasks in a row. A single task that kills
worker after worker is itself to blame.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice, repeat

from ..errors import DeviceLostError, DeviceOccupiedError, InvsrError, WorkerLostError, WorkerStartError

log = logging.getLogger(__name__)

# Waits before the probes of a device that is set aside; the last one repeats. The first probe comes at once:
# where an error has spoilt a process's context, a new process is all that is needed.
PROBE_SECONDS = (0.0, 30.0, 120.0, 600.0)
MOST_FAULTS = 2  # in a row

Probe = Callable[[str], Awaitable[str | None]]


@dataclass(frozen=True)
class Service:
    """What takes a device's workers out of service, and what takes them back."""

    set_aside: Callable[[str], None]
    take_back: Callable[[str], None]


@dataclass
class _Record:
    """What is known of a device. Everything but `reason` is since its last success."""

    faults: int = 0
    deadly: set[str] = field(default_factory=set)  # tasks that workers died of
    probes: int = 0
    reason: str | None = None  # why it is set aside, if it is
    probing: asyncio.Task[None] | None = None


class DeviceHealth:
    """Judges devices by how their tasks end.

    `probe` tries a device in a process of its own, and says what is wrong with it, if anything is.
    """

    def __init__(
        self,
        devices: Iterable[str],
        probe: Probe,
        service: Service,
        probe_seconds: tuple[float, ...] = PROBE_SECONDS,
    ) -> None:
        self._records = {device: _Record() for device in devices}
        self._probe = probe
        self._service = service
        self._probe_seconds = probe_seconds

    @property
    def problems(self) -> Mapping[str, str]:
        """Why devices are set aside, by device."""
        return {device: each.reason for device, each in self._records.items() if each.reason is not None}

    def succeeded(self, device: str) -> None:
        """A task was done there."""
        record = self._records[device]
        record.faults, record.probes = 0, 0
        record.deadly.clear()

    def failed(self, device: str, task: str, error: InvsrError) -> None:
        """A task ended with an error; `task` names it. Errors that speak against no device change nothing."""
        record = self._records[device]
        match error:
            case DeviceOccupiedError() | WorkerStartError():
                record.faults = MOST_FAULTS
            case DeviceLostError():
                record.faults += 1
            case WorkerLostError():
                record.deadly.add(task)
        if record.faults >= MOST_FAULTS or len(record.deadly) >= MOST_FAULTS:
            self._set_aside(device, str(error))

    async def check(self, device: str) -> bool:
        """Whether a device is well, tried at once; it is set aside if it is not."""
        if self._records[device].reason is not None:
            return False
        problem = await self._probe(device)
        if problem is not None:
            self._set_aside(device, problem)
        return problem is None

    async def stop(self) -> None:
        """End all probing."""
        probing = [each.probing for each in self._records.values() if each.probing is not None]
        for task in probing:
            task.cancel()
        await asyncio.gather(*probing, return_exceptions=True)

    def _set_aside(self, device: str, reason: str) -> None:
        record = self._records[device]
        if record.reason is not None:  # another of its workers was quicker
            return
        log.warning("%s is set aside until it is well again: %s", device, reason)
        record.faults = 0
        record.deadly.clear()
        record.reason = reason
        self._service.set_aside(device)
        record.probing = asyncio.create_task(self._probe_until_well(device, record))

    async def _probe_until_well(self, device: str, record: _Record) -> None:
        delays = chain(self._probe_seconds, repeat(self._probe_seconds[-1]))
        for delay in islice(delays, record.probes, None):
            await asyncio.sleep(delay)
            record.probes += 1
            problem = await self._probe(device)
            if problem is None:
                break
            record.reason = problem
        log.warning("%s is well again", device)
        record.reason = record.probing = None
        self._service.take_back(device)
