"""What a check of the doctor finds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from pydantic import ByteSize

from ..systemd.service import NAME

Level = Literal["OK", "INFO", "WARN", "FAIL"]
Say = Callable[[str], None]
AS_SERVICE = f"`sudo -u USER {NAME} doctor -c FILE` looks as the service's user"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `mend` says what to do about it, if anything."""

    level: Level
    name: str
    text: str
    mend: str | None = None


DoctorCheck = Callable[[], Iterable[Finding]]


def size_text(amount: int) -> str:
    return ByteSize(amount).human_readable(separator=" ")
