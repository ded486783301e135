"""Media processes, from the parent's side: they read strangers' files."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..files.folders import HeldFile
from ..records import VideoSettings
from ..wire.plans import Job, Plan
from ..wire.requests import Check, Join, Look, Request, dump_request, plan_of
from .child import Child, Process

IDLE_SECONDS = 10.0  # how long a media process is kept for the next file


class MediaProcess(Child):
    """A process that reads strangers' files. It does not say how far it is, but works by reading and writing.

    So that is looked at from here: at the end of a long film FFmpeg moves all of it, in one call.
    """

    silence = "has read and written nothing"

    def __init__(self, stall_seconds: float | None) -> None:
        super().__init__("the media process", "invsr_daemon.workers.media", (), stall_seconds)

    def _work_of(self, process: Process) -> object:
        """Bytes read and written; a kernel that does not count them lets the process have its time."""
        try:
            counted = Path(f"/proc/{process.handle.pid}/io").read_text()
        except OSError:
            return object()
        return counted.partition("syscr")[0]  # not of calls: at the end of a file they read nothing


class MediaProcesses:
    """Media processes: as many as are asked at once, and none for long when idle."""

    def __init__(self, stall_seconds: float | None = None) -> None:
        self._stall_seconds = stall_seconds
        self._idle: dict[Child, asyncio.TimerHandle] = {}
        self._leaving: set[asyncio.Task[None]] = set()

    async def look(self, job: Job) -> Plan:
        """The plan of a job. Raises InputError, ConfigError, WorkerLostError."""
        return plan_of(await self._ask(Look(job)))

    async def join(self, plan: Plan, hidden: HeldFile) -> None:
        """Put a plan's pieces together in an empty file. Raises InputError, OutputError, ResourceError."""
        await self._ask(Join(plan, hidden))

    async def check(self, settings: Sequence[VideoSettings]) -> list[str | None]:
        """For each of these settings why no film can be encoded with it, if so. Raises WorkerLostError."""
        problems: list[str | None] = await self._ask(Check(tuple(settings)))
        return problems

    async def stop(self) -> None:
        while self._idle:
            self._retire(next(iter(self._idle)))
        if self._leaving:
            await asyncio.wait(self._leaving)

    async def _ask(self, request: Request) -> Any:
        child = self._taken()
        try:
            return await child.ask(dump_request(request), _no_progress)
        finally:
            if child.pid is not None:
                loop = asyncio.get_running_loop()
                self._idle[child] = loop.call_later(IDLE_SECONDS, self._retire, child)

    def _taken(self) -> Child:
        if not self._idle:
            return MediaProcess(self._stall_seconds)
        child, retiring = self._idle.popitem()
        retiring.cancel()
        return child

    def _retire(self, child: Child) -> None:
        self._idle.pop(child).cancel()
        leaving = asyncio.create_task(child.stop())
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)


def _no_progress(frames: int) -> None:
    pass
