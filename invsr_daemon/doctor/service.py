"""Checks of the daemon and its systemd service."""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Iterator
from pathlib import Path

from ..settings.settings import Settings
from ..store import status
from ..store.status import DaemonStatus
from ..systemd.service import NAME
from .findings import AS_SERVICE, Finding

SYSTEMD = Path("/run/systemd/system")


def check_daemon(settings: Settings) -> Iterator[Finding]:
    state_dir = settings.state_dir.absolute()
    if not status.is_running(state_dir):
        yield Finding("OK", "daemon", f"none is running on {state_dir}")
        return
    found = status.read(state_dir)
    if found is None:
        yield Finding("OK", "daemon", f"it has just been started on {state_dir}")
    elif found.held == "paused":
        yield Finding("WARN", "daemon", found.line(), f"{NAME} resume")
    elif found.held or found.problem:
        yield Finding("WARN", "daemon", found.line(), "see the findings above; it goes on by itself")
    else:
        yield Finding("OK", "daemon", f"process {found.pid}, {found.version}: {found.line()}")
    if found is not None:
        yield from _devices_set_aside(found)


def _devices_set_aside(found: DaemonStatus) -> Iterator[Finding]:
    mend = "the daemon tries it again by itself; `nvidia-smi` and the kernel's log (dmesg) may tell more"
    for device, reason in found.set_aside.items():
        yield Finding("WARN", "device", f"{device} is set aside: {reason}", mend)


def check_service() -> Iterator[Finding]:
    if not SYSTEMD.is_dir():
        yield Finding("OK", "service", "systemd does not run here")
        return
    unit = _unit()
    if unit["LoadState"] == "not-found":
        yield Finding("OK", "service", "not installed")
        return
    yield unit_state(unit)
    user = pwd.getpwuid(os.geteuid()).pw_name
    if unit["User"] not in ("", user):
        text = f"this command runs as {user}, the service as {unit['User']}: it may not be allowed the same"
        yield Finding("WARN", "user", text, AS_SERVICE.replace("USER", unit["User"]))


def _unit() -> dict[str, str]:
    wanted = ("LoadState", "ActiveState", "SubState", "NRestarts", "Result", "User")
    command = ["systemctl", "show", NAME, *(f"--property={name}" for name in wanted)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(line.split("=", 1) for line in shown.stdout.splitlines())


def unit_state(unit: dict[str, str]) -> Finding:
    """What systemd's properties of the unit mean."""
    text = f"{unit['ActiveState']} ({unit['SubState']}), restarted {unit['NRestarts']} times"
    journal = f"journalctl -u {NAME} -e says why"
    if unit["ActiveState"] == "failed":
        mend = f"{journal}; then systemctl restart {NAME}"
        return Finding("FAIL", "service", f"{text}: {unit['Result']}", mend)
    if unit["NRestarts"] != "0":
        return Finding("WARN", "service", text, journal)
    return Finding("OK", "service", text)
