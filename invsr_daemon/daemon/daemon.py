"""`invsr-daemon run`: files that arrive become jobs, jobs become results, until it is told to stop.

The store is the truth about jobs; this process may be killed at any moment and goes on from there.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import NoReturn, TypeVar

from .. import __version__, logs
from ..errors import ConfigError, DiskFullError, Interrupted, InvsrError, ResourceError
from ..files.places import Places
from ..files.publishing import obstacle
from ..jobs.observing import Result
from ..jobs.runner import run_job
from ..jobs.workfolders import clear_room, room_of
from ..logs import counted
from ..pool.devices import choose_devices
from ..pool.local import LocalPool
from ..pool.protocol import MediaReaders, Pool
from ..settings.folders import Folders
from ..settings.settings import Settings
from ..store.rows import JobRow, Kind, State
from ..store.status import Status, only_daemon
from ..store.store import REPLACED, STORE_FILE, Store, retry_delay
from ..systemd.notify import Notifier
from .checks import check_encoders, check_names
from .inbox.arrivals import Arrival
from .inbox.inbox import Inbox
from .intake import Intake, runner_job, thaw
from .ledger import Records
from .progress import Progress, Rate
from .reload import watching_of
from .retention import forgettable
from .tidying import GONE, still_the_same, tidied

T = TypeVar("T")

log = logging.getLogger(__name__)

TICK_SECONDS = 0.5
STATUS_SECONDS = 2.0
LANE_SECONDS = 1.0
PAUSE_SECONDS = 10.0  # before something is tried again that the disk did not let us do
EXTENSION_SECONDS = 30.0
KILL_SECONDS = 2.0
PRUNE_SECONDS = 6 * 3600.0
DAY = 86_400.0
STARTING = "starting"
THREADS = 16  # on call: results that are synced to a slow disk must not keep everything else waiting


def _put_back(store: Store) -> None:
    """At a stop in haste: what runs is nobody's failure."""
    now = time.time()
    for row in store.jobs({"running"}):
        store.postpone(row.id, "the daemon stopped", None, now, counts=False)


