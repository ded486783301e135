"""Settings that are read again while the daemon runs."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import suppress

from ..errors import ConfigError, InvsrError
from ..pool.protocol import MediaReaders
from ..settings.folders import Folders
from ..settings.settings import Settings
from ..systemd.notify import Notifier
from .checks import require_encoders, require_names
from .inbox.arrivals import Watching
from .intake import Intake

log = logging.getLogger(__name__)

# What a running process cannot change.
FIXED = ("inbox", "outbox", "state_dir", "settle_seconds", "watch", "devices", "workers", "log")
FIXED_LIMITS = ("cpu_threads", "stall_seconds")
READ_SECONDS = 10.0  # for a file of some kB; one on a dead mount, or a FIFO, may never be read


class LiveSettings:
    """The settings of the moment. `reread` gives them as the file has them now."""

    def __init__(self, settings: Settings, reread: Callable[[], Settings], notifier: Notifier) -> None:
        self._now = settings
        self._reread = reread
        self._notifier = notifier
        self._requested = False
        self._intake = Intake(settings)

    @property
    def now(self) -> Settings:
        return self._now

    @property
    def intake(self) -> Intake:
        """What makes jobs of files under these settings."""
        return self._intake

    def request_reload(self) -> None:
        """Let the next `reload_if_requested` read the settings again."""
        self._requested = True

    async def reload_if_requested(self, media: MediaReaders) -> None:
        """Read the settings again, for new jobs. Wrong settings are logged and change nothing."""
        if not self._requested:
            return
        self._requested = False
        self._notifier.reloading()
        try:
            settings = await read_in_time(self._reread, READ_SECONDS)
            Folders.of(settings)
            require_names(settings)
            self._check_watched(settings)
            await require_encoders(settings, media)
        except InvsrError as error:
            log.error("the settings were not changed: %s", error)
        else:
            self._apply(settings)
        self._notifier.ready()

    def _check_watched(self, settings: Settings) -> None:
        """Raise ConfigError for a new folder in the inbox: only at the start it learns what it leaves out."""
        watched = watching_of(self._now)
        for folder in watching_of(settings).excluded:
            if folder not in watched.excluded and folder.resolve().is_relative_to(watched.root):
                raise ConfigError(f"{folder} lies in the inbox: that needs a restart")

    def _apply(self, settings: Settings) -> None:
        if changed := needing_restart(self._now, settings):
            log.warning("%s: changes need a restart", ", ".join(changed))
        kept = {name: getattr(self._now, name) for name in FIXED}
        was = {name: getattr(self._now.limits, name) for name in FIXED_LIMITS}
        kept["limits"] = settings.limits.model_copy(update=was)
        self._now = settings.model_copy(update=kept)
        self._intake = Intake(self._now)
        log.info("settings were read again: they hold for new jobs")


async def read_in_time(read: Callable[[], Settings], seconds: float) -> Settings:
    """Read settings on a thread that nobody waits for in the end.

    Raises what `read` raises; ConfigError if it takes too long.
    """
    loop = asyncio.get_running_loop()
    found: asyncio.Future[Settings] = loop.create_future()

    def tell(settings: Settings | None, error: BaseException | None) -> None:
        if found.done():  # too late
            return
        if error is not None:
            found.set_exception(error)
        elif settings is not None:
            found.set_result(settings)

    def work() -> None:
        settings, error = None, None
        try:
            settings = read()
        except Exception as raised:  # it is told where it was asked for
            error = raised
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(tell, settings, error)

    threading.Thread(target=work, name="settings", daemon=True).start()
    try:
        async with asyncio.timeout(seconds):
            return await found
    except TimeoutError as error:
        text = f"their file cannot be read within {seconds:g} s: is it a file, and its disk there?"
        raise ConfigError(text) from error


def needing_restart(old: Settings, new: Settings) -> list[str]:
    """The names of changed settings that only a restart brings into effect."""
    changed = [name for name in FIXED if getattr(new, name) != getattr(old, name)]
    limits = [name for name in FIXED_LIMITS if getattr(new.limits, name) != getattr(old.limits, name)]
    return changed + [f"limits.{name}" for name in limits]


def watching_of(settings: Settings) -> Watching:
    """How the inbox is watched: without the folders that this program itself puts files into.

    Raises ConfigError if the folders cannot be a daemon's.
    """
    folders = Folders.of(settings)
    return Watching(
        root=folders.inbox,
        settle_seconds=settings.settle_seconds,
        rescan_seconds=settings.watch.rescan_seconds,
        polling={"auto": None, "always": True, "never": False}[settings.watch.polling],
        ignore=settings.watch.ignore,
        excluded=(folders.outbox, folders.state, *(each.absolute() for each in settings.put_away())),
    )
