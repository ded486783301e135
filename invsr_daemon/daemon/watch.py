"""The loop that watches over a running daemon: requests, settings, folders, status, signs of life."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from contextlib import suppress
from pathlib import Path

from .. import __version__
from ..errors import ResourceError
from ..pool.protocol import Pool, told
from ..store.status import DaemonStatus
from ..store.store import Store
from ..systemd.notify import Notifier
from .gate import FolderGuard, Gate, Hold, HoldKind
from .inbox.inbox import Inbox
from .lanes import Lanes
from .ledger import Ledger
from .progress import Rate
from .reload import LiveSettings

log = logging.getLogger(__name__)

TICK_SECONDS = 0.5
STATUS_SECONDS = 2.0
MOST_TOLD = 20  # files that wait


class Announcer:
    """Tells how the daemon does: in the status file, in systemd's status line, and to its watchdog."""

    def __init__(self, state_dir: Path, notifier: Notifier, rate: Rate) -> None:
        self._state_dir = state_dir
        self._notifier = notifier
        self._rate = rate

    def tell(self, status: DaemonStatus, stall_seconds: float) -> None:
        """Tell this status. The watchdog hears nothing if devices work, but were silent too long.

        That is twice `stall_seconds`.
        """
        try:
            status.write(self._state_dir)
        except OSError as error:
            log.debug("the status cannot be written: %s", error)
        self._notifier.status(status.line())
        if not status.busy:
            self._rate.none_due()
        if time.monotonic() - self._rate.last < 2 * stall_seconds:
            self._notifier.watchdog()


class RequestReader:
    """Learns from the store what commands have requested."""

    def __init__(self, ledger: Ledger, gate: Gate, lanes: Lanes) -> None:
        self._ledger = ledger
        self._gate = gate
        self._lanes = lanes
        self._unread = True  # whether there may be requests that were not looked at

    async def read(self) -> None:
        """Raises ResourceError; where the disk fails halfway, the next call reads them."""
        self._unread = await self._ledger.call(Store.changed) or self._unread
        if not self._unread:
            return
        self._gate.pause(paused=await self._ledger.call(Store.paused_since) is not None)
        self._lanes.cancel(await self._ledger.call(Store.cancel_requests))
        self._unread = False
        self._lanes.wake()


class Watch:
    """Watches over the daemon's parts."""

    def __init__(
        self,
        settings: LiveSettings,
        ledger: Ledger,
        gate: Gate,
        guard: FolderGuard,
        lanes: Lanes,
        rate: Rate,
        announcer: Announcer,
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._gate = gate
        self._guard = guard
        self._lanes = lanes
        self._rate = rate
        self._announcer = announcer
        self._requests = RequestReader(ledger, gate, lanes)
        self._started = time.time()

    async def run(self, pool: Pool, inbox: Inbox, devices: tuple[str, ...], stopping: asyncio.Event) -> None:
        """Until stopped."""
        told = 0.0
        while not stopping.is_set():
            try:
                await self._requests.read()
                await self._settings.reload_if_requested(pool.media)
                await self._look_after(pool)
                if time.monotonic() - told >= STATUS_SECONDS:
                    await self.tell(pool, inbox, devices)
                    told = time.monotonic()
            except ResourceError as error:
                self._gate.block(Hold.after(error))
            if self._gate.held:
                pool.pause()
            else:
                pool.resume()
            with suppress(TimeoutError):
                async with asyncio.timeout(TICK_SECONDS):
                    await stopping.wait()

    async def _look_after(self, pool: Pool) -> None:
        """Pause while a folder lets no work begin, or no device is well; go on when that is over."""
        if hold := await asyncio.to_thread(self._guard.hold) or _hold_for_devices(pool):
            self._gate.block(hold)
        elif self._gate.reopen():
            self._lanes.wake()

    async def tell(self, pool: Pool, inbox: Inbox, devices: tuple[str, ...]) -> None:
        """Tell the status of this moment. Raises ResourceError."""
        counts = await self._ledger.call(Store.counts)
        held = self._gate.held
        status = DaemonStatus(
            pid=os.getpid(),
            version=__version__,
            started=self._started,
            devices=devices,
            busy=pool.busy,
            running=self._lanes.running,
            queued=counts["queued"],
            frames_per_second=self._rate.per_second(),
            watching=inbox.status.watching,
            held=None if held is None else held.reason,
            problem=inbox.status.problem,
            set_aside=dict(pool.set_aside),
            written=tuple(sorted(inbox.status.written)[:MOST_TOLD]),
        )
        self._announcer.tell(status, self._settings.now.limits.stall_seconds)


def _hold_for_devices(pool: Pool) -> Hold | None:
    """Why the devices let no work begin, if so."""
    if pool.size:
        return None
    return Hold(HoldKind.DEVICE, f"no device can be used: {told(pool.set_aside)}")