class Daemon:
    """One run of the daemon. `reread` gives the settings as the file has them now."""

    def __init__(self, settings: Settings, reread: Callable[[], Settings]) -> None:
        self._settings = settings
        self._reread = reread
        self._folders = Folders.of(settings)
        self._intake = Intake(settings)
        self._records = Records(self._folders.state / STORE_FILE)
        self._notifier = Notifier.from_environment()
        self._stopping = asyncio.Event()
        self._wake = {"image": asyncio.Event(), "film": asyncio.Event()}
        self._jobs: dict[int, asyncio.Task[Result]] = {}
        self._rate = Rate()
        self._started = time.time()
        self._on_request: float | None = None
        self._blocked: str | None = STARTING
        self._blocked_until = 0.0
        self._given_up = False
        self._reload_wanted = False
        self._unheard = True  # whether there may be wishes that were not looked at
        self._places = Places(self._folders.state)

    async def run(self) -> bool:
        """Until a signal has stopped it; whether that was in peace.

        Raises ConfigError, ModelError, StoreError if it cannot begin.
        """
        check_names(self._settings)
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(THREADS, "daemon"))
        everything = asyncio.current_task()
        assert everything is not None
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop, everything)
        loop.add_signal_handler(signal.SIGHUP, self._want_reload)
        with only_daemon(self._folders.state):
            await self._records.open()
            try:
                await self._work()
                return not self._given_up
            except asyncio.CancelledError:
                log.warning("stopped at once; what was under way is begun anew next time")
                with suppress(ResourceError):  # then the next start finds them running
                    await self._records.call(_put_back)
                return False
            finally:
                await self._records.close()

    async def _work(self) -> None:
        untidy = await self._recover()
        with Store.open(self._folders.state / STORE_FILE) as reader:
            inbox = Inbox(
                watching_of(self._settings), lambda arrival: reader.known(arrival.path, arrival.identity)
            )
            async with inbox, asyncio.TaskGroup() as group:
                arrivals = group.create_task(self._accept(inbox))
                self._notifier.ready()
                log.info("watching %s", self._folders.inbox)
                group.create_task(self._tidy_all(untidy))
                devices = await asyncio.to_thread(
                    choose_devices, self._settings.devices, self._settings.workers
                )
                self._notifier.watchdog()  # trying encoders may take as long as finding devices
                limits = self._settings.limits
                async with LocalPool(devices, limits.cpu_threads, limits.stall_seconds) as pool:
                    await check_encoders(self._settings, pool.media)
                    pruning = group.create_task(self._prune())
                    await self._serve(pool, inbox, devices)
                pruning.cancel()
                arrivals.cancel()

    async def _recover(self) -> list[JobRow]:
        """Take up what was cut off; jobs that ended, but were not tidied up."""
        came_to = await self._records.call(lambda store: store.recover(self._attempts_for, time.time()))
        if any(came_to.values()):
            log.info("cut off earlier: %d jobs go on, %d failed", came_to["queued"], came_to["failed"])
        return await self._records.call(Store.untidy)

    def _attempts_for(self, row: JobRow) -> int:
        try:
            return thaw(row.settings, self._settings).failures.attempts
        except ConfigError:  # of another version: its attempt will say so
            return self._settings.failures.attempts

    async def _tidy_all(self, rows: list[JobRow]) -> None:
        for row in rows:
            if self._stopping.is_set():
                return
            with logs.of_job(row.id), suppress(ResourceError):  # then it is done at the next start
                await self._tidy(row.id)

    async def _prune(self) -> None:
        """Forget what ended long ago, now and again; not while files cannot be seen."""
        while True:
            while self._held():
                await asyncio.sleep(LANE_SECONDS)
            with suppress(ResourceError):  # busy or full: another day
                await self._forget_before(time.time() - self._settings.keep_days * DAY)
            await asyncio.sleep(PRUNE_SECONDS)

    async def _forget_before(self, then: float) -> None:
        seen = 0
        while rows := await self._records.call(partial(Store.ended_before, then=then, after=seen, limit=500)):
            seen = rows[-1].id
            gone = await asyncio.to_thread(forgettable, self._folders.state, rows)
            if await asyncio.to_thread(self._not_as_before):
                return  # perhaps files only seemed to be gone
            await self._records.call(partial(Store.forget, jobs=gone))

    async def _accept(self, inbox: Inbox) -> None:
        async for arrivals in inbox.arrivals():
            await self._take(arrivals)

    async def _take(self, arrivals: list[Arrival]) -> None:
        jobs = [self._intake.new_job(arrival) for arrival in arrivals]
        ids: list[int] = []
        with suppress(ResourceError):  # the daemon is stopping, and cannot write
            ids = await self._write(lambda store: store.accept(jobs, time.time()))
        if ids:
            log.info("%d accepted: %s%s", len(ids), jobs[0].relative, " ..." if len(jobs) > 1 else "")
            self._wake_all()

    async def _write(self, change: Callable[[Store], T]) -> T:
        """Write down what must not be lost: again and again, as long as the disk is full or busy."""
        while True:
            try:
                return await self._records.call(change)
            except ResourceError as error:
                if self._stopping.is_set():
                    raise  # what is not written down is found again at the next start
                self._block(str(error), PAUSE_SECONDS)
                await asyncio.sleep(PAUSE_SECONDS)

    # Work

    async def _serve(self, pool: Pool, inbox: Inbox, devices: tuple[str, ...]) -> None:
        """Both lanes until stopped, then whatever is still under way."""
        async with asyncio.TaskGroup() as group:
            lanes = [
                group.create_task(self._lane("image", 2 * len(devices) + 2, pool, group)),
                group.create_task(self._lane("film", len(devices) + 1, pool, group)),
            ]
            try:
                await self._watch_over(pool, inbox, devices)
                await self._drain(pool, lanes)
            finally:
                await self._give_up()

    async def _lane(self, kind: Kind, most: int, pool: Pool, group: asyncio.TaskGroup) -> None:
        """Keep as many jobs of a kind running as there is room for; and one that is more urgent than all."""
        running: dict[asyncio.Task[None], int] = {}
        wake = self._wake[kind]
        while not self._stopping.is_set():
            wake.clear()
            while not self._held() and not self._stopping.is_set():
                above = max(running.values()) if len(running) >= most else None
                row = await self._claimed(kind, above)
                if row is None:
                    break
                work = self._jobs[row.id] = asyncio.create_task(self._attempt(row, pool))
                job = group.create_task(self._conclude(row, work))
                running[job] = row.priority
                job.add_done_callback(running.pop)
                job.add_done_callback(lambda _: wake.set())
            with suppress(TimeoutError):
                async with asyncio.timeout(LANE_SECONDS):  # a postponed job may have come due
                    await wake.wait()
        if running:
            await asyncio.wait(running)

    async def _claimed(self, kind: Kind, above: int | None) -> JobRow | None:
        with suppress(ResourceError):  # the daemon is stopping, and cannot write
            return await self._write(lambda store: store.claim(kind, time.time(), above))
        return None

    async def _attempt(self, row: JobRow, pool: Pool) -> Result:
        """One attempt at a job. A wish, or the end of the daemon, may cancel it."""
        with logs.of_job(row.id):
            job = await asyncio.to_thread(runner_job, row, self._settings)
            if not await asyncio.to_thread(still_the_same, row):
                raise InvsrError(REPLACED)
            return await run_job(job, pool, Progress(row, self._records, self._rate), self._stopping)

    async def _conclude(self, row: JobRow, work: asyncio.Task[Result]) -> None:
        """What follows from how an attempt ends. Only the end of the daemon cancels this."""
        with logs.of_job(row.id):
            try:
                await asyncio.wait([work])
                if work.cancelled():
                    await self._cut_off(row)
                elif (error := work.exception()) is None:
                    await self._done(row, work.result())
                elif isinstance(error, InvsrError):
                    await self._went_wrong(row, error)
                else:
                    log.error("unexpected error", exc_info=error)
                    await self._fail(row, f"unexpected {type(error).__name__}: {error}")
            except ResourceError as error:
                log.warning("%s: its end could not be written down: %s", row.relative, error)
            finally:
                if self._jobs.get(row.id) is work:  # on request it may have begun again by now
                    del self._jobs[row.id]

    async def _done(self, row: JobRow, result: Result) -> None:
        note = "\n".join(result.notes) or None
        now = time.time()
        earlier = await self._write(
            lambda store: store.finish(row.id, result.output, result.frames, note, now)
        )
        for job in earlier:
            log.info("%s: job %d, which had failed, is cancelled: %s", row.relative, job, REPLACED)
            await asyncio.to_thread(clear_room, self._folders.state, room_of(job))
        seconds = now - (row.started or now)
        frames = counted(result.frames, "frame")
        log.info("%s -> %s (%s, %.1f s)", row.relative, result.output, frames, seconds)
        for lost in result.notes:
            log.info("%s: note: %s", row.relative, lost)
        await self._tidy(row.id)

    async def _went_wrong(self, row: JobRow, error: InvsrError) -> None:
        reason = str(error)
        if isinstance(error, Interrupted):
            await self._postpone(row, "the daemon stopped", None, counts=False)
        elif isinstance(error, DiskFullError):
            self._block(reason, PAUSE_SECONDS)
            await self._postpone(row, reason, PAUSE_SECONDS, counts=False)
        elif why := await asyncio.to_thread(self._not_as_before):
            self._block(why, PAUSE_SECONDS)
            await self._postpone(row, why, PAUSE_SECONDS, counts=False)
        elif not await asyncio.to_thread(still_the_same, row):
            reason = REPLACED if os.path.lexists(row.source) else GONE
            log.warning("%s: %s", row.relative, reason)
            await asyncio.to_thread(clear_room, self._folders.state, room_of(row.id))
            await self._write(lambda store: store.cancelled(row.id, time.time(), reason))
        elif error.retryable and row.attempts < self._attempts_for(row):
            delay = retry_delay(row.attempts)
            log.warning("%s: %s; again in %.0f s", row.relative, reason, delay)
            await self._postpone(row, reason, delay, counts=True)
        else:
            await self._fail(row, reason)

    async def _cut_off(self, row: JobRow) -> None:
        """Cancelled in the middle: by a command, or because the daemon has to go now."""
        if await self._postpone(row, "the daemon stopped", None, counts=False) == "cancelled":
            log.info("%s: cancelled", row.relative)

    async def _postpone(self, row: JobRow, reason: str, delay: float | None, *, counts: bool) -> State:
        now = time.time()
        later = None if delay is None else now + delay
        return await self._write(lambda store: store.postpone(row.id, reason, later, now, counts=counts))

    async def _fail(self, row: JobRow, reason: str) -> None:
        log.warning("%s failed: %s", row.relative, reason)
        await self._write(lambda store: store.fail(row.id, reason, time.time()))
        await self._tidy(row.id)

    async def _tidy(self, job: int) -> None:
        """What cannot be done now is tried again at the next start."""
        row = await self._write(lambda store: store.job(job))
        if row.state == "done":
            await asyncio.to_thread(clear_room, self._folders.state, room_of(row.id))
        problem = await asyncio.to_thread(tidied, row, self._settings)
        if problem is None:
            await self._write(lambda store: store.tidied(row.id))
        else:
            log.warning("%s: %s", row.relative, problem)

    # Watching over it all

    def _held(self) -> str | None:
        """Why no work may begin now, if so."""
        return "paused" if self._on_request is not None else self._blocked

    def _block(self, why: str, seconds: float = 0.0) -> None:
        """Let no work begin for so long, and until the folders bear it."""
        if self._blocked in (None, STARTING):
            log.warning("paused: %s", why)
        self._blocked = why
        self._blocked_until = time.monotonic() + seconds

    async def _watch_over(self, pool: Pool, inbox: Inbox, devices: tuple[str, ...]) -> None:
        """Wishes, disk space, status and signs of life, until stopped."""
        told = 0.0
        while not self._stopping.is_set():
            try:
                await self._hear_wishes()
                if self._reload_wanted:
                    await self._reload(pool.media)
                await self._guard_folders()
                if time.monotonic() - told >= STATUS_SECONDS:
                    await self._tell(pool, inbox, devices)
                    told = time.monotonic()
            except ResourceError as error:
                self._block(str(error), PAUSE_SECONDS)
            if self._held():
                pool.pause()
            else:
                pool.resume()
            with suppress(TimeoutError):
                async with asyncio.timeout(TICK_SECONDS):
                    await self._stopping.wait()

    async def _hear_wishes(self) -> None:
        """Where the disk fails halfway, the next turn hears them."""
        self._unheard = await self._records.call(Store.changed) or self._unheard
        if not self._unheard:
            return
        self._on_request = await self._records.call(Store.paused_since)
        for job in await self._records.call(Store.cancel_wishes):
            work = self._jobs.get(job)
            if work is not None and not work.cancelling():
                work.cancel()
        self._unheard = False
        self._wake_all()

    def _not_as_before(self) -> str | None:
        """Which of the folders is not there, or not mounted, if so."""
        if not self._folders.inbox.is_dir():
            return f"{self._folders.inbox} is not there"
        away = (folder.absolute() for folder in self._settings.put_away())
        folders = (self._folders.inbox, self._folders.outbox, *away)
        return next(filter(None, map(self._places.problem, folders)), None)

    async def _guard_folders(self) -> None:
        """Pause where a folder is gone, cannot be written to or is nearly full; go on when that is over."""
        if why := await asyncio.to_thread(self._not_as_before):
            self._block(why)
            return
        least = self._settings.limits.min_free_space
        for folder in (self._folders.state, self._folders.outbox):
            if why := await asyncio.to_thread(obstacle, folder, least):
                self._block(why)
                return
        if self._blocked is not None and time.monotonic() >= self._blocked_until:
            if self._blocked != STARTING:
                log.info("going on")
            self._blocked = None
            self._wake_all()

    async def _tell(self, pool: Pool, inbox: Inbox, devices: tuple[str, ...]) -> None:
        counts = await self._records.call(Store.counts)
        status = Status(
            pid=os.getpid(),
            version=__version__,
            started=self._started,
            devices=devices,
            busy=pool.busy,
            running=tuple(self._jobs),
            queued=counts["queued"],
            frames_per_second=self._rate.per_second(),
            watching=inbox.status.watching,
            held=self._held(),
            problem=inbox.status.problem,
        )
        try:
            status.write(self._folders.state)
        except OSError as error:
            log.debug("the status cannot be written: %s", error)
        self._notifier.status(status.line())
        if not pool.busy:
            self._rate.none_due()
        if time.monotonic() - self._rate.last < 2 * self._settings.limits.stall_seconds:
            self._notifier.watchdog()

    def _wake_all(self) -> None:
        for event in self._wake.values():
            event.set()

    # Signals

    def _stop(self, everything: asyncio.Task[None]) -> None:
        """First signal: finish the chunks under way. Second: now."""
        if self._stopping.is_set():
            everything.cancel()
            return
        log.info("stopping when the chunks under way are finished")
        self._notifier.stopping()
        self._stopping.set()
        self._wake_all()

    async def _drain(self, pool: Pool, lanes: list[asyncio.Task[None]]) -> None:
        """Let chunks under way finish, for so long as the settings allow."""
        pool.resume()  # whoever waits for a worker must learn that it is over
        deadline = time.monotonic() + self._settings.limits.drain_seconds
        waiting = set(lanes)
        while waiting and (left := deadline - time.monotonic()) > 0:
            self._notifier.extend_timeout(EXTENSION_SECONDS)
            _, waiting = await asyncio.wait(waiting, timeout=min(EXTENSION_SECONDS / 3, left))
        if self._jobs:
            self._given_up = True
            log.warning("chunks under way were given up after %g s", self._settings.limits.drain_seconds)

    async def _give_up(self) -> None:
        """Cancel what is still under way, and give its workers a moment to be killed."""
        left = list(self._jobs.values())
        for work in left:
            work.cancel()
        if left:
            await asyncio.wait(left, timeout=KILL_SECONDS)

    def _want_reload(self) -> None:
        self._reload_wanted = True

    async def _reload(self, media: MediaReaders) -> None:
        """Read the settings again: for new jobs. What a running process cannot change is named."""
        self._reload_wanted = False
        self._notifier.reloading()
        try:
            settings = self._reread()
            Folders.of(settings)
            check_names(settings)
            self._check_watched(settings)
            await check_encoders(settings, media)
        except InvsrError as error:
            log.error("the settings were not changed: %s", error)
        else:
            self._apply(settings)
        self._notifier.ready()

    def _check_watched(self, settings: Settings) -> None:
        """What is moved away must not come in again: the inbox was told at the start what is none of it."""
        excluded = set(watching_of(self._settings).excluded)
        for folder in watching_of(settings).excluded:
            if folder not in excluded and folder.resolve().is_relative_to(self._folders.inbox):
                raise ConfigError(f"{folder} lies in the inbox: that needs a restart")

    def _apply(self, settings: Settings) -> None:
        fixed = ("inbox", "outbox", "state_dir", "settle_seconds", "watch", "devices", "workers", "log")
        changed = [name for name in fixed if getattr(settings, name) != getattr(self._settings, name)]
        limits = ("cpu_threads", "stall_seconds")
        was = {name: getattr(self._settings.limits, name) for name in limits}
        changed += [f"limits.{name}" for name in limits if getattr(settings.limits, name) != was[name]]
        if changed:
            log.warning("%s: changes need a restart", ", ".join(changed))
        kept = {name: getattr(self._settings, name) for name in fixed}
        kept["limits"] = settings.limits.model_copy(update=was)
        self._settings = settings.model_copy(update=kept)
        self._intake = Intake(self._settings)
        log.info("settings were read again: they hold for new jobs")


def run_daemon(settings: Settings, reread: Callable[[], Settings]) -> None:
    """Run until stopped. Raises ConfigError, ModelError or StoreError if it cannot begin."""
    logs.set_up(settings.log.level, settings.log.format, settings.state_dir)
    asyncio.run(_run(Daemon(settings, reread)))


async def _run(daemon: Daemon) -> None:
    try:
        if not await daemon.run():
            _leave_now()
    except BaseExceptionGroup as group:
        if first := _expected(group):
            raise first from None
        raise


def _leave_now() -> NoReturn:
    """End without waiting for threads, which cannot be cancelled: one may be syncing a long film."""
    sys.stderr.flush()
    os._exit(0)


def _expected(error: BaseException) -> InvsrError | None:
    """The error to tell, if there is nothing but errors that people can do something about."""
    if isinstance(error, BaseExceptionGroup):
        found = [_expected(each) for each in error.exceptions]
        return found[0] if all(found) else None
    return error if isinstance(error, InvsrError) else None
