"""Why no work may begin, and when it may again."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from invsr_daemon.daemon.gate import PAUSED, STARTING, FolderGuard, Gate, Hold, HoldKind
from invsr_daemon.errors import DiskFullError, NoDeviceError, ProcessRefusedError, ResourceError
from invsr_daemon.settings.folders import Folders
from invsr_daemon.settings.settings import Settings

GONE = Hold(HoldKind.FOLDER, "the outbox is gone")


def held(gate: Gate) -> Hold | None:
    return gate.held


def test_it_is_closed_until_it_is_opened_and_says_nothing_of_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    gate = Gate()
    assert held(gate) == STARTING
    assert gate.reopen()
    assert held(gate) is None
    assert not gate.reopen(), "it was open"
    assert caplog.messages == []


def test_a_block_is_told_once_and_lifted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    gate = Gate()
    gate.block(GONE)
    gate.block(replace(GONE, reason="it is still gone"))
    assert held(gate) == replace(GONE, reason="it is still gone")
    assert gate.reopen()
    assert caplog.messages == ["paused: the outbox is gone", "going on"]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (DiskFullError("full"), HoldKind.DISK_FULL),
        (NoDeviceError("none is well"), HoldKind.DEVICE),
        (ProcessRefusedError("too many"), HoldKind.SYSTEM),
        (ResourceError("busy"), HoldKind.STORE),
    ],
)
def test_an_error_of_the_machine_says_what_is_held_for(error: ResourceError, kind: HoldKind) -> None:
    hold = Hold.after(error)
    assert (hold.kind, hold.reason) == (kind, str(error))
    assert hold.until > time.monotonic()


def test_a_block_lasts_at_least_its_time() -> None:
    gate = Gate()
    gate.block(replace(GONE, until=time.monotonic() + 60))
    assert not gate.reopen()
    gate.block(replace(GONE, until=time.monotonic() - 1))
    assert gate.reopen()


def test_a_pause_on_request_hides_a_block_and_outlives_it() -> None:
    gate = Gate()
    gate.block(GONE)
    gate.pause(paused=True)
    assert held(gate) == PAUSED
    assert gate.reopen()
    assert held(gate) == PAUSED
    gate.pause(paused=False)
    assert held(gate) is None


@pytest.mark.parametrize(
    ("error", "kind"),
    [(DiskFullError("full"), HoldKind.DISK_FULL), (ResourceError("busy"), HoldKind.STORE)],
)
def test_an_error_holds_for_a_while(error: ResourceError, kind: HoldKind) -> None:
    hold = Hold.after(error)
    assert (hold.kind, hold.reason) == (kind, str(error))
    assert hold.until > time.monotonic()


def settings_in(folder: Path, least: int = 0) -> Settings:
    return Settings.model_validate(
        {
            "inbox": str(folder / "inbox"),
            "outbox": str(folder / "outbox"),
            "state_dir": str(folder / "state"),
            "limits": {"min_free_space": least},
        }
    )


def test_the_guard_names_what_ails_the_folders_and_its_kind(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    for name in ("inbox", "outbox", "state"):
        (tmp_path / name).mkdir()
    guard = FolderGuard(Folders.of(settings), lambda: settings)
    assert guard.hold() is None
    settings = settings_in(tmp_path, 2**60)
    hold = guard.hold()
    assert hold is not None
    assert hold.kind == HoldKind.DISK_FULL
    (tmp_path / "outbox").rmdir()
    (tmp_path / "outbox").touch()
    settings = settings_in(tmp_path)
    assert guard.hold() == Hold(HoldKind.FOLDER, f"{tmp_path / 'outbox'} is not a folder")
    (tmp_path / "inbox").rmdir()
    assert guard.hold() == Hold(HoldKind.FOLDER, f"{tmp_path / 'inbox'} is not there")
