"""Plans of pictures that are never looked at: for whoever hands tasks out, or tells of them."""

from __future__ import annotations

from pathlib import Path

from invsr_daemon.files.publishing import PublishPolicy
from invsr_daemon.records import Identity, ImageInfo, ImageTask
from invsr_daemon.settings.settings import Settings
from invsr_daemon.wire.plans import Job, Plan, Target


def plan_of(work: Path, frames: int, finished: int = 0, *, worker_deaths: int = 3) -> Plan:
    """So many frames in as many chunks, of which the first few are finished."""
    settings = Settings.model_validate({"limits": {"worker_deaths": worker_deaths}})
    model = settings.model_settings(work)
    info = ImageInfo(work / "a.png", "PNG", 4, 4, 8)
    tasks = tuple(
        ImageTask(info, model, settings.image_settings(), work / f"{number}.png") for number in range(frames)
    )
    for task in tasks[:finished]:
        task.output.touch()
    job = Job(info.path, Target(work, "b"), settings, model, "", PublishPolicy())
    return Plan(
        job, Identity(1, 2, 3), "key", work, work / "b.png", frames, tasks, film=None, layout=None, notes=()
    )
