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
from .reach import source_of

IDLE_SECONDS = 10.0  # how long a media process is kept for the next file


class MediaProcess(Child):
    """A process that reads strangers' files.

    While it looks at one it tells of each new frame. While it joins pieces it does not say how far it is, but
    works by reading and writing. So that is looked at from here: at the end of a long film FFmpeg moves all
    of it, in one call.
    """

    def __init__(self, stall_seconds: float | None) -> None:
        super().__init__("the media process", "invsr_daemon.workers.media", (), stall_seconds)
        self._joins = False

    @property
    def silence(self) -> str:
        return "has read and written nothing" if self._joins else "has found nothing new"

    async def answer(self, request: Request, source: int | None = None) -> Any:
        """What it answers to a request, about the open file `source`. Raises as `ask` does."""
        self._joins = isinstance(request, Join)
        return await self.ask(dump_request(request), _no_progress, source)

    def _work_of(self, process: Process) -> object:
        """Bytes read and written by the process's own, one for each request.

        A kernel that does not count them lets the process have its time.
        """
        if not self._joins:
            return None
        pid = process.handle.pid
        try:
            apart = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            counted = [Path(f"/proc/{each}/io").read_text() for each in apart]
        except OSError:
            return object()
        return [
            each.partition("syscr")[0] for each in counted
        ]  # not calls: at a file's end they read nothing


class MediaProcesses:
    """Media processes: as many as are asked at once, and none for long when idle."""

    def __init__(self, stall_seconds: float | None = None, inbox: Path | None = None) -> None:
        self._inbox = inbox
        self._stall_seconds = stall_seconds
        self._idle: dict[MediaProcess, asyncio.TimerHandle] = {}
        self._leaving: set[asyncio.Task[None]] = set()

    async def look(self, job: Job) -> Plan:
        """The plan of a job. Raises InputError, ConfigError, WorkerLostError."""
        async with source_of(job.source, job.identity, self._inbox) as source:
            return plan_of(await self._ask(Look(job), source))

    async def join(self, plan: Plan, hidden: HeldFile) -> None:
        """Put a plan's pieces together in an empty file. Raises InputError, OutputError, ResourceError."""
        async with source_of(plan.job.source, plan.identity, self._inbox) as source:
            await self._ask(Join(plan, hidden), source)

    async def check(self, settings: Sequence[VideoSettings]) -> list[str | None]:
        """For each of these settings why no film can be encoded with it, if so. Raises WorkerLostError."""
        problems: list[str | None] = await self._ask(Check(tuple(settings)))
        return problems

    async def stop(self) -> None:
        while self._idle:
            self._retire(next(iter(self._idle)))
        if self._leaving:
            await asyncio.wait(self._leaving)

    async def _ask(self, request: Request, source: int | None = None) -> Any:
        child = self._taken()
        try:
            return await child.answer(request, source)
        finally:
            if child.pid is not None:
                loop = asyncio.get_running_loop()
                self._idle[child] = loop.call_later(IDLE_SECONDS, self._retire, child)

    def _taken(self) -> MediaProcess:
        if not self._idle:
            return MediaProcess(self._stall_seconds)
        child, retiring = self._idle.popitem()
        retiring.cancel()
        return child

    def _retire(self, child: MediaProcess) -> None:
        self._idle.pop(child).cancel()
        leaving = asyncio.create_task(child.stop())
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)


def _no_progress(frames: int) -> None:
    pass
