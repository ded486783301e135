"""`invsr-daemon run`: files that arrive become jobs, jobs become results, until it is told to stop.

The store is the truth about jobs; this process may be killed at any moment and goes on from there.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from .. import logs
from ..errors import InvsrError, ResourceError
from ..jobs.stopping import TwoSignals, leave_now
from ..jobs.workfolders import make_state_folder
from ..pool.devices import choose_devices
from ..pool.local import LocalPool
from ..pool.protocol import Pool
from ..pool.reach import Reach
from ..settings.folders import Folders
from ..settings.settings import Settings
from ..store.reading import Reading
from ..store.rows import JobRow
from ..store.status import only_daemon
from ..store.store import STORE_FILE, Store
from ..systemd.notify import Notifier
from .checks import require_encoders, require_names
from .gate import FolderGuard, Gate
from .inbox.arrivals import Arrival
from .inbox.claiming import only_watcher
from .inbox.inbox import Inbox
from .intake import attempts_for
from .lanes import Attempts, Lanes
from .ledger import Ledger
from .outcomes import STOPPED, Outcomes
from .progress import Rate
from .reload import LiveSettings, watching_of
from .retention import Retention
from .watch import Announcer, Watch

log = logging.getLogger(__name__)

EXTENSION_SECONDS = 30.0
THREADS = 16  # on call: results that are synced to a slow disk must not keep everything else waiting


class Daemon:
    """One run of the daemon: its parts, and how it begins and ends.

    `reread` gives the settings as the file has them now. Raises ConfigError if its folders cannot be.
    """

    def __init__(self, settings: Settings, reread: Callable[[], Settings]) -> None:
        self._folders = Folders.of(settings)
        self._store_file = self._folders.state / STORE_FILE
        self._signals = TwoSignals(self._begin_to_stop)
        self._stopping = self._signals.stopping
        self._notifier = Notifier.from_environment()
        self._settings = LiveSettings(settings, reread, self._notifier)
        self._gate = Gate()
        self._guard = FolderGuard(self._folders, lambda: self._settings.now)
        self._ledger = Ledger(self._store_file, self._gate, self._stopping)
        self._outcomes = Outcomes(self._folders, self._settings, self._ledger, self._gate, self._guard)
        self._lanes = Lanes(self._ledger, self._gate, self._outcomes, self._stopping)
        self._rate = Rate()
        self._given_up = False

    async def run(self) -> bool:
        """Until a signal has stopped it; whether that was in peace.

        Raises ConfigError, ModelError, StoreError if it cannot begin.
        """
        require_names(self._settings.now)
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(THREADS, "daemon"))
        self._signals.listen()
        loop.add_signal_handler(signal.SIGHUP, self._settings.request_reload)
        make_state_folder(self._folders.state)
        with only_daemon(self._folders.state), only_watcher(self._folders.inbox):
            await self._ledger.open()
            try:
                await self._work()
                return not self._given_up
            except asyncio.CancelledError:
                log.warning("stopped at once; what was under way is begun anew next time")
                with suppress(ResourceError):  # then the next start finds them running
                    await self._ledger.call(_put_back)
                return False
            finally:
                await self._ledger.close()

    async def _work(self) -> None:
        untidy = await self._recover()
        with Reading.open(self._store_file) as reading:
            inbox = Inbox(
                watching_of(self._settings.now),
                lambda arrival: reading.known(arrival.path, arrival.identity),
            )
            async with inbox, asyncio.TaskGroup() as group:
                arrivals = group.create_task(self._accept(inbox))
                self._notifier.ready()
                log.info("watching %s", self._folders.inbox)
                group.create_task(self._tidy_all(untidy))
                settings = self._settings.now
                devices = await asyncio.to_thread(choose_devices, settings.devices, settings.workers)
                self._notifier.watchdog()  # trying encoders may take as long as finding devices
                limits = settings.limits
                reach = Reach(settings.state_dir / "work", settings.inbox and settings.inbox.absolute())
                async with LocalPool(devices, limits.cpu_threads, reach, limits.stall_seconds) as pool:
                    await require_encoders(settings, pool.media)
                    pruning = group.create_task(self._retention().run())
                    tidying = group.create_task(self._outcomes.tidy_in_use())
                    await self._serve(pool, inbox, devices)
                for task in (pruning, tidying, arrivals):
                    task.cancel()

    async def _recover(self) -> list[JobRow]:
        """Take up what was cut off; the jobs that ended, but were not tidied up."""
        came_to = await self._ledger.call(
            lambda store: store.recover(lambda row: attempts_for(row, self._settings.now), time.time())
        )
        if any(came_to.values()):
            log.info("cut off earlier: %d jobs go on, %d failed", came_to["queued"], came_to["failed"])
        return await self._ledger.call(Store.untidy)

    async def _tidy_all(self, rows: list[JobRow]) -> None:
        for row in rows:
            if self._stopping.is_set():
                return
            with logs.of_job(row.id), suppress(ResourceError):  # then it is done at the next start
                await self._outcomes.tidy(row.id)

    def _retention(self) -> Retention:
        return Retention(self._folders.state, self._settings, self._ledger, self._gate, self._guard)

    async def _accept(self, inbox: Inbox) -> None:
        async for arrivals in inbox.arrivals():
            await self._take(arrivals)

    async def _take(self, arrivals: list[Arrival]) -> None:
        jobs = [self._settings.intake.new_job(arrival) for arrival in arrivals]
        ids: list[int] = []
        with suppress(ResourceError):  # the daemon is stopping, and cannot write
            ids = await self._ledger.write(lambda store: store.accept(jobs, time.time()))
            self._lanes.cancel(await self._ledger.call(Store.outdated))
        if ids:
            log.info("%d accepted: %s%s", len(ids), jobs[0].relative, " ..." if len(jobs) > 1 else "")
            self._lanes.wake()

    async def _serve(self, pool: Pool, inbox: Inbox, devices: tuple[str, ...]) -> None:
        """Both lanes until stopped, then whatever is still under way."""
        attempts = Attempts(
            pool, self._settings, self._ledger, self._rate, self._stopping, self._outcomes.shortages
        )
        async with asyncio.TaskGroup() as group:
            lanes = self._lanes.start(group, attempts, len(devices))
            try:
                await self._watch().run(pool, inbox, devices, self._stopping)
                await self._drain(pool, lanes)
            finally:
                await self._lanes.give_up()

    def _watch(self) -> Watch:
        announcer = Announcer(self._folders.state, self._notifier, self._rate)
        return Watch(
            self._settings, self._ledger, self._gate, self._guard, self._lanes, self._rate, announcer
        )

    def _begin_to_stop(self) -> None:
        log.info("stopping when the chunks under way are finished")
        self._notifier.stopping()
        self._lanes.wake()

    async def _drain(self, pool: Pool, lanes: list[asyncio.Task[None]]) -> None:
        """Let chunks under way finish, for so long as the settings allow."""
        pool.resume()  # whoever waits for a worker must learn that it is over
        drain_seconds = self._settings.now.limits.drain_seconds
        deadline = time.monotonic() + drain_seconds
        waiting = set(lanes)
        while waiting and (left := deadline - time.monotonic()) > 0:
            self._notifier.extend_timeout(EXTENSION_SECONDS)
            _, waiting = await asyncio.wait(waiting, timeout=min(EXTENSION_SECONDS / 3, left))
        if self._lanes.running:
            self._given_up = True
            log.warning("chunks under way were given up after %g s", drain_seconds)


def _put_back(store: Store) -> None:
    """Queue what runs, at a stop in haste: that is no fault of the jobs."""
    now = time.time()
    for row in store.jobs({"running"}):
        store.postpone(row.id, STOPPED, None, now, counts=False)


def run_daemon(settings: Settings, reread: Callable[[], Settings]) -> None:
    """Run until stopped. Raises ConfigError, ModelError or StoreError if it cannot begin."""
    logs.set_up(settings.log.level, settings.log.format, settings.state_dir)
    asyncio.run(_run(Daemon(settings, reread)))


async def _run(daemon: Daemon) -> None:
    try:
        if not await daemon.run():
            leave_now(0)
    except BaseExceptionGroup as group:
        if first := _expected(group):
            raise first from None
        raise


def _expected(error: BaseException) -> InvsrError | None:
    """The error to tell, if there is nothing but errors that people can do something about."""
    if isinstance(error, BaseExceptionGroup):
        found = [_expected(each) for each in error.exceptions]
        return found[0] if all(found) else None
    return error if isinstance(error, InvsrError) else None
