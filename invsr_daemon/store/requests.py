"""What commands request of the daemon by way of the store: cancel, retry, pause, resume."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .moving import move
from .reading import Reading
from .rows import ENDED, TRIED_IN_VAIN, State
from .sqlite import StoreError, atomic, explaining_database

ON_REQUEST = "on request"


class Requests(Reading):
    """One connection to the file, for questions and requests. The daemon may run meanwhile, or not.

    Each request is one transaction, on disk when it returns. It may raise ResourceError or DiskFullError.
    """

    def request_cancel(self, job: int, now: float) -> State:
        """Cancel a queued job at once; tell the daemon to cancel a running one. The state it has now.

        Raises StoreError if the job has ended, or there is none.
        """
        with self._transaction():
            state = self.job(job).state
            if state in ENDED:
                raise StoreError(f"job {job} is {state} already")
            if state == "running":
                self._db.execute("UPDATE jobs SET cancel_wanted = 1 WHERE id = ?", (job,))
                return state
            move(self._db, job, "queued", "cancelled", now, ON_REQUEST)
            return "cancelled"

    def retry(self, job: int, now: float) -> None:
        """failed or cancelled → queued, with all attempts ahead again. Raises StoreError for other states."""
        with self._transaction():
            state = self.job(job).state
            if state not in TRIED_IN_VAIN:
                raise StoreError(f"job {job} is {state}: only failed and cancelled jobs can be tried again")
            self._again(job, state, now)

    def retry_failed(self, now: float) -> int:
        """`retry` every failed job; how many there were."""
        with self._transaction():
            failed = self._rows("SELECT id FROM jobs WHERE state = 'failed' ORDER BY id")
            for row in failed:
                self._again(row["id"], "failed", now)
        return len(failed)

    def pause(self, now: float) -> None:
        """Let no job be claimed any more."""
        with self._transaction():
            self._db.execute("INSERT INTO pause (id, since) VALUES (1, ?) ON CONFLICT DO NOTHING", (now,))

    def resume(self) -> bool:
        """Undo `pause`; whether there was one."""
        with self._transaction():
            return self._db.execute("DELETE FROM pause").rowcount > 0

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with explaining_database(self._path), atomic(self._db):
            yield

    def _again(self, job: int, before: State, now: float) -> None:
        self._db.execute("UPDATE attempts SET counted = 0 WHERE job = ?", (job,))
        move(self._db, job, before, "queued", now, ON_REQUEST)
