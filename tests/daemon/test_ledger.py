"""The store on a thread: what must not be lost is written again and again."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from invsr_daemon.daemon import ledger as ledger_module
from invsr_daemon.daemon.gate import Gate, HoldKind
from invsr_daemon.daemon.ledger import Ledger
from invsr_daemon.errors import DiskFullError, ResourceError
from invsr_daemon.store.store import Store


def test_writing_goes_on_until_the_disk_allows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "PAUSE_SECONDS", 0.01)
    failures = [DiskFullError("full"), ResourceError("busy")]
    held: list[HoldKind] = []

    async def work() -> None:
        gate = Gate()

        def change(store: Store) -> str:
            if gate.held is not None:
                held.append(gate.held.kind)
            if failures:
                raise failures.pop(0)
            store.pause(1.0)
            return "written"

        ledger = Ledger(tmp_path / "store.sqlite", gate, asyncio.Event())
        await ledger.open()
        assert await ledger.write(change) == "written"
        assert await ledger.call(Store.paused_since) == 1.0
        await ledger.close()

    asyncio.run(work())
    assert held == [HoldKind.STARTING, HoldKind.DISK_FULL, HoldKind.STORE]


def test_a_stopping_daemon_does_not_wait_for_the_disk(tmp_path: Path) -> None:
    async def work() -> None:
        stopping = asyncio.Event()
        ledger = Ledger(tmp_path / "store.sqlite", Gate(), stopping)
        await ledger.open()

        def change(store: Store) -> None:
            raise DiskFullError("full")

        stopping.set()
        with pytest.raises(DiskFullError):
            await ledger.write(change)
        await ledger.close()

    asyncio.run(work())


def test_a_note_that_fails_is_told_and_costs_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        ledger = Ledger(tmp_path / "store.sqlite", Gate(), asyncio.Event())
        await ledger.open()

        def change(store: Store) -> None:
            raise ResourceError("busy")

        ledger.note(change)
        await ledger.close()

    asyncio.run(work())
    assert caplog.messages == ["a step could not be written down: busy"]
