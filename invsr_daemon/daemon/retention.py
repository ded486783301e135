"""Forgetting jobs that ended long ago: their logs, their pieces, and in the end that there were any."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from .. import logs
from ..errors import ResourceError
from ..jobs.clock import trusted_time
from ..jobs.workfolders import clear_subfolder, subfolder_of
from ..store.rows import JobRow
from ..store.store import Store
from .gate import FolderGuard, Gate
from .ledger import Ledger
from .reload import LiveSettings
from .tidying import still_the_same

PRUNE_SECONDS = 6 * 3600.0
WAIT_SECONDS = 1.0
BATCH = 500  # jobs that are looked at together


class Retention:
    """Forgets jobs that ended before `keep_days`, now and again."""

    def __init__(
        self, state_dir: Path, settings: LiveSettings, ledger: Ledger, gate: Gate, guard: FolderGuard
    ) -> None:
        self._state_dir = state_dir
        self._settings = settings
        self._ledger = ledger
        self._gate = gate
        self._guard = guard

    async def run(self) -> None:
        """For ever; but not while work is held: files that cannot be seen only seem to be gone.

        Nor while the clock is doubted: see `jobs.clock`.
        """
        while True:
            while self._gate.held:
                await asyncio.sleep(WAIT_SECONDS)
            now = await asyncio.to_thread(trusted_time, self._state_dir, time.time())
            if now is not None:
                with suppress(ResourceError):  # busy or full: another day
                    await self.forget_before(now - self._settings.now.keep_seconds)
            await asyncio.sleep(PRUNE_SECONDS)

    async def forget_before(self, then: float) -> None:
        """Forget jobs that ended before a time. Raises ResourceError."""
        seen = 0
        while rows := await self._ledger.call(
            partial(Store.ended_before, then=then, after=seen, limit=BATCH)
        ):
            seen = rows[-1].id
            gone = await asyncio.to_thread(forget_files, self._state_dir, rows)
            if await asyncio.to_thread(self._guard.missing):
                return  # perhaps files only seemed to be gone
            await self._ledger.call(partial(Store.forget, jobs=gone))


def forget_files(state_dir: Path, rows: Sequence[JobRow]) -> list[int]:
    """Remove what is kept of these jobs; the ids of those whose record may go, too.

    A file that still lies in the inbox needs its record: it would be taken for a new one. Another file under
    its name does not.
    """
    for row in rows:
        clear_subfolder(state_dir, subfolder_of(row.id))
        logs.remove(state_dir, row.id)
    return [row.id for row in rows if not still_the_same(row)]
