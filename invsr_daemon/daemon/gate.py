"""Whether work may begin, and why not."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from ..errors import DiskFullError, NoDeviceError, ProcessRefusedError, ResourceError
from ..files.publishing import obstacle, unwritable
from ..files.remembered_mounts import RememberedMounts
from ..settings.folders import Folders
from ..settings.settings import Settings

log = logging.getLogger(__name__)

PAUSE_SECONDS = 10.0  # before something is tried again that the disk did not let us do


class HoldKind(StrEnum):
    """What keeps work from beginning. A further kind needs no change of the gate."""

    STARTING = "starting"
    PAUSED = "paused"
    FOLDER = "folder"  # missing, not mounted, or not to be written to
    DISK_FULL = "disk full"
    STORE = "store"  # busy, or its disk fails
    DEVICE = "device"  # all are set aside
    SYSTEM = "system"  # it starts no process
    MODEL = "model"  # it was there, and is missing, damaged or exchanged now


@dataclass(frozen=True)
class Hold:
    """Why no work may begin. `until`: when it may be lifted at the earliest, on the monotonic clock."""

    kind: HoldKind
    reason: str
    until: float = 0.0

    @classmethod
    def for_a_while(cls, kind: HoldKind, reason: str) -> Hold:
        return cls(kind, reason, time.monotonic() + PAUSE_SECONDS)

    @classmethod
    def after(cls, error: ResourceError) -> Hold:
        """For a while, because of an error of the machine or the store."""
        kinds: dict[type[ResourceError], HoldKind] = {
            DiskFullError: HoldKind.DISK_FULL,
            NoDeviceError: HoldKind.DEVICE,
            ProcessRefusedError: HoldKind.SYSTEM,
        }
        return cls.for_a_while(kinds.get(type(error), HoldKind.STORE), str(error))


STARTING = Hold(HoldKind.STARTING, "starting")
PAUSED = Hold(HoldKind.PAUSED, "paused")


class Gate:
    """Lets work begin, or holds it. It is closed at first, until `reopen`."""

    def __init__(self) -> None:
        self._blocked: Hold | None = STARTING
        self._paused = False

    @property
    def held(self) -> Hold | None:
        """Why no work may begin now; None if it may. A pause on request hides everything else."""
        return PAUSED if self._paused else self._blocked

    def pause(self, *, paused: bool) -> None:
        """Hold work because a command requested it, or no longer."""
        self._paused = paused

    def block(self, hold: Hold) -> None:
        """Hold work until `reopen` is called when the hold's time is over."""
        if self._blocked in (None, STARTING):
            log.warning("paused: %s", hold.reason)
        self._blocked = hold

    def reopen(self) -> bool:
        """Lift what `block` did, unless it is too early; whether that was done just now."""
        if self._blocked is None or time.monotonic() < self._blocked.until:
            return False
        if self._blocked != STARTING:
            log.info("going on")
        self._blocked = None
        return True


class FolderGuard:
    """Looks at the daemon's folders: whether they are there, mounted, writable and not nearly full."""

    def __init__(self, folders: Folders, settings: Callable[[], Settings]) -> None:
        self._folders = folders
        self._settings = settings
        self._mounts = RememberedMounts(folders.state)

    def missing(self) -> str | None:
        """Which of the folders is not there, or not mounted, if so."""
        if not self._folders.inbox.is_dir():
            return f"{self._folders.inbox} is not there"
        away = (folder.absolute() for folder in self._settings().put_away())
        folders = (self._folders.inbox, self._folders.outbox, *away)
        return next(filter(None, map(self._mounts.problem, folders)), None)

    def hold(self) -> Hold | None:
        """Why the folders let no work begin, if so."""
        if why := self.missing():
            return Hold(HoldKind.FOLDER, why)
        least = self._settings().limits.min_free_space
        for folder in (self._folders.state, self._folders.outbox):
            if why := obstacle(folder, least):
                return Hold(_kind_of_obstacle(folder), why)
        return None


def _kind_of_obstacle(folder: Path) -> HoldKind:
    return HoldKind.DISK_FULL if unwritable(folder) is None else HoldKind.FOLDER
