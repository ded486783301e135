"""Two lanes of jobs, for pictures and for films: neither waits for the other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from .. import logs
from ..errors import InvsrError, ResourceError
from ..jobs.observing import Result
from ..jobs.runner import run_job
from ..pool.protocol import Pool
from ..store.rows import JobKind, JobRow
from ..store.store import REPLACED
from .gate import Gate
from .intake import runner_job
from .ledger import Ledger
from .outcomes import Outcomes
from .progress import JobProgress, Rate
from .reload import LiveSettings
from .shortages import Shortages
from .tidying import still_the_same

LANE_SECONDS = 1.0
KILL_SECONDS = 2.0


@dataclass(frozen=True)
class Attempts:
    """Begins attempts at jobs, each in a task of its own."""

    pool: Pool
    settings: LiveSettings
    ledger: Ledger
    rate: Rate
    stopping: asyncio.Event
    shortages: Shortages

    def begin(self, row: JobRow) -> asyncio.Task[Result]:
        """A request, or the end of the daemon, may cancel the task."""
        return asyncio.create_task(self._run(row))

    async def _run(self, row: JobRow) -> Result:
        with logs.of_job(row.id):
            job = await asyncio.to_thread(runner_job, row, self.settings.now)
            if not await asyncio.to_thread(still_the_same, row):
                raise InvsrError(REPLACED)
            await asyncio.to_thread(self.shortages.check, row.id)
            return await run_job(job, self.pool, JobProgress(row, self.ledger, self.rate), self.stopping)


class Lanes:
    """The jobs that run, of both kinds."""

    def __init__(self, ledger: Ledger, gate: Gate, outcomes: Outcomes, stopping: asyncio.Event) -> None:
        self._ledger = ledger
        self._gate = gate
        self._outcomes = outcomes
        self._stopping = stopping
        self._wake: dict[JobKind, asyncio.Event] = {"image": asyncio.Event(), "film": asyncio.Event()}
        self._jobs: dict[int, asyncio.Task[Result]] = {}

    @property
    def running(self) -> tuple[int, ...]:
        """The ids of jobs under way."""
        return tuple(self._jobs)

    def wake(self) -> None:
        """Let both lanes see at once whether there is something to do."""
        for event in self._wake.values():
            event.set()

    def start(self, group: asyncio.TaskGroup, attempts: Attempts, devices: int) -> list[asyncio.Task[None]]:
        """Both lanes, for so many devices. They end when the daemon stops and their jobs have ended."""
        return [
            group.create_task(self._keep_full("image", 2 * devices + 2, attempts, group)),
            group.create_task(self._keep_full("film", devices + 1, attempts, group)),
        ]

    def cancel(self, jobs: Iterable[int]) -> None:
        """Cancel those of these jobs that run and are not being cancelled yet."""
        for job in jobs:
            work = self._jobs.get(job)
            if work is not None and not work.cancelling():
                work.cancel()

    async def give_up(self) -> None:
        """Cancel what is still under way, and give its workers a moment to be killed."""
        left = list(self._jobs.values())
        for work in left:
            work.cancel()
        if left:
            await asyncio.wait(left, timeout=KILL_SECONDS)

    async def _keep_full(
        self, kind: JobKind, most: int, attempts: Attempts, group: asyncio.TaskGroup
    ) -> None:
        """Keep as many jobs of a kind running as there is room for; and one that is more urgent than all."""
        running: dict[asyncio.Task[None], int] = {}
        wake = self._wake[kind]
        while not self._stopping.is_set():
            wake.clear()
            while not self._gate.held and not self._stopping.is_set():
                above = max(running.values()) if len(running) >= most else None
                row = await self._claim(kind, above)
                if row is None:
                    break
                work = self._jobs[row.id] = attempts.begin(row)
                job = group.create_task(self._conclude(row, work))
                running[job] = row.priority
                job.add_done_callback(running.pop)
                job.add_done_callback(lambda _: wake.set())
            with suppress(TimeoutError):
                async with asyncio.timeout(LANE_SECONDS):  # a postponed job may have come due
                    await wake.wait()
        if running:
            await asyncio.wait(running)

    async def _claim(self, kind: JobKind, above: int | None) -> JobRow | None:
        with suppress(ResourceError):  # the daemon is stopping, and cannot write
            return await self._ledger.write(lambda store: store.claim(kind, time.time(), above))
        return None

    async def _conclude(self, row: JobRow, work: asyncio.Task[Result]) -> None:
        try:
            await self._outcomes.conclude(row, work)
        finally:
            if self._jobs.get(row.id) is work:  # on request it may have begun again by now
                del self._jobs[row.id]
