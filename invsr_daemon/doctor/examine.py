"""`invsr-daemon doctor`: what is wrong with machine, models, folders and limits, and how to mend it.

Each check is a function from the settings to findings. Nothing is changed, but for files that are made
and removed at once to see whether a folder can be written to.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial

from ..settings.settings import Settings
from .encoders import check_encoders
from .findings import AS_SERVICE, DoctorCheck, Finding, Say
from .folders import check_folders, check_free_space, check_hard_links, check_moves
from .gpu import check_gpus
from .inotify import check_inotify
from .machine import check_confinement, check_devices, check_open_files, check_python, check_torch
from .models import check_models
from .service import check_daemon, check_service


def examine(settings: Settings, say: Say, *, as_json: bool, gpu: bool = False) -> bool:
    """Make every check and tell each finding as soon as it is known; whether nothing failed.

    `gpu`: try, too, what each device computes.
    """
    well = True
    more: dict[str, DoctorCheck] = {"device": partial(check_gpus, settings)} if gpu else {}
    for name, check in {**checks(settings), **more}.items():
        for finding in _examined(name, check):
            say(json.dumps(asdict(finding)) if as_json else _lines(finding))
            well = well and finding.level != "FAIL"
    return well


def checks(settings: Settings) -> dict[str, DoctorCheck]:
    """Every check by its name, in the order in which a person reads them."""
    of_settings = {
        "devices": check_devices,
        "models": check_models,
        "encoders": check_encoders,
        "folders": check_folders,
        "moves": check_moves,
        "hard links": check_hard_links,
        "free space": check_free_space,
        "inotify": check_inotify,
        "daemon": check_daemon,
    }
    return {
        "python": check_python,
        "torch": check_torch,
        **{name: partial(check, settings) for name, check in of_settings.items()},
        "open files": check_open_files,
        "confinement": check_confinement,
        "service": check_service,
    }


def _examined(name: str, check: DoctorCheck) -> Iterator[Finding]:
    """What a check finds. One that breaks is itself a finding: it must not hide the others."""
    try:
        yield from check()
    except Exception as error:  # whatever it is, it is told
        text = f"this could not be checked: {type(error).__name__}: {error}"
        yield Finding("FAIL", name, text, f"{AS_SERVICE}; if that says the same, report it")


def _lines(finding: Finding) -> str:
    line = f"{finding.level:4}  {finding.name}: {finding.text}"
    return f"{line}\n      → {finding.mend}" if finding.mend else line
