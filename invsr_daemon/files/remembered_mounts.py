"""Folders that lie on other file systems: an unmounted one must not be taken for an empty one."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from .durable import sync_rename
from .mounts import mount_point_of

REMEMBERED_FILE = "places.json"  # in the state folder; older versions wrote it, too


class RememberedMounts:
    """Remembers, also over restarts, on which mount each folder lay."""

    def __init__(self, state_dir: Path) -> None:
        self._file = state_dir / REMEMBERED_FILE
        self._known: dict[str, str] = {}
        with suppress(FileNotFoundError, ValueError):  # of a disk that was full
            self._known = json.loads(self._file.read_text())

    def problem(self, folder: Path) -> str | None:
        """Why a folder is not the one it was, if so: what it lay on is not mounted."""
        try:
            return self._problem(folder)
        except OSError as error:
            return f"{folder} cannot be looked at: {error.strerror}"

    def _problem(self, folder: Path) -> str | None:
        now, before = mount_point_of(folder), self._known.get(str(folder))
        if before is not None and now != Path(before) and Path(before).is_relative_to(now):
            return f"{before} is not mounted (if that is meant to be so: remove {self._file})"
        if before != str(now) and folder.exists():
            self._remember(folder, now)
        return None

    def _remember(self, folder: Path, mount: Path) -> None:
        known = {**self._known, str(folder): str(mount)}
        partial = self._file.with_suffix(".partial")
        with suppress(OSError):  # the state folder's trouble, not this one's: it is remembered the next time
            partial.write_text(json.dumps(known))
            sync_rename(partial, self._file)
            self._known = known
