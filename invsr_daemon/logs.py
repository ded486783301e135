"""Log lines: for a terminal, for journald, or as JSON; each with the id of the job it is about.

The lines of a job are also kept in a file of its own, for `invsr-daemon jobs show`.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Literal

Format = Literal["auto", "text", "journal", "json"]
LOG_FOLDER = "logs"
_JOB: ContextVar[int | None] = ContextVar("job", default=None)

# sd-daemon(3): a line's priority, as syslog counts.
_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


@contextmanager
def of_job(job: int) -> Iterator[None]:
    """Every line that is logged inside, in this task or thread, is this job's."""
    token = _JOB.set(job)
    try:
        yield
    finally:
        _JOB.reset(token)


def _stamp(record: logging.LogRecord) -> bool:
    record.job = _JOB.get()
    return True


def printable(text: str) -> str:
    """Names of files may hold anything: what would break a line, or steer a terminal, is escaped."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def counted(number: int, what: str) -> str:
    """1 frame, 2 frames."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def lasting(seconds: float) -> str:
    """45 s, 1 min 26 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


class _Text(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:  # logging's name
        return printable(super().formatMessage(record))

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        job = getattr(record, "job", None)
        return text if job is None else f"job {job}: {text}"


class _Timed(_Text):
    def format(self, record: logging.LogRecord) -> str:
        when, level = self.formatTime(record, "%Y-%m-%d %H:%M:%S"), record.levelname.lower()
        return f"{when} {level:7} {super().format(record)}"


class _Journal(_Text):
    def format(self, record: logging.LogRecord) -> str:
        priority = _PRIORITIES.get(record.levelno, 6)
        # journald takes a priority per line.
        return "\n".join(f"<{priority}>{line}" for line in super().format(record).splitlines())


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "job": getattr(record, "job", None),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


class JobFiles(logging.Handler):
    """Appends a job's lines to a file of its own in the state folder."""

    def __init__(self, state_dir: Path) -> None:
        super().__init__()
        self._folder = state_dir / LOG_FOLDER
        self.setFormatter(_Timed())

    def emit(self, record: logging.LogRecord) -> None:
        job = getattr(record, "job", None)
        if job is None:
            return
        with suppress(OSError):  # the disk may be full; the line is on stderr all the same
            self._folder.mkdir(parents=True, exist_ok=True)
            with (self._folder / f"{job}.log").open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(self.format(record) + "\n")


def tail(state_dir: Path, job: int, lines: int) -> list[str]:
    """The last lines of a job's file; none if it has none."""
    try:
        text = (state_dir / LOG_FOLDER / f"{job}.log").read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    return text.splitlines()[-lines:]


def remove(state_dir: Path, job: int) -> None:
    """Remove a job's file."""
    with suppress(OSError):  # there is none, or it may go another day
        (state_dir / LOG_FOLDER / f"{job}.log").unlink()


def set_up(level: str, wanted: Format, state_dir: Path) -> None:
    """Log to stderr in a format, and each job's lines into a file of its own."""
    formatters = {"text": _Timed, "journal": _Journal, "json": _Json}
    stream = logging.StreamHandler(sys.stderr)
    stream.setFormatter(formatters[_chosen(wanted)]())
    handlers: list[logging.Handler] = [stream, JobFiles(state_dir)]
    for handler in handlers:
        handler.addFilter(_stamp)
    logging.basicConfig(level=level.upper(), handlers=handlers, force=True)


def _chosen(wanted: Format) -> str:
    if wanted != "auto":
        return wanted
    return "journal" if "JOURNAL_STREAM" in os.environ else "text"
