"""Whether a result has room on its disk: estimated from its finished pieces, before they are joined."""

from __future__ import annotations

from ..files.publishing import explaining, require_room
from ..wire.plans import Plan

# What containers write beside their packets. MP4's tables take 20 bytes for a frame, and some for sound.
BYTES_PER_FRAME = 32
BYTES_PER_FILM = 1 << 16


def check_room(plan: Plan) -> None:
    """Raise NoRoomError if the result, whose pieces are all there, is larger than what is free for it."""
    with explaining(plan.work):
        needed = result_bytes(plan)
    folder = plan.place.path.parent
    with explaining(folder):
        require_room(folder, needed)


def result_bytes(plan: Plan) -> int:
    """About how large the result becomes; a picture's size is that of its piece. Raises OSError."""
    pieces = sum(task.output.stat().st_size for task in plan.tasks)
    if plan.film is None or plan.layout is None:
        return pieces
    copied = sum(other.size for other in plan.film.info.others if other.index in plan.layout.copied)
    return pieces + copied + plan.layout.transcoded_size + BYTES_PER_FRAME * plan.frames + BYTES_PER_FILM
