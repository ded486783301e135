"""Requests to a media process, and plans, as lines of JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import TypeAdapter

from ..files.folders import HeldFile
from ..records import VideoSettings
from .plans import Job, Plan


@dataclass(frozen=True)
class Look:
    """Asks for the plan of a job."""

    job: Job
    kind: Literal["look"] = "look"


@dataclass(frozen=True)
class Join:
    """Asks for a plan's finished pieces as one file, checked, in a file that the parent has made for it."""

    plan: Plan
    hidden: HeldFile
    kind: Literal["join"] = "join"


@dataclass(frozen=True)
class Check:
    """Asks whether encoders take these settings."""

    settings: tuple[VideoSettings, ...]
    kind: Literal["check"] = "check"


Request = Look | Join | Check
_REQUEST: TypeAdapter[Request] = TypeAdapter(Request)
_PLAN: TypeAdapter[Plan] = TypeAdapter(Plan)


def dump_request(request: Request) -> str:
    """One line of JSON."""
    # json escapes what a file's name may hold that is no UTF-8; pydantic's own writer refuses it.
    return json.dumps(_REQUEST.dump_python(request, mode="json")) + "\n"


def parse_request(line: str) -> Request:
    """The inverse of `dump_request`."""
    return _REQUEST.validate_python(json.loads(line))


def plain(plan: Plan) -> Any:
    """A plan as what JSON can hold."""
    return _PLAN.dump_python(plan, mode="json")


def plan_of(plain: Any) -> Plan:
    """The inverse of `plain`."""
    return _PLAN.validate_python(plain)
