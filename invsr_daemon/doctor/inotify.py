"""Checks of the limits of inotify: whether the inbox can be watched."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ..settings.settings import Settings
from .findings import Finding
from .folders import polls

INOTIFY = Path("/proc/sys/fs/inotify")


def check_inotify(settings: Settings) -> Iterator[Finding]:
    """Watches and instances are counted per user."""
    if settings.inbox is None or polls(settings):
        return
    watches, instances = _limit("max_user_watches"), _limit("max_user_instances")
    inside = sum(1 for _ in os.walk(settings.inbox))
    used = _inotify_instances()
    text = f"the inbox needs {inside} of {watches} watches; {used} of {instances} instances are in use"
    if inside >= watches:
        yield Finding(
            "WARN", "inotify", f"{text}: the inbox would be polled", _raise("max_user_watches", inside)
        )
    elif used >= instances:
        yield Finding(
            "WARN", "inotify", f"{text}: the inbox would be polled", _raise("max_user_instances", used)
        )
    else:
        yield Finding("OK", "inotify", text)


def _limit(name: str) -> int:
    return int((INOTIFY / name).read_text())


def _raise(name: str, needed: int) -> str:
    return f"sysctl fs.inotify.{name}={max(2 * needed, 512)}, and the same line in /etc/sysctl.d/"


def _inotify_instances() -> int:
    """How many this user has, as far as can be seen."""
    return sum(map(_is_inotify, Path("/proc").glob("[0-9]*/fd/*")))


def _is_inotify(descriptor: Path) -> bool:
    try:
        return (
            os.readlink(descriptor) == "anon_inode:inotify"
            and descriptor.parent.stat().st_uid == os.geteuid()
        )
    except OSError:  # closed meanwhile, or another user's
        return False
