"""Both lanes and the reader of requests, on a real store; attempts are stand-ins that wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from invsr_daemon.daemon.gate import PAUSED, FolderGuard, Gate
from invsr_daemon.daemon.lanes import Attempts, Lanes
from invsr_daemon.daemon.ledger import Ledger
from invsr_daemon.daemon.outcomes import Outcomes
from invsr_daemon.daemon.progress import Rate
from invsr_daemon.daemon.reload import LiveSettings
from invsr_daemon.daemon.shortages import Shortages
from invsr_daemon.daemon.watch import RequestReader
from invsr_daemon.errors import Interrupted
from invsr_daemon.jobs.observing import Result
from invsr_daemon.pool.local import LocalPool
from invsr_daemon.pool.reach import Reach
from invsr_daemon.records import Identity
from invsr_daemon.settings.folders import Folders
from invsr_daemon.settings.settings import Settings
from invsr_daemon.store.rows import JobKind, JobRow, NewJob, State
from invsr_daemon.store.store import Store
from invsr_daemon.systemd.notify import Notifier


@dataclass(frozen=True)
class Waiting(Attempts):
    """Attempts that last until the daemon stops."""

    begun: list[int] = field(default_factory=list)

    def begin(self, row: JobRow) -> asyncio.Task[Result]:
        self.begun.append(row.id)
        return asyncio.create_task(self._wait())

    async def _wait(self) -> Result:
        await self.stopping.wait()
        raise Interrupted("stopped")


@dataclass(frozen=True)
class Working:
    """Lanes for one device, with what they need."""

    store: Store
    gate: Gate
    lanes: Lanes
    requests: RequestReader
    attempts: Waiting
    group: asyncio.TaskGroup

    def accept(self, count: int, kind: JobKind, priority: int = 0) -> None:
        known = sum(self.store.counts().values())
        jobs = [
            NewJob(Path(f"/in/{n}"), Path(str(n)), Identity(n, 5, 7), kind, None, priority, "{}")
            for n in range(known, known + count)
        ]
        self.store.accept(jobs, 1.0)
        self.lanes.wake()

    async def until_running(self, *jobs: int) -> None:
        async with asyncio.timeout(20):
            while set(self.lanes.running) != set(jobs):
                await asyncio.sleep(0.01)


@asynccontextmanager
async def working(path: Path) -> AsyncIterator[Working]:
    for name in ("inbox", "outbox", "state"):
        (path / name).mkdir()
    where = {name: str(path / name) for name in ("inbox", "outbox")}
    settings = Settings.model_validate({**where, "state_dir": str(path / "state")})
    live, stopping, gate = LiveSettings(settings, lambda: settings, Notifier(None)), asyncio.Event(), Gate()
    folders = Folders.of(settings)
    ledger = Ledger(path / "state" / "jobs.sqlite", gate, stopping)
    guard = FolderGuard(folders, lambda: settings)
    lanes = Lanes(ledger, gate, Outcomes(folders, live, ledger, gate, guard), stopping)
    pool = LocalPool(("cpu",), 0, Reach(path / "state/work"))
    attempts = Waiting(pool, live, ledger, Rate(), stopping, Shortages())
    await ledger.open()
    try:
        with Store.open(path / "state" / "jobs.sqlite") as store:
            async with asyncio.TaskGroup() as group:
                lanes.start(group, attempts, 1)
                yield Working(store, gate, lanes, RequestReader(ledger, gate, lanes), attempts, group)
                stopping.set()
                lanes.wake()
            assert lanes.running == ()
            assert store.counts()["running"] == 0
    finally:
        await ledger.close()


def test_each_lane_takes_what_it_has_room_for_and_one_that_is_urgent(tmp_path: Path) -> None:
    async def work() -> None:
        async with working(tmp_path) as here:
            here.accept(3, "film")
            here.accept(1, "image")
            await asyncio.sleep(0.05)
            assert here.attempts.begun == [], "the gate is closed"
            here.gate.reopen()
            here.lanes.wake()
            await here.until_running(1, 2, 4)
            here.accept(1, "film", priority=9)
            await here.until_running(1, 2, 4, 5)

    asyncio.run(work())


def test_requests_are_read_once_and_followed(tmp_path: Path) -> None:
    async def work() -> tuple[State, State]:
        async with working(tmp_path) as here:
            here.gate.reopen()
            here.accept(2, "film")
            await here.until_running(1, 2)
            here.store.pause(2.0)
            assert here.store.request_cancel(1, 2.0) == "running"
            await here.requests.read()
            assert here.gate.held == PAUSED
            await here.until_running(2)
            here.store.resume()
            await here.requests.read()
            assert here.gate.held != PAUSED
            return here.store.job(1).state, here.store.job(2).state

    assert asyncio.run(work()) == ("cancelled", "running")


def test_giving_up_puts_jobs_back(tmp_path: Path) -> None:
    async def work() -> State:
        async with working(tmp_path) as here:
            here.gate.reopen()
            here.accept(1, "film")
            await here.until_running(1)
            here.gate.pause(paused=True)
            await here.lanes.give_up()
            await here.until_running()
            return here.store.job(1).state

    assert asyncio.run(work()) == "queued"
