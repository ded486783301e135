"""Notes of published results: they make publishing happen once, also over a crash."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from ..files.durable import sync_rename
from ..files.publishing import Imprint, explaining
from ..wire.plans import Plan


def _note_file(plan: Plan) -> Path:
    """The key leaves out where the result goes: pieces serve any place, but a note is about one."""
    named = hashlib.sha256(f"{plan.key} {plan.job.name}".encode(errors="surrogateescape")).hexdigest()
    return plan.job.settings.state_dir / "done" / plan.job.subfolder / f"{named[:32]}.json"


def write_note(plan: Plan, imprint: Imprint) -> None:
    """Note, durably, which file is about to get the result's name: so it is known after any crash."""
    note = _note_file(plan)
    partial = note.with_suffix(".partial")
    with explaining(note.parent):
        note.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(asdict(imprint)))
        sync_rename(partial, note)


def published_before(plan: Plan) -> Path | None:
    """This very job's result, if an earlier run published it and it still lies there."""
    note = _note_file(plan)
    if not note.exists():
        return None
    imprint = Imprint(**json.loads(note.read_text()))
    if not imprint.lies_there():
        return None
    with suppress(OSError):  # it may not be ours
        os.utime(note)  # still of use: see retention.forget_loose
    return Path(imprint.output)
