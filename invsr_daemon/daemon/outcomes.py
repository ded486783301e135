"""What follows from how an attempt at a job ends."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from contextlib import suppress

from .. import logs
from ..errors import (
    DiskFullError,
    Interrupted,
    InUseError,
    InvsrError,
    MachineError,
    ModelError,
    ResourceError,
    UnreadableError,
)
from ..jobs.observing import Result
from ..jobs.workfolders import clear_subfolder, subfolder_of
from ..logs import counted
from ..settings.folders import Folders
from ..store.rows import JobRow, State
from ..store.store import REPLACED, retry_delay
from .gate import PAUSE_SECONDS, FolderGuard, Gate, Hold, HoldKind
from .intake import attempts_for
from .ledger import Ledger
from .reload import LiveSettings
from .shortages import Shortages
from .tidying import GONE, still_the_same, tidy_up

log = logging.getLogger(__name__)

STOPPED = "the daemon stopped"
IN_USE_SECONDS = 5.0
RIGHTS_SECONDS = 60.0  # before a file is looked at again that this user may not read


class Outcomes:
    """Writes down how attempts ended, and does what follows from it."""

    def __init__(
        self, folders: Folders, settings: LiveSettings, ledger: Ledger, gate: Gate, guard: FolderGuard
    ) -> None:
        self._folders = folders
        self._settings = settings
        self._ledger = ledger
        self._gate = gate
        self._guard = guard
        self.shortages = Shortages()
        self._in_use: set[int] = set()

    async def conclude(self, row: JobRow, work: asyncio.Task[Result]) -> None:
        """Wait for the end of an attempt and see to the rest. Only the end of the daemon cancels this."""
        with logs.of_job(row.id):
            try:
                await asyncio.wait([work])
                await self._follow(row, work)
            except ResourceError as error:
                log.warning("%s: its end could not be written down: %s", row.relative, error)

    async def tidy(self, job: int) -> None:
        """Tidy up after an ended job. What cannot be done now is tried again at the next start.

        Raises ResourceError if the daemon stops before that is written down.
        """
        row = await self._ledger.write(lambda store: store.job(job))
        if row.state == "done":
            await self._clear_subfolder(job)
        try:
            problem = await asyncio.to_thread(tidy_up, row, self._settings.now)
        except InUseError as error:
            if job not in self._in_use:
                log.info("%s", error)
            self._in_use.add(job)
            return
        self._in_use.discard(job)
        if problem is None:
            await self._ledger.write(lambda store: store.mark_tidy(job))
        else:
            log.warning("%s: %s", row.relative, problem)

    async def tidy_in_use(self) -> None:
        """For ever, tidy up after jobs whose original someone was writing to at their end."""
        while True:
            await asyncio.sleep(IN_USE_SECONDS)
            for job in sorted(self._in_use):
                with logs.of_job(job), suppress(ResourceError):  # busy or full: the next time
                    await self.tidy(job)

    async def _follow(self, row: JobRow, work: asyncio.Task[Result]) -> None:
        error = None if work.cancelled() else work.exception()
        if not isinstance(error, DiskFullError):
            self.shortages.forget(row.id)
        if work.cancelled():
            await self._cut_off(row)
        elif error is None:
            await self._done(row, work.result())
        elif isinstance(error, InvsrError):
            await self._went_wrong(row, error)
        else:
            log.error("unexpected error", exc_info=error)
            await self._fail(row, f"unexpected {type(error).__name__}: {error}")

    async def _done(self, row: JobRow, result: Result) -> None:
        note = "\n".join(result.notes) or None
        now = time.time()
        earlier = await self._ledger.write(
            lambda store: store.finish(row.id, result.output, result.frames, note, now)
        )
        for job in earlier:
            log.info("%s: job %d, which had failed, is cancelled: %s", row.relative, job, REPLACED)
            await self._clear_subfolder(job)
        seconds = now - (row.started or now)
        frames = counted(result.frames, "frame")
        log.info("%s -> %s (%s, %.1f s)", row.relative, result.output, frames, seconds)
        for lost in result.notes:
            log.info("%s: note: %s", row.relative, lost)
        await self.tidy(row.id)

    async def _went_wrong(self, row: JobRow, error: InvsrError) -> None:
        reason = str(error)
        if isinstance(error, Interrupted):
            await self._postpone(row, STOPPED, None, counts=False)
        elif isinstance(error, UnreadableError):
            await self._wait_for_rights(row, reason)
        elif isinstance(error, DiskFullError):
            await self._wait_for_room(row, error)
        elif isinstance(error, MachineError):
            await self._hold(row, Hold.after(error))
        elif isinstance(error, ModelError):  # the daemon began with all its models whole
            await self._hold(row, Hold.for_a_while(HoldKind.MODEL, reason))
        elif why := await asyncio.to_thread(self._guard.missing):
            await self._hold(row, Hold.for_a_while(HoldKind.FOLDER, why))
        elif not await asyncio.to_thread(still_the_same, row):
            await self._give_up_replaced(row)
        elif error.retryable and row.attempts < attempts_for(row, self._settings.now):
            delay = retry_delay(row.attempts)
            log.warning("%s: %s; again in %.0f s", row.relative, reason, delay)
            await self._postpone(row, reason, delay, counts=True)
        else:
            await self._fail(row, reason)

    async def _wait_for_rights(self, row: JobRow, reason: str) -> None:
        """chmod tells nobody, so the file is looked at again and again."""
        if row.reason != reason:
            log.warning("%s waits: %s", row.relative, reason)
        await self._postpone(row, reason, RIGHTS_SECONDS, counts=False)

    async def _wait_for_room(self, row: JobRow, error: DiskFullError) -> None:
        """Others may need less, so only this job waits; unless hardly anything is free for any."""
        if hold := await asyncio.to_thread(self._guard.hold):
            await self._hold(row, Hold.for_a_while(hold.kind, hold.reason))
            return
        delay = self.shortages.put_off(row.id, error)
        log.warning("%s waits for room: %s; again in %.0f s", row.relative, error, delay)
        await self._postpone(row, str(error), delay, counts=False)

    async def _hold(self, row: JobRow, hold: Hold) -> None:
        """The fault is the machine's: no job begins for a while, and this one keeps its attempts."""
        self._gate.block(hold)
        await self._postpone(row, hold.reason, PAUSE_SECONDS, counts=False)

    async def _give_up_replaced(self, row: JobRow) -> None:
        reason = REPLACED if os.path.lexists(row.source) else GONE
        log.warning("%s: %s", row.relative, reason)
        await self._clear_subfolder(row.id)
        await self._ledger.write(lambda store: store.cancel(row.id, time.time(), reason))

    def _is_replaced(self, row: JobRow) -> bool:
        """Another file has its name. Of one that is gone the next attempt tells, if there is one."""
        return os.path.lexists(row.source) and self._guard.missing() is None and not still_the_same(row)

    async def _cut_off(self, row: JobRow) -> None:
        """A command cancelled the attempt, the file is another one by now, or the daemon has to go now."""
        if await asyncio.to_thread(self._is_replaced, row):
            await self._give_up_replaced(row)
        elif await self._postpone(row, STOPPED, None, counts=False) == "cancelled":
            log.info("%s: cancelled", row.relative)

    async def _postpone(self, row: JobRow, reason: str, delay: float | None, *, counts: bool) -> State:
        now = time.time()
        later = None if delay is None else now + delay
        return await self._ledger.write(
            lambda store: store.postpone(row.id, reason, later, now, counts=counts)
        )

    async def _fail(self, row: JobRow, reason: str) -> None:
        log.warning("%s failed: %s", row.relative, reason)
        await self._ledger.write(lambda store: store.fail(row.id, reason, time.time()))
        await self.tidy(row.id)

    async def _clear_subfolder(self, job: int) -> None:
        await asyncio.to_thread(clear_subfolder, self._folders.state, subfolder_of(job))
