"""Tasks as JSON lines between the parent and its workers, and what a worker says when one is done."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from ..records import ImageTask, Task, VideoTask


@dataclass(frozen=True)
class Done:
    """The end of a task: the seconds that it took, and notes of what it had to do without."""

    seconds: float
    notes: tuple[str, ...] = ()


_TASK: TypeAdapter[Task] = TypeAdapter(Annotated[VideoTask | ImageTask, Field(discriminator="kind")])
_DONE: TypeAdapter[Done] = TypeAdapter(Done)


def dump_task(task: Task) -> str:
    """One line of JSON."""
    # json escapes what a file's name may hold that is no UTF-8; pydantic's own writer refuses it.
    return json.dumps(_TASK.dump_python(task, mode="json")) + "\n"


def parse_task(line: str) -> Task:
    """The inverse of `dump_task`."""
    return _TASK.validate_python(json.loads(line))


def plain_done(done: Done) -> Any:
    """A task's end as what JSON can hold."""
    return _DONE.dump_python(done, mode="json")


def done_of(plain: Any) -> Done:
    """The inverse of `plain_done`."""
    return _DONE.validate_python(plain)
