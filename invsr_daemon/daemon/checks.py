"""What can be known to be wrong with the settings before any job begins."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

from .. import hub
from ..errors import ConfigError, ModelError, WorkersLostError
from ..pool.media import MediaProcesses
from ..pool.protocol import MediaReaders
from ..pool.retrying import outliving
from ..records import VideoSettings
from ..settings.folders import Folders
from ..settings.reading import examined
from ..settings.settings import Settings
from .intake import owner_problem, publish_policy

CHECK_SECONDS = 120.0  # for encoders to be tried; a broken driver may hang


def require_names(settings: Settings) -> None:
    """Raise ModelError or, for an owner, ConfigError at once: no job of its preset could be done with it."""
    for each in settings.variants().values():
        hub.require(each.model, each.models_dir)
        publish_policy(each)


def _wrong_names(settings: Settings) -> Iterator[str]:
    """The same, all of it; what presets inherit once."""
    told = set()
    for prefix, each in settings.variants().items():
        for name, problem in (("model", _model_problem(each)), ("", owner_problem(each))):
            if problem and problem not in told:
                told.add(problem)
                yield f"{prefix}{name}{': ' if name else ''}{problem}"


def _model_problem(settings: Settings) -> str | None:
    try:
        hub.require(settings.model, settings.models_dir)
    except ModelError as error:
        return str(error)
    return None


async def require_encoders(settings: Settings, media: MediaReaders) -> None:
    """Raise ConfigError for settings that every film of their preset would fail with."""
    if wrong := await _wrong_encoders(settings, media):
        raise ConfigError("; ".join(wrong))


async def _wrong_encoders(settings: Settings, media: MediaReaders) -> list[str]:
    asked: dict[VideoSettings, str] = {}  # with the prefix of the first that asks for it: presets inherit
    for prefix, each in settings.variants().items():
        asked.setdefault(each.video_settings(), prefix)
    most = settings.limits.worker_deaths
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            found = await outliving("encoders", most, lambda: media.check(list(asked)))
    except TimeoutError:
        return [f"video: an encoder hangs: no answer within {CHECK_SECONDS:g} s"]
    except WorkersLostError as error:
        return [f"video: an encoder crashes: {error}"]
    return [f"{prefix}{problem}" for prefix, problem in zip(asked.values(), found, strict=True) if problem]


async def config_mistakes(path: Path) -> list[str]:
    """Everything that is wrong with a file of settings. Raises ConfigError if it cannot be read."""
    settings, mistakes = examined(path, {})
    found = [*map(str, mistakes), *_wrong_names(settings)]
    if settings.inbox and settings.outbox:
        try:
            Folders.of(settings)
        except ConfigError as error:
            found.append(str(error))
    media = MediaProcesses()
    try:
        return found + await _wrong_encoders(settings, media)
    finally:
        await media.stop()
