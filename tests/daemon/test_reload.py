"""Settings that are read again: what takes effect, and what needs a restart."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from invsr_daemon.daemon.reload import LiveSettings, needing_restart, read_in_time
from invsr_daemon.errors import ConfigError
from invsr_daemon.pool.media import MediaProcesses
from invsr_daemon.settings.reading import load
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


def test_a_file_that_cannot_be_read_in_time_blocks_nothing(tmp_path: Path) -> None:
    """A FIFO that nobody writes to, as a disk that is gone."""
    fifo = tmp_path / "config.yaml"
    os.mkfifo(fifo)

    async def read() -> int:
        turns = 0
        reading = asyncio.create_task(read_in_time(lambda: load(fifo, {}), 0.3))
        while not reading.done():
            turns += 1
            await asyncio.sleep(0.01)
        with pytest.raises(ConfigError, match=r"cannot be read within 0\.3 s"):
            await reading
        return turns

    assert asyncio.run(read()) > 5, "the loop went on"
    fifo.write_text("")  # ends the thread


def test_what_reading_raises_is_told(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("scale: many")
    with pytest.raises(ConfigError, match="scale"):
        asyncio.run(read_in_time(lambda: load(tmp_path / "config.yaml", {}), 10))


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
