"""What settings leave to the machine is settled before a job is planned: it decides bits, and the key."""

from __future__ import annotations

from dataclasses import replace

from ..pool.protocol import Numerics
from ..wire.plans import Job


def settled(job: Job, numerics: Numerics) -> Job:
    """A job as this pool's workers compute it. Its pieces serve no pool that computes otherwise."""
    model, settings = job.model, job.settings
    if model.precision == "auto":
        model = replace(model, precision=numerics.precision)
    limits = settings.limits.model_copy(update={"cpu_threads": numerics.threads})
    return replace(job, model=model, settings=settings.model_copy(update={"limits": limits}))
