"""One worker process, from the parent's side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ..confinement import Allowed
from ..errors import DeviceLostError, InvsrError, WorkerStartError
from ..files.publishing import explaining
from ..records import Task
from ..wire.events import Progress
from ..wire.tasks import Done, done_of, dump_task
from .child import Child
from .devices import named_by_torch
from .health import PROBE_SECONDS, DeviceHealth
from .reach import Reach, allowed_to_workers, source_of


@dataclass(frozen=True)
class Programs:
    """The modules that are run as processes, and what workers may read beside models.

    `probe_seconds`: the waits before probes of a device that is set aside.
    """

    worker: str = "invsr_daemon.workers.restore"
    probe: str = "invsr_daemon.workers.soundness"
    probe_seconds: tuple[float, ...] = PROBE_SECONDS
    reads: tuple[Path, ...] = ()


class WorkerProcess(Child):
    """One worker process, on a device that it shares with `others`. It tells `health` how tasks end there.

    It may read models, and change what is in the folder of work files; each task's source goes along open. A
    task with a model that it may not read yet gets a new process.
    """

    def __init__(
        self,
        device: str,
        others: int,
        threads: int,
        reach: Reach,
        stall_seconds: float | None,
        health: DeviceHealth,
        programs: Programs,
    ) -> None:
        name, self._seen = named_by_torch(device)
        arguments = ("--device", name, "--threads", str(threads), "--sharers", str(1 + others))
        super().__init__(f"the worker on {device}", programs.worker, arguments, stall_seconds)
        self.device = device
        self._reach = reach
        self._health = health
        self._reads = programs.reads
        self._models: frozenset[Path] = frozenset()

    @property
    def environment(self) -> Mapping[str, str]:
        return {**self._seen, "TMPDIR": str(self._reach.scratch)}  # torch will not do without the latter

    @property
    def allowed(self) -> Allowed:
        allowed = allowed_to_workers(self._models, self._reach)
        return replace(allowed, reads=(*allowed.reads, *self._reads))

    async def run(self, task: Task, progress: Progress) -> Done:
        """Do a task.

        Raises as `ask` does; DeviceLostError if the device is to blame, InputError if its source is not what
        it was.
        """
        model = Path(task.model.model)
        if model not in self._models:
            await self.stop()
            self._models |= {model}
            with explaining(self._reach.scratch.parent):
                self._reach.scratch.mkdir(mode=0o700, exist_ok=True)
        async with source_of(task.info.path, task.identity, self._reach.inbox) as source:
            return await self._judged(task, progress, source)

    async def _judged(self, task: Task, progress: Progress, source: int) -> Done:
        """Have a task done, and tell what its end says of the device."""
        try:
            done = done_of(await self.ask(dump_task(task), progress, source))
        except InvsrError as error:
            if isinstance(error, DeviceLostError):  # the process goes on with a context that is spoilt
                await self.kill()
            self._health.failed(self.device, str(task.output.parent), error)
            if isinstance(error, WorkerStartError):
                raise DeviceLostError(str(error)) from error
            raise
        self._health.succeeded(self.device)
        return done
