"""One worker process, from the parent's side."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..confinement import Allowed
from ..records import Task
from ..wire.events import Progress
from ..wire.tasks import dump_task
from .child import Child
from .reach import Reach, allowed_to_workers, source_of


class WorkerProcess(Child):
    """One worker process, on a device of its own.

    It may read models, and change what is in the folder of work files; each task's source goes along open. A
    task with a model that it may not read yet gets a new process.
    """

    def __init__(self, device: str, threads: int, reach: Reach, stall_seconds: float | None = None) -> None:
        arguments = ("--device", device, "--threads", str(threads))
        super().__init__(f"the worker on {device}", "invsr_daemon.workers.restore", arguments, stall_seconds)
        self.device = device
        self._reach = reach
        self._models: frozenset[Path] = frozenset()

    @property
    def environment(self) -> Mapping[str, str]:
        return {"TMPDIR": str(self._reach.scratch)}  # torch will not do without one

    @property
    def allowed(self) -> Allowed:
        return allowed_to_workers(self._models, self._reach)

    async def run(self, task: Task, progress: Progress) -> float:
        """Do a task; its seconds. Raises as `ask` does; InputError if its source is not what it was."""
        model = Path(task.model.model)
        if model not in self._models:
            await self.stop()
            self._models |= {model}
            self._reach.scratch.mkdir(mode=0o700, exist_ok=True)
        async with source_of(task.info.path, task.identity, self._reach.inbox) as source:
            return float(await self.ask(dump_task(task), progress, source))
