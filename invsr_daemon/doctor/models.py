"""Checks of the models that the settings ask for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .. import hub
from ..errors import ModelError
from ..settings.settings import Settings
from ..systemd.service import NAME
from .findings import Finding


def check_models(settings: Settings) -> Iterator[Finding]:
    used = dict.fromkeys((each.model, each.models_dir) for each in settings.variants().values())
    for model, models_dir in used:
        yield _model(model, models_dir)


def _model(model: str, models_dir: Path | None) -> Finding:
    name = f"model {model}"
    try:
        known = model in hub.KNOWN
        folder = hub.resolve(model, models_dir) if known else hub.require(model, models_dir)
        problems = hub.verify(model, models_dir) if known else []
    except ModelError as error:
        problems = [str(error)]
    if problems:
        return Finding("FAIL", name, "; ".join(problems), _mend_model(model))
    if model in hub.KNOWN:
        return Finding("OK", name, f"complete and unchanged, in {folder}")
    return Finding("OK", name, f"a directory of your own, {folder}; what is in its files was not checked")


def _mend_model(model: str) -> str:
    known = hub.KNOWN.get(model)
    if known is None:
        return f"set model to a name of `{NAME} models list`, or to a directory"
    return f"install {NAME} again" if known.sources is None else f"{NAME} models pull {model}"
