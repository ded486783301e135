"""Settings that are read again: what takes effect, and what needs a restart."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from invsr_daemon.daemon.reload import LiveSettings, needing_restart
from invsr_daemon.pool.media import MediaProcesses
from invsr_daemon.settings.settings import Settings
from invsr_daemon.systemd.notify import Notifier


def settings_in(folder: Path, **changes: Any) -> Settings:
    for name in ("inbox", "outbox", "state"):
        (folder / name).mkdir(exist_ok=True)
    base = {name: str(folder / name) for name in ("inbox", "outbox")}
    return Settings.model_validate({**base, "state_dir": str(folder / "state"), **changes})


def reloaded(before: Settings, after: Settings, *, requested: bool = True) -> Settings:
    async def work() -> Settings:
        live = LiveSettings(before, lambda: after, Notifier(None))
        if requested:
            live.request_reload()
        media = MediaProcesses()
        try:
            await live.reload_if_requested(media)
        finally:
            await media.stop()
        return live.now

    return asyncio.run(work())


def test_what_needs_a_restart_is_named(tmp_path: Path) -> None:
    before = settings_in(tmp_path)
    after = settings_in(tmp_path, workers=3, scale=2, limits={"stall_seconds": 7, "drain_seconds": 7})
    assert needing_restart(before, after) == ["workers", "limits.stall_seconds"]
    assert needing_restart(before, before) == []


@pytest.mark.slow
def test_without_a_request_nothing_is_read(tmp_path: Path) -> None:
    before = settings_in(tmp_path)
    assert reloaded(before, settings_in(tmp_path, scale=2), requested=False) is before


@pytest.mark.slow
def test_new_settings_hold_but_what_needs_a_restart_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = settings_in(tmp_path)
    now = reloaded(before, settings_in(tmp_path, workers=3, scale=2, limits={"drain_seconds": 7}))
    assert (now.scale, now.workers, now.limits.drain_seconds) == (2, before.workers, 7)
    assert "workers: changes need a restart" in caplog.messages


@pytest.mark.slow
@pytest.mark.logs_errors
def test_a_new_folder_in_the_inbox_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = settings_in(tmp_path)
    aside = {"move_to": str(tmp_path / "inbox" / "failed")}
    assert reloaded(before, settings_in(tmp_path, failures=aside)) is before
    assert "lies in the inbox: that needs a restart" in caplog.text
