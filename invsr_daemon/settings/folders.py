"""The folders of a daemon."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError
from .settings import Settings


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
