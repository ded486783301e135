"""The models that have a name, where their parts come from, and their licences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..errors import ModelError

PUBLIC_HUB = "https://huggingface.co"
DEFAULT_MODEL = "default"
PREDICTOR = "noise_predictor"
PREDICTOR_CONFIG = f"{PREDICTOR}_config.json"  # the part, and how its files' names begin


@dataclass(frozen=True)
class Sources:
    """Where a model's parts are fetched from. A revision is a branch, a tag or a commit."""

    base_repo: str
    predictor_repo: str
    predictor_file: str
    base_revision: str = "main"
    predictor_revision: str = "main"


@dataclass(frozen=True)
class Licence:
    """What a person must know before using a part of a model."""

    part: str
    name: str
    note: str
    url: str


@dataclass(frozen=True)
class KnownModel:
    """A model with a name; one without sources is part of this package."""

    name: str
    licences: tuple[Licence, ...]
    sources: Sources | None = None


KNOWN: Mapping[str, KnownModel] = {
    model.name: model
    for model in (
        KnownModel(
            DEFAULT_MODEL,
            (
                Licence(
                    "model",
                    "Apache-2.0",
                    "part of this package",
                    "https://www.apache.org/licenses/LICENSE-2.0",
                ),
            ),
        ),
        KnownModel(
            "sd-turbo",
            (
                Licence(
                    "base model",
                    "Stability AI's licence for SD-Turbo",
                    "not a free licence; it has conditions for commercial use",
                    f"{PUBLIC_HUB}/stabilityai/sd-turbo",
                ),
                Licence(
                    "noise predictor",
                    "S-Lab License 1.0",
                    "non-commercial use only",
                    f"{PUBLIC_HUB}/OAOA/InvSR",
                ),
            ),
            Sources("stabilityai/sd-turbo", "OAOA/InvSR", "noise_predictor_sd_turbo_v5.pth"),
        ),
    )
}


def known_model(name: str) -> KnownModel:
    if name not in KNOWN:
        raise ModelError(f"no model is named {name!r}; the names are {', '.join(KNOWN)}")
    return KNOWN[name]


def sources_for(name: str, **changes: str | None) -> Sources | None:
    """The published sources of a model with some fields of Sources changed; None if none is given.

    Raises ModelError if the name is not known, or the model is part of the package.
    """
    published = known_model(name).sources
    given = {field: value for field, value in changes.items() if value is not None}
    if not given:
        return None
    if published is None:
        raise ModelError(f"{name} is part of this package: it has no repository to choose")
    return replace(published, **given)
