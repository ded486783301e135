"""Whether the machine's clock can be trusted to say what is old enough to be forgotten.

A clock that is a year ahead would make everything old at once. So the state folder remembers when the clock
was last seen. One that has gone far ahead since then is doubted until it has gone on for a day.
"""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from ..files.durable import attempt_at

log = logging.getLogger(__name__)

CLOCK_FILE = "clock.json"  # in the state folder
DAY_SECONDS = 86_400.0
LEAP_SECONDS = 7 * DAY_SECONDS  # a machine may have been off for so long
STEADY_SECONDS = DAY_SECONDS


@dataclass(frozen=True)
class Sighting:
    """What the clock said, in seconds since the epoch.

    `seen`: when it was last looked at; `trusted`: when it was last trusted; `doubted`: when the doubts began,
    if there are any.
    """

    seen: float
    trusted: float = 0.0
    doubted: float | None = None

    def followed_by(self, now: float) -> Sighting:
        """The next sighting. A clock that is put back is believed: less is old then."""
        if now <= self.trusted + LEAP_SECONDS:
            return Sighting(now, now)
        if self.doubted is None or not self.seen <= now <= self.seen + LEAP_SECONDS:
            return Sighting(now, self.trusted, now)
        if now >= self.doubted + STEADY_SECONDS:
            return Sighting(now, now)
        return replace(self, seen=now)

    @classmethod
    def read(cls, state_dir: Path) -> Sighting | None:
        """The last one; None if there is none that can be read."""
        try:
            return cls(**json.loads((state_dir / CLOCK_FILE).read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, state_dir: Path) -> None:
        """Raises OSError."""
        attempt = attempt_at(state_dir / CLOCK_FILE)
        try:
            attempt.write_text(json.dumps(asdict(self)))
            attempt.replace(state_dir / CLOCK_FILE)
        finally:
            attempt.unlink(missing_ok=True)


def trusted_time(state_dir: Path, now: float) -> float | None:
    """The time by the clock that says `now`, noted as seen; None while it is doubted, or cannot be noted."""
    before = Sighting.read(state_dir)
    sighting = Sighting(now, doubted=now) if before is None else before.followed_by(now)
    if before is not None and before.doubted is None and sighting.doubted is not None:
        told = f"the clock says {_date(now)}, and said {_date(before.seen)} when it was last looked at"
        log.warning("%s: nothing is forgotten until it has gone on for a day", told)
    with suppress(OSError):
        sighting.write(state_dir)
        return now if sighting.doubted is None else None
    return None


def _date(time: float) -> str:
    return f"{datetime.fromtimestamp(time, UTC):%Y-%m-%d}"
