"""One worker process, from the parent's side."""

from __future__ import annotations

from ..records import Task
from ..wire.events import Progress
from ..wire.tasks import dump_task
from .child import Child


class WorkerProcess(Child):
    """One worker process, on a device of its own."""

    def __init__(self, device: str, threads: int, stall_seconds: float | None = None) -> None:
        arguments = ("--device", device, "--threads", str(threads))
        super().__init__(f"the worker on {device}", "invsr_daemon.workers.restore", arguments, stall_seconds)
        self.device = device

    async def run(self, task: Task, progress: Progress) -> float:
        """Do a task; its seconds. Raises as `ask` does."""
        return float(await self.ask(dump_task(task), progress))
