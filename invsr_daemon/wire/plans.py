"""A job and the plan of its work, as they pass between the parent and a media process: lines of JSON.

Nothing here looks into a film or picture, so the parent need not load what does.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..files.folders import Place
from ..files.publishing import PublishPolicy
from ..records import Film, Identity, Layout, ModelSettings, Task, VideoTask
from ..settings.settings import Settings

# Lower ones come first.
Priority = tuple[int, ...]


@dataclass(frozen=True)
class Target:
    """Where a result goes. Without `suffix` the result's format decides it.

    `root`: the folder, this one or above, below which no link is followed. None: the path is trusted.
    """

    folder: Path
    stem: str
    suffix: str | None = None
    root: Path | None = None

    def path(self, suffix: str) -> Path:
        return self.folder / f"{self.stem}{self.suffix or suffix}"


@dataclass(frozen=True)
class Job:
    """One input and everything that decides its result. `source` is absolute and no symlink.

    `name` tells apart jobs that agree in all else: each has a result of its own. `priority`: lower ones get
    workers first. `subfolder` is a folder for all that is kept of the job, whatever its key becomes: see
    `workfolders.clear_subfolder`. `identity`: what the source was when it was accepted, if that is known.
    """

    source: Path
    target: Target
    settings: Settings
    model: ModelSettings
    name: str
    policy: PublishPolicy
    priority: Priority = ()
    subfolder: str = ""
    identity: Identity | None = None


@dataclass(frozen=True)
class Plan:
    """A job looked at: its work, in order, and where the pieces and the result go."""

    job: Job
    identity: Identity
    key: str
    work: Path
    output: Path
    frames: int
    tasks: tuple[Task, ...]
    film: Film | None
    layout: Layout | None
    notes: tuple[str, ...]

    @property
    def place(self) -> Place:
        """Where the result goes, and from where on links are not followed."""
        root = self.job.target.root or self.output.parent
        return Place(root, self.output.relative_to(root))

    def waiting(self) -> tuple[Task, ...]:
        """Tasks whose file is not there yet."""
        return tuple(task for task in self.tasks if not task.output.exists())


def frames_of(task: Task) -> int:
    """How many frames a task restores."""
    return len(task.chunk.pts) if isinstance(task, VideoTask) else 1
