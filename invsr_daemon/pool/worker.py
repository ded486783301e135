"""One worker process, from the parent's side."""

from __future__ import annotations

from ..errors import DeviceLostError, InvsrError, WorkerStartError
from ..records import Task
from ..wire.events import Progress
from ..wire.tasks import dump_task
from .child import Child
from .health import DeviceHealth


class WorkerProcess(Child):
    """One worker process, on a device of its own. It tells `health` how tasks end there."""

    def __init__(
        self, device: str, threads: int, stall_seconds: float | None, health: DeviceHealth, module: str
    ) -> None:
        arguments = ("--device", device, "--threads", str(threads))
        super().__init__(f"the worker on {device}", module, arguments, stall_seconds)
        self.device = device
        self._health = health

    async def run(self, task: Task, progress: Progress) -> float:
        """Do a task; its seconds. Raises as `ask` does; DeviceLostError if the device is to blame."""
        try:
            seconds = float(await self.ask(dump_task(task), progress))
        except InvsrError as error:
            if isinstance(error, DeviceLostError):  # the process goes on with a context that is spoilt
                await self.kill()
            self._health.failed(self.device, str(task.output.parent), error)
            if isinstance(error, WorkerStartError):
                raise DeviceLostError(str(error)) from error
            raise
        self._health.succeeded(self.device)
        return seconds
