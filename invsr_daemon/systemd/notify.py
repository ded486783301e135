"""What systemd is told: sd_notify's protocol, one datagram for each message.

Outside systemd, without $NOTIFY_SOCKET, every message goes nowhere.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass

log = logging.getLogger(__name__)

# Never wait for a service manager that does not read: the next message comes soon.
SEND_SECONDS = 1.0


@dataclass(frozen=True)
class Notifier:
    """Speaks to the service manager at `address`, a path or "@name" in the abstract namespace."""

    address: str | None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Notifier:
        return cls(environment.get("NOTIFY_SOCKET") or None)

    def ready(self) -> None:
        """Started, or reloaded: everything is in place."""
        self._send("READY=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        # A line break would begin another message.
        self._send("STATUS=" + " ".join(text.split()))

    def reloading(self) -> None:
        """The settings are being read again; `ready` ends it."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def watchdog(self) -> None:
        """There was progress, or there is nothing to do."""
        self._send("WATCHDOG=1")

    def extend_timeout(self, seconds: float) -> None:
        """Starting or stopping will take at most so long, counted from now, and longer if asked again."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1_000_000)}")

    def _send(self, message: str) -> None:
        if self.address is None:
            return
        address = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
            connection.settimeout(SEND_SECONDS)
            try:
                connection.sendto(message.encode(), address)
            except OSError as error:
                log.warning("systemd cannot be told %s: %s", message.partition("\n")[0], error)
