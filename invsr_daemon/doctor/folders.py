"""Checks of the folders that are read and written."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError
from ..files.mounts import file_system_of, is_remote
from ..files.publishing import obstacle
from ..settings.folders import Folders
from ..settings.settings import Settings
from .findings import AS_SERVICE, Finding, size_text

POLLED = "for inboxes on NFS let settle_seconds be longer than attributes are cached (acregmax, 60 s)"


@dataclass(frozen=True)
class NamedFolder:
    """A folder of the daemon's, by the setting that names it. `needed`: it has to be written to."""

    name: str
    path: Path
    needed: bool = True


def named_folders(settings: Settings) -> list[NamedFolder]:
    """Every folder that the settings name, once."""
    found = {"state_dir": NamedFolder("state_dir", settings.state_dir.absolute())}
    if settings.inbox is not None:
        found["inbox"] = NamedFolder("inbox", settings.inbox.absolute(), _changes_inbox(settings))
    if settings.outbox is not None:
        found["outbox"] = NamedFolder("outbox", settings.outbox.absolute())
    return [*found.values(), *_put_away(settings)]


def _put_away(settings: Settings) -> list[NamedFolder]:
    return [NamedFolder(name, path.absolute()) for path, name in settings.put_away().items()]


def _changes_inbox(settings: Settings) -> bool:
    return any(
        each.failures.note or each.failures.move_to or each.originals.after != "keep"
        for each in settings.variants().values()
    )


def check_folders(settings: Settings) -> Iterator[Finding]:
    for folder in named_folders(settings):
        yield _finding(folder, polls(settings))
    if settings.inbox is None or settings.outbox is None:
        missing = "inbox" if settings.inbox is None else "outbox"
        yield Finding(
            "WARN", missing, "none is set, and the daemon needs one", f"set {missing}, or give -c FILE"
        )
        return
    try:
        Folders.of(settings)
    except ConfigError as error:
        yield Finding("FAIL", "folders", str(error), "choose folders that do not hold the inbox")


def _finding(folder: NamedFolder, polling: bool) -> Finding:
    """Whether a folder serves its purpose, and on which kind of file system it lies."""
    path, name = folder.path, folder.name
    there = existing(path)
    where = f"{path} ({file_system_of(there)})"
    if there != path and name == "inbox":
        return Finding("FAIL", name, f"{path} is not there: the daemon would wait for it", f"mkdir -p {path}")
    if (problem := _use_problem(there, folder.needed)) is not None:
        return Finding(
            "FAIL", name, problem, f"let the daemon's user in: its owner, mode or ACL; {AS_SERVICE}"
        )
    if name == "inbox" and polling:
        return Finding(
            "WARN", name, f"{where} is polled: no events, so files are found up to 10 s later", POLLED
        )
    if name == "state_dir" and is_remote(there):
        return Finding(
            "WARN", name, f"{where}: SQLite may lose jobs on such file systems", "use a local disk"
        )
    return Finding("OK", name, where if there == path else f"{where}: it will be made in {there}")


def _use_problem(folder: Path, needed: bool) -> str | None:
    """Why a folder cannot be read, or, if that is needed, written to."""
    try:
        os.listdir(folder)
        if needed:
            with trial(folder):
                pass
    except OSError as error:
        return f"{folder} cannot be used: {error.strerror}"
    return None


@contextmanager
def trial(folder: Path) -> Iterator[Path]:
    """A file in a folder, for a moment. Raises OSError if it cannot be made."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor-", suffix=".part") as file:
        yield Path(file.name)


def existing(path: Path) -> Path:
    """The path, or the innermost folder above it that is there."""
    return next(each for each in (path, *path.parents) if os.path.lexists(each))


def polls(settings: Settings) -> bool:
    """Whether the inbox is scanned, for want of events."""
    if settings.watch.polling == "auto" and settings.inbox is not None:
        return is_remote(existing(settings.inbox.absolute()))
    return settings.watch.polling == "always"


def check_moves(settings: Settings) -> Iterator[Finding]:
    """Whether putting an input away costs a copy."""
    if settings.inbox is None:
        return
    inbox = existing(settings.inbox.absolute()).stat().st_dev
    for folder in _put_away(settings):
        same = existing(folder.path).stat().st_dev == inbox
        text = "on the inbox's file system: moving is quick" if same else "on another one: moving copies"
        yield Finding("OK", folder.name, text)


def check_hard_links(settings: Settings) -> Iterator[Finding]:
    """A link gives a result its name only if nothing has it."""
    for outbox in _usable(settings, "outbox"):
        with trial(outbox) as file:
            link = file.with_suffix(".link.part")
            try:
                os.link(file, link)
            except OSError as error:
                text = f"not in {outbox} ({error.strerror}): results get their names by renaming"
                mend = "let nothing else make files with results' names there"
                yield Finding("WARN", "hard links", text, mend)
            else:
                link.unlink()
                yield Finding("OK", "hard links", f"possible in {outbox}")


def check_free_space(settings: Settings) -> Iterator[Finding]:
    least = settings.limits.min_free_space
    for name in ("state_dir", "outbox"):
        for folder in _usable(settings, name):
            if why := obstacle(folder, least):
                mend = "make room, or lower limits.min_free_space"
                yield Finding("FAIL", f"free space, {name}", f"{why}: the daemon would pause", mend)
            else:
                text = (
                    f"{size_text(shutil.disk_usage(folder).free)}; the daemon pauses below {size_text(least)}"
                )
                yield Finding("OK", f"free space, {name}", text)


def _usable(settings: Settings, name: str) -> Iterator[Path]:
    """A folder by its setting, or the one it will be made in; none if `check_folders` fails it."""
    for folder in named_folders(settings):
        there = existing(folder.path)
        if folder.name == name and _use_problem(there, needed=True) is None:
            yield there
