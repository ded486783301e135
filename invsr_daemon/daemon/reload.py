"""Settings that are read again while the daemon runs."""

from __future__ import annotations

from ..settings.folders import Folders
from ..settings.settings import Settings
from .inbox.arrivals import Watching


def watching_of(settings: Settings) -> Watching:
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
