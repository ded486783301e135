"""From a file in the inbox to a job in the store, and from there to the runner: settings frozen between."""

from __future__ import annotations

import grp
import json
import pwd
from collections.abc import Collection
from pathlib import Path

from .. import hub
from ..errors import ConfigError
from ..files.publishing import PublishPolicy
from ..jobs.workfolders import subfolder_of
from ..media.names import PICTURE_SUFFIXES
from ..settings.settings import Settings
from ..store.rows import JobKind, JobRow, NewJob
from ..wire.plans import Job, Target
from .inbox.arrivals import Arrival


class Intake:
    """Turns arrivals into new jobs under the settings of the moment."""

    def __init__(self, settings: Settings) -> None:
        self._frozen = {
            name: (each, freeze(each))
            for name in (None, *settings.presets)
            for each in [settings.for_preset(name)]
        }

    def new_job(self, arrival: Arrival) -> NewJob:
        """The job for a file: its preset is named by the folder of the inbox that it lies in."""
        preset = preset_of(arrival.relative, self._frozen)
        settings, frozen = self._frozen[preset]
        return NewJob(
            source=arrival.path,
            relative=arrival.relative,
            identity=arrival.identity,
            kind=_kind(arrival.path),
            preset=preset,
            priority=settings.priority,
            settings=frozen,
        )


def preset_of(relative: Path, presets: Collection[str | None]) -> str | None:
    """The preset that a path in the inbox belongs to, if its first folder is one's name."""
    first = relative.parts[0] if len(relative.parts) > 1 else None
    return first if first in presets else None


def freeze(settings: Settings) -> str:
    """What of the settings is a job's own, as text that gives the same whatever the defaults become."""
    return json.dumps(settings.of_the_job())


def thaw(text: str, now: Settings) -> Settings:
    """A job's own settings, with what is the daemon's of this moment: it may have moved.

    Raises ConfigError if this version no longer knows a setting.
    """
    try:
        return now.with_job(json.loads(text))
    except ValueError as error:
        raise ConfigError(f"its settings are of another version: {error}") from error


def _kind(path: Path) -> JobKind:
    """Only a guess, for what is worked on side by side; the content decides later."""
    return "image" if path.suffix.lower() in PICTURE_SUFFIXES else "film"


def attempts_for(row: JobRow, now: Settings) -> int:
    """How often a job may be tried."""
    try:
        return thaw(row.settings, now).failures.attempts
    except ConfigError:  # of another version: its attempt will say so
        return now.failures.attempts


def runner_job(row: JobRow, now: Settings) -> Job:
    """What the runner does for a job under the daemon's settings of now. Raises ConfigError, ModelError."""
    settings = thaw(row.settings, now)
    if settings.outbox is None:
        raise ConfigError("outbox: the folder for results is not set")
    model_dir = hub.require(settings.model, settings.models_dir)
    # A model may be given as a path: a slash would be taken for folders.
    names = {"stem": row.source.stem, "preset": row.preset or "", "model": model_dir.name}
    stem = settings.results.name.format(**names)
    outbox = settings.outbox.absolute()
    return Job(
        source=row.source,
        target=Target(outbox / row.relative.parent, stem, root=outbox),
        settings=settings,
        model=settings.model_settings(model_dir, hub.fingerprint(model_dir)),
        name=f"job {row.id}",
        policy=publish_policy(settings),
        priority=(-row.priority, 0 if row.kind == "image" else 1, row.id),
        subfolder=subfolder_of(row.id),
        identity=row.identity,
    )


def owner_problem(settings: Settings) -> str | None:
    """What is wrong with `results.owner`, if it is."""
    try:
        publish_policy(settings)
    except ConfigError as error:
        return str(error)
    return None


def publish_policy(settings: Settings) -> PublishPolicy:
    """How results are published. Raises ConfigError for an unknown owner."""
    results = settings.results
    mode = int(results.mode, 8) if results.mode else None
    return PublishPolicy(results.collision, mode, _owner(results.owner) if results.owner else None)


def _owner(text: str) -> tuple[int, int]:
    user, _, group = text.partition(":")
    try:
        uid = pwd.getpwnam(user).pw_uid if user else -1
    except KeyError as error:
        raise ConfigError(f"results.owner: there is no user {user!r} on this machine") from error
    try:
        gid = grp.getgrnam(group).gr_gid if group else -1
    except KeyError as error:
        raise ConfigError(f"results.owner: there is no group {group!r} on this machine") from error
    return uid, gid
