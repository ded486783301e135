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
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn, TypeVar

from . import __version__, logs
from .config import Settings, examined
from .devices import choose_devices
from .inbox import Arrival, Inbox, Watching
from .intake import Intake, manners, owner_problem, room_of, runner_job, thaw
from .logs import counted
from .model import hub
from .notify import Notifier
from .outbox import obstacle
from .places import Places
from .plans import Plan, frames_of
from .pool import MediaProcesses, Pool
from .records import (
    ConfigError,
    DiskFullError,
    InvsrError,
    ModelError,
    ResourceError,
    Task,
    VideoSettings,
    VideoTask,
    WorkersLostError,
)
from .retention import forgettable
from .runner import Interrupted, Result, clear_room, outliving, run_job
from .status import Status, only_daemon
from .store import REPLACED, STORE_FILE, JobRow, Kind, State, Store, retry_delay
from .tidying import GONE, still_the_same, tidied

log = logging.getLogger(__name__)

T = TypeVar("T")
TICK_SECONDS = 0.5
STATUS_SECONDS = 2.0
LANE_SECONDS = 1.0
PAUSE_SECONDS = 10.0  # before something is tried again that the disk did not let us do
RATE_SECONDS = 60.0
EXTENSION_SECONDS = 30.0
KILL_SECONDS = 2.0
CHECK_SECONDS = 120.0  # for encoders to be tried; a broken driver may hang
PRUNE_SECONDS = 6 * 3600.0
DAY = 86_400.0
STARTING = "starting"
THREADS = 16  # on call: results that are synced to a slow disk must not keep everything else waiting


@dataclass(frozen=True)
class Folders:
    """Where a daemon's files come from, go to, and are kept; absolute."""

    inbox: Path
    outbox: Path
    state: Path

    @classmethod
    def of(cls, settings: Settings) -> Folders:
        """Raises ConfigError if one is missing, or they lie in each other where they must not."""
        if settings.inbox is None or settings.outbox is None:
            missing = [name for name in ("inbox", "outbox") if getattr(settings, name) is None]
            needed = (f"{name}: a folder is needed (in config.yaml, or --{name} DIR)" for name in missing)
            raise ConfigError("; ".join(needed))
        found = cls(settings.inbox.resolve(), settings.outbox.resolve(), settings.state_dir.resolve())
        others = {found.outbox: "outbox", found.state: "state_dir", **settings.put_away()}
        for folder, name in others.items():
            if found.inbox.is_relative_to(folder.resolve()):
                raise ConfigError(f"inbox: {found.inbox} must not lie in {name}, {folder}")
        return found


def check_names(settings: Settings) -> None:
    """Raise ModelError or, for an owner, ConfigError at once: no job of its preset could be done with it."""
    for each in settings.variants().values():
        hub.require(each.model, each.models_dir)
        manners(each)


def _wrong_names(settings: Settings) -> Iterator[str]:
    """The same, all of it; what presets inherit once."""
    told = set()
    for prefix, each in settings.variants().items():
        for name, problem in (("model", _model_problem(each)), ("", owner_problem(each))):
            if problem and problem not in told:
                told.add(problem)
                yield f"{prefix}{name}{': ' if name else ''}{problem}"


def _model_problem(settings: Settings) -> str | None:
    try:
        hub.require(settings.model, settings.models_dir)
    except ModelError as error:
        return str(error)
    return None


async def check_encoders(settings: Settings, media: MediaProcesses) -> None:
    """Raise ConfigError for settings that every film of their preset would fail with."""
    if wrong := await _wrong_encoders(settings, media):
        raise ConfigError("; ".join(wrong))


async def _wrong_encoders(settings: Settings, media: MediaProcesses) -> list[str]:
    asked: dict[VideoSettings, str] = {}  # with the prefix of the first that asks for it: presets inherit
    for prefix, each in settings.variants().items():
        asked.setdefault(each.video_settings(), prefix)
    most = settings.limits.worker_deaths
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            found = await outliving("encoders", most, lambda: media.check(list(asked)))
    except TimeoutError:
        return [f"video: an encoder hangs: no answer within {CHECK_SECONDS:g} s"]
    except WorkersLostError as error:
        return [f"video: an encoder crashes: {error}"]
    return [f"{prefix}{problem}" for prefix, problem in zip(asked.values(), found, strict=True) if problem]


