"""What follows from how an attempt ends, and what is forgotten in the end: real files, a real store."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from invsr_daemon import logs
from invsr_daemon.daemon.gate import FolderGuard, Gate, HoldKind
from invsr_daemon.daemon.ledger import Ledger
from invsr_daemon.daemon.outcomes import Outcomes
from invsr_daemon.daemon.reload import LiveSettings
from invsr_daemon.daemon.retention import Retention
from invsr_daemon.errors import (
    DeviceLostError,
    DiskFullError,
    InputError,
    Interrupted,
    InvsrError,
    ModelError,
    NoDeviceError,
    NoRoomError,
    ProcessRefusedError,
    ResourceError,
    UnreadableError,
    WorkersLostError,
)
from invsr_daemon.jobs.observing import Result
from invsr_daemon.jobs.workfolders import subfolder_of
from invsr_daemon.records import Identity
from invsr_daemon.settings.folders import Folders
from invsr_daemon.settings.settings import Settings
from invsr_daemon.store.rows import JobRow, NewJob
from invsr_daemon.store.store import Store
from invsr_daemon.systemd.notify import Notifier
from tests.support.identities import identity_at


@dataclass(frozen=True)
class Site:
    """A job of one file, claimed, and what concludes it; another job waits."""

    path: Path
    store: Store
    gate: Gate
    outcomes: Outcomes
    retention: Retention

    @property
    def source(self) -> Path:
        return self.path / "inbox" / "a.png"

    @property
    def state(self) -> Path:
        return self.path / "state"

    @property
    def job(self) -> JobRow:
        return self.store.job(1)

    async def end_with(self, error: InvsrError) -> None:
        """Have the attempt end so."""

        async def fail() -> Result:
            raise error

        await self.outcomes.conclude(self.job, asyncio.create_task(fail()))


@asynccontextmanager
async def claimed(path: Path, min_free_space: int = 0) -> AsyncIterator[Site]:
    for name in ("inbox", "outbox", "state"):
        (path / name).mkdir()
    source = path / "inbox" / "a.png"
    source.write_text("a picture")
    where = {name: str(path / name) for name in ("inbox", "outbox")}
    limits = {"min_free_space": min_free_space}
    settings = Settings.model_validate({**where, "state_dir": str(path / "state"), "limits": limits})
    live, gate = LiveSettings(settings, lambda: settings, Notifier(None)), Gate()
    folders = Folders.of(settings)
    guard = FolderGuard(folders, lambda: settings)
    ledger = Ledger(path / "state" / "jobs.sqlite", gate, asyncio.Event())
    await ledger.open()
    gate.reopen()
    try:
        with Store.open(path / "state" / "jobs.sqlite") as store:
            identity = identity_at(source)
            later = NewJob(path / "inbox/b.png", Path("b.png"), Identity(9, 9, 9), "image", None, -1, "{}")
            store.accept([NewJob(source, Path("a.png"), identity, "image", None, 0, "{}"), later], 1.0)
            assert store.claim("image", 2.0) is not None
            outcomes = Outcomes(folders, live, ledger, gate, guard)
            yield Site(path, store, gate, outcomes, Retention(path / "state", live, ledger, gate, guard))
    finally:
        await ledger.close()


@pytest.mark.parametrize(
    ("error", "state", "attempts", "held"),
    [
        (InputError("damaged"), "failed", 1, None),
        (WorkersLostError("3 processes died of it"), "failed", 1, None),
        (ResourceError("too little memory"), "queued", 1, None),
        (UnreadableError("this user may not read it"), "queued", 0, None),
        (DeviceLostError("cuda:0 fails"), "queued", 1, None),
        (Interrupted("stopped"), "queued", 0, None),
        (DiskFullError("the disk is full"), "queued", 0, None),
        (NoRoomError(Path("/out"), 2**40, 2**30), "queued", 0, None),
        (NoDeviceError("none is well"), "queued", 0, HoldKind.DEVICE),
        (ProcessRefusedError("too many processes"), "queued", 0, HoldKind.SYSTEM),
        (ModelError("the model is damaged"), "queued", 0, HoldKind.MODEL),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_who_is_to_blame_pays(
    tmp_path: Path, error: InvsrError, state: str, attempts: int, held: HoldKind | None
) -> None:
    """The file's own fault ends its job, what passes costs an attempt, the machine's fault costs none."""

    async def end() -> None:
        async with claimed(tmp_path) as site:
            await site.end_with(error)
            assert (site.job.state, site.job.attempts) == (state, attempts)
            assert site.job.reason in (str(error), "the daemon stopped")
            assert (site.gate.held.kind if site.gate.held else None) == held

    asyncio.run(end())


def test_a_full_disk_holds_all_work_only_if_little_is_free_for_any(tmp_path: Path) -> None:
    async def end() -> None:
        async with claimed(tmp_path, min_free_space=2**60) as site:
            await site.end_with(DiskFullError("the disk is full"))
            assert (site.job.state, site.job.attempts) == ("queued", 0)
            assert "less than limits.min_free_space" in (site.job.reason or "")
            assert site.gate.held is not None
            assert site.gate.held.kind == HoldKind.DISK_FULL

    asyncio.run(end())


def test_a_job_without_room_waits_longer_each_time(tmp_path: Path) -> None:
    async def end() -> list[float]:
        pauses = []
        async with claimed(tmp_path) as site:
            for _ in range(3):
                began = time.time()
                await site.end_with(DiskFullError("the disk is full"))
                assert site.job.not_before is not None
                pauses.append(site.job.not_before)
                assert site.store.claim("image", site.job.not_before, above=-1) is not None
                pauses[-1] = round((pauses[-1] - began) / 5)
        return pauses

    assert asyncio.run(end()) == [1, 2, 4]


def test_a_file_that_was_replaced_meanwhile_is_another_job(tmp_path: Path) -> None:
    async def end() -> None:
        async with claimed(tmp_path) as site:
            site.source.write_text("another picture")
            await site.end_with(InputError("it was changed while it was being restored"))
            assert site.job.state == "cancelled"

    asyncio.run(end())


def test_a_folder_that_is_gone_is_no_files_fault(tmp_path: Path) -> None:
    async def end() -> None:
        async with claimed(tmp_path) as site:
            (tmp_path / "inbox").rename(tmp_path / "away")
            await site.end_with(InputError("there is no such file"))
            assert (site.job.state, site.job.attempts) == ("queued", 0)
            assert site.gate.held is not None
            assert site.gate.held.kind == HoldKind.FOLDER

    asyncio.run(end())


def test_an_ended_job_is_forgotten_with_all_that_is_kept_of_it(tmp_path: Path) -> None:
    async def forget() -> None:
        async with claimed(tmp_path) as site:
            await site.end_with(InputError("damaged"))
            kept = site.state / "work" / subfolder_of(1) / "chunk"
            kept.parent.mkdir(parents=True)
            kept.touch()
            log = site.state / logs.LOG_FOLDER / "1.log"
            log.parent.mkdir()
            log.write_text("a line")
            await site.retention.forget_before(time.time() - 60)
            assert kept.exists(), "it ended after that"
            await site.retention.forget_before(time.time() + 60)
            assert not kept.parent.exists()
            assert not log.exists()
            assert site.job.state == "failed", "its file still lies in the inbox, and would be taken for new"
            site.source.unlink()
            await site.retention.forget_before(time.time() + 60)
            assert [row.id for row in site.store.jobs()] == [2]

    asyncio.run(forget())


def test_the_record_of_a_file_that_was_replaced_is_forgotten(tmp_path: Path) -> None:
    """As with a camera that always writes the same name."""

    async def forget() -> None:
        async with claimed(tmp_path) as site:
            await site.end_with(InputError("damaged"))
            site.source.write_text("the next picture")
            await site.retention.forget_before(time.time() + 60)
            assert [row.id for row in site.store.jobs()] == [2]

    asyncio.run(forget())


def test_nothing_is_forgotten_while_the_inbox_only_seems_empty(tmp_path: Path) -> None:
    async def forget() -> None:
        async with claimed(tmp_path) as site:
            await site.end_with(InputError("damaged"))
            (tmp_path / "inbox").rename(tmp_path / "away")
            await site.retention.forget_before(time.time() + 60)
            assert len(site.store.jobs()) == 2

    asyncio.run(forget())
