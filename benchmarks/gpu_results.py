"""What a run of `gpu.py` finds: figures and checks of each stage, as JSON and as a Markdown table."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

SCHEMA = 1

Value = float | int | str | bool | None
Status = Literal["ran", "failed", "skipped"]


@dataclass(frozen=True)
class Check:
    """Something that must hold: what was found, and in words what it must be."""

    name: str
    passed: bool
    value: Value
    limit: str


@dataclass(frozen=True)
class Result:
    """A stage: its seconds by the clock, what was measured, what was checked, and why anything is missing."""

    name: str
    status: Status
    seconds: float
    figures: dict[str, Value]
    checks: tuple[Check, ...]
    note: str


@dataclass
class Findings:
    """Where a stage puts what it finds, so that a later error in it loses nothing."""

    figures: dict[str, Value] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def figure(self, name: str, value: Value) -> None:
        self.figures[name] = round(value, 5) if isinstance(value, float) else value

    def check(self, name: str, passed: bool, value: Value, limit: str) -> None:
        self.checks.append(Check(name, bool(passed), value, limit))

    def below(self, name: str, value: float, limit: float) -> None:
        self.check(name, value < limit, value, f"< {limit:g}")

    def above(self, name: str, value: float, limit: float) -> None:
        self.check(name, value > limit, round(value, 2), f"> {limit:g}")

    def holds(self, name: str, value: bool) -> None:
        self.check(name, value, bool(value), "true")

    def note(self, text: str) -> None:
        self.notes.append(text)

    def result(self, name: str, status: Status, seconds: float) -> Result:
        return Result(
            name, status, round(seconds, 2), dict(self.figures), tuple(self.checks), "; ".join(self.notes)
        )


@dataclass(frozen=True)
class Report:
    """A whole run, or as much of it as there is yet."""

    machine: dict[str, Value]
    arguments: dict[str, Value]
    stages: tuple[Result, ...]

    @property
    def passed(self) -> bool:
        return all(check.passed for stage in self.stages for check in stage.checks)

    def write(self, path: Path) -> None:
        """As JSON, at once or not at all."""
        whole = {"schema": SCHEMA, "passed": self.passed, **asdict(self)}
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text(json.dumps(whole, indent=1) + "\n")
        os.replace(partial, path)

    @classmethod
    def read(cls, path: Path) -> Report:
        """Raises ValueError if it is of another schema."""
        whole: dict[str, Any] = json.loads(path.read_text())
        if whole.get("schema") != SCHEMA:
            raise ValueError(f"{path} has schema {whole.get('schema')}, not {SCHEMA}")
        stages = tuple(
            Result(**{**stage, "checks": tuple(Check(**check) for check in stage["checks"])})
            for stage in whole["stages"]
        )
        return cls(whole["machine"], whole["arguments"], stages)

    def table(self) -> str:
        """Markdown: a row for each stage, check and figure."""
        described = ", ".join(f"{name} {value}" for name, value in self.machine.items())
        lines = [described, "", "| stage | | found | must be | |", "|---|---|---|---|---|"]
        for stage in self.stages:
            lines += _rows(stage)
        return "\n".join(lines) + "\n"


def _rows(stage: Result) -> list[str]:
    rows: list[Sequence[str]] = [
        (f"**{stage.name}**", stage.note, f"{stage.seconds:.1f} s", "", stage.status)
    ]
    for check in stage.checks:
        verdict = "passed" if check.passed else "**FAILED**"
        rows.append(("", check.name, _text(check.value), check.limit, verdict))
    rows += [("", name, _text(value), "", "") for name, value in stage.figures.items()]
    return ["| " + " | ".join(_cell(each) for each in row) + " |" for row in rows]


def _text(value: Value) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: ""}[value]
    return f"{value:.4g}" if isinstance(value, float) and value < 1000 else str(value)


def _cell(text: str) -> str:
    """One line, without what ends a cell."""
    return " ".join(text.split()).replace("|", "\\|")