async def config_mistakes(path: Path) -> list[str]:
    """Everything that is wrong with a file of settings. Raises ConfigError if it cannot be read."""
    settings, mistakes = examined(path, {})
    found = [*map(str, mistakes), *_wrong_names(settings)]
    if settings.inbox and settings.outbox:
        try:
            Folders.of(settings)
        except ConfigError as error:
            found.append(str(error))
    media = MediaProcesses()
    try:
        return found + await _wrong_encoders(settings, media)
    finally:
        await media.stop()


def _watching(settings: Settings) -> Watching:
    """How the inbox is watched: without the folders that this program itself puts files into."""
    folders = Folders.of(settings)
    return Watching(
        root=folders.inbox,
        settle_seconds=settings.settle_seconds,
        rescan_seconds=settings.watch.rescan_seconds,
        polling={"auto": None, "always": True, "never": False}[settings.watch.polling],
        ignore=settings.watch.ignore,
        excluded=(folders.outbox, folders.state, *(each.absolute() for each in settings.put_away())),
    )


def _put_back(store: Store) -> None:
    """At a stop in haste: what runs is nobody's failure."""
    now = time.time()
    for row in store.jobs({"running"}):
        store.postpone(row.id, "the daemon stopped", None, now, counts=False)


class Records:
    """The store, on a thread of its own: a slow disk must not hold up the event loop."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, "store")
        self._store: Store | None = None

    async def open(self) -> None:
        """Raises StoreError, ResourceError."""
        self._store = await self._run(lambda: Store.open(self._path))

    async def close(self) -> None:
        await self.call(Store.close)
        self._thread.shutdown()

    async def call(self, question: Callable[[Store], T]) -> T:
        """What the store answers."""
        store = self._store
        assert store is not None
        return await self._run(lambda: question(store))

    def note(self, change: Callable[[Store], None]) -> None:
        """Write something down soon, in the order of calls; what is lost is found again by the next plan."""
        store = self._store
        assert store is not None
        self._thread.submit(change, store).add_done_callback(_complain)

    async def _run(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)


def _complain(done: object) -> None:
    error = done.exception()  # type: ignore[attr-defined] # a Future; its class is generic only in stubs
    if error is not None:
        log.warning("a step could not be written down: %s", error)


class _Progress:
    """Watches jobs for the records, the status line and the watchdog."""

    def __init__(self, row: JobRow, records: Records, rate: _Rate) -> None:
        self._row = row
        self._records = records
        self._rate = rate
        self._before = 0  # frames of an earlier run, of which the runner tells first

    def looked(self, plan: Plan) -> None:
        pass

    def planned(self, plan: Plan) -> None:
        frames = [frames_of(task) for task in plan.tasks]
        waiting = {_index(task) for task in plan.waiting()}
        self._before = plan.frames - sum(frames_of(task) for task in plan.waiting())
        whole = f"{counted(sum(frames), 'frame')} in {counted(len(frames), 'chunk')}"
        log.info("%s: %s, %d to do", self._row.relative, whole, len(waiting))
        now = time.time()
        self._records.note(lambda store: store.planned(self._row.id, plan.output, frames, waiting, now))

    def progress(self, plan: Plan, frames: int) -> None:
        self._rate.add(frames - self._before)
        self._before = 0

    def finished(self, plan: Plan, task: Task, device: str, seconds: float) -> None:
        now = time.time()
        self._records.note(
            lambda store: store.chunk_finished(self._row.id, _index(task), seconds, device, now)
        )

    def ended(self, plan: Plan) -> None:
        pass


def _index(task: Task) -> int:
    return task.chunk.index if isinstance(task, VideoTask) else 0


class _Rate:
    """Frames of the last minute, and when the last one came, or could not come."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()
        self.last = time.monotonic()

    def add(self, frames: int) -> None:
        self.last = time.monotonic()
        self._seen.append((self.last, frames))

    def none_due(self) -> None:
        """Nobody works, so none is missed."""
        self.last = time.monotonic()

    def per_second(self) -> float:
        now = time.monotonic()
        while self._seen and self._seen[0][0] < now - RATE_SECONDS:
            self._seen.popleft()
        return max(0, sum(frames for _, frames in self._seen)) / RATE_SECONDS


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
        self._rate = _Rate()
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
                _watching(self._settings), lambda arrival: reader.known(arrival.path, arrival.identity)
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
                async with Pool(devices, limits.cpu_threads, limits.stall_seconds) as pool:
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
            return await run_job(job, pool, _Progress(row, self._records, self._rate), self._stopping)

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

    async def _reload(self, media: MediaProcesses) -> None:
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
        excluded = set(_watching(self._settings).excluded)
        for folder in _watching(settings).excluded:
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
