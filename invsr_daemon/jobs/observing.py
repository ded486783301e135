"""What is told of a job while it runs, and what it comes to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..records import Task
from ..wire.plans import Plan


@dataclass(frozen=True)
class Result:
    """A published result. `computed` counts the frames this run restored, `frames` all of them.

    `wants`: notes of what workers had to do without.
    """

    plan: Plan
    output: Path
    computed: int
    was_there: bool = False
    wants: tuple[str, ...] = ()

    @property
    def frames(self) -> int:
        return self.plan.frames

    @property
    def notes(self) -> tuple[str, ...]:
        return self.plan.notes + self.wants


class Observer(Protocol):
    """Whoever wants to know how a job goes."""

    def looked(self, plan: Plan) -> None:
        """It is known where the result goes, before anything there is looked at. May raise InvsrError."""

    def planned(self, plan: Plan) -> None: ...

    def progress(self, plan: Plan, frames: int) -> None: ...

    def finished(self, plan: Plan, task: Task, device: str, seconds: float) -> None:
        """A task's file is there, durably."""

    def ended(self, plan: Plan) -> None: ...
