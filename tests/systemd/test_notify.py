"""Messages to systemd, received by a real socket."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from invsr_daemon.systemd.notify import Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[socket.socket]:
    """A bound socket in place of systemd's, by path and in the abstract namespace."""
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.settimeout(5)
        bound.bind(path if request.param == "path" else "\0" + path)
        yield bound


@pytest.fixture
def notifier(manager: socket.socket) -> Notifier:
    name = manager.getsockname()
    address = name if isinstance(name, str) else "@" + name[1:].decode()
    return Notifier.from_environment({"NOTIFY_SOCKET": address})


def test_every_message_is_one_datagram(manager: socket.socket, notifier: Notifier) -> None:
    notifier.ready()
    notifier.status("2 running, 14 queued, 3.1 fps")
    notifier.watchdog()
    notifier.extend_timeout(12.5)
    notifier.stopping()
    received = [manager.recv(1000).decode() for _ in range(5)]
    assert received == [
        "READY=1",
        "STATUS=2 running, 14 queued, 3.1 fps",
        "WATCHDOG=1",
        "EXTEND_TIMEOUT_USEC=12500000",
        "STOPPING=1",
    ]


def test_reloading_says_when_by_the_monotonic_clock(manager: socket.socket, notifier: Notifier) -> None:
    before = time.monotonic_ns() // 1000
    notifier.reloading()
    match = re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=(\d+)", manager.recv(1000).decode())
    assert match
    assert before <= int(match[1]) <= time.monotonic_ns() // 1000


def test_a_status_cannot_smuggle_in_another_message(manager: socket.socket, notifier: Notifier) -> None:
    notifier.status("film.mp4\nMAINPID=1\n")
    assert manager.recv(1000) == b"STATUS=film.mp4 MAINPID=1"


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": ""}])
def test_without_systemd_nothing_is_sent(
    environment: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    Notifier.from_environment(environment).ready()
    assert not caplog.records


def test_a_manager_that_is_gone_is_only_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Notifier(str(tmp_path / "nobody")).watchdog()
    (record,) = caplog.records
    assert "WATCHDOG=1" in record.getMessage()


def test_a_manager_that_does_not_read_is_not_waited_for(
    notifier: Notifier, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("invsr_daemon.systemd.notify.SEND_SECONDS", 0.001)
    queue = int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text())
    for _ in range(queue + 2):
        notifier.watchdog()
    assert "timed out" in caplog.text
