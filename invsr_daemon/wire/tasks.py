"""Tasks as JSON lines between the parent and its workers."""

from __future__ import annotations

import json
from typing import Annotated

from pydantic import Field, TypeAdapter

from ..records import ImageTask, Task, VideoTask

_TASK: TypeAdapter[Task] = TypeAdapter(Annotated[VideoTask | ImageTask, Field(discriminator="kind")])


def dump_task(task: Task) -> str:
    """One line of JSON."""
    # json escapes what a file's name may hold that is no UTF-8; pydantic's own writer refuses it.
    return json.dumps(_TASK.dump_python(task, mode="json")) + "\n"


def parse_task(line: str) -> Task:
    """The inverse of `dump_task`."""
    return _TASK.validate_python(json.loads(line))
