"""Forgetting jobs that ended long ago: their logs, their pieces, and in the end that there were any."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from .. import logs
from ..jobs.workfolders import clear_room, room_of
from ..store.rows import JobRow


def forgettable(state_dir: Path, rows: Sequence[JobRow]) -> list[int]:
    """Remove what is kept of these jobs; the ids of those whose record may go, too.

    A file that still lies in the inbox needs its record: it would be taken for a new one.
    """
    for row in rows:
        clear_room(state_dir, room_of(row.id))
        logs.remove(state_dir, row.id)
    return [row.id for row in rows if not os.path.lexists(row.source)]
