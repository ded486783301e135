"""Commands about the daemon's jobs: they read and write its store, whether it runs or not."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .. import logs
from ..errors import ConfigError
from ..store import status
from ..store.reading import Reading
from ..store.requests import Requests
from ..store.rows import STATES, JobRow, State
from ..store.sqlite import StoreError
from ..store.store import STORE_FILE

LOG_LINES = 20

Say = Callable[[str], None]


def reading(state_dir: Path) -> Reading:
    """The daemon's store, for questions. Raises ConfigError, StoreError, ResourceError."""
    return Reading.open(_store_file(state_dir))


def requests(state_dir: Path) -> Requests:
    """The daemon's store, for requests. Raises ConfigError, StoreError, ResourceError."""
    return Requests.open(_store_file(state_dir))


def _store_file(state_dir: Path) -> Path:
    """Raises ConfigError if there is no store, which opening it would make, or it cannot be seen."""
    path = state_dir / STORE_FILE
    try:
        there = path.exists()
    except OSError as error:
        why = f"{error.strerror} (commands run as the daemon's user: sudo -u USER)"
        raise ConfigError(f"state_dir: {state_dir} cannot be looked into: {why}") from error
    if not there:
        raise ConfigError(f"no daemon has ever run on {state_dir}: give its -c FILE or --state-dir DIR")
    return path


def show_status(state_dir: Path, say: Say, *, as_json: bool) -> None:
    """What the daemon is doing, and how many jobs are in which state."""
    with reading(state_dir) as store:
        counts, paused = store.counts(), store.paused_since()
        running = store.jobs({"running"}, limit=20)
    found = status.read(state_dir)
    if as_json:
        daemon = None if found is None else asdict(found)
        say(json.dumps({"daemon": daemon, "paused_since": paused, "jobs": counts}))
        return
    say(
        f"no daemon is running on {state_dir}"
        if found is None
        else f"daemon {found.version}, process {found.pid}: {found.line()}"
    )
    if found is not None:
        for device, reason in found.set_aside.items():
            say(f"{device} is set aside until it is well again: {reason}")
        for path in found.written:
            say(f"{logs.printable(path)} waits: someone is writing to it")
    if paused is not None:
        say(f"paused on request since {_time(paused)}: `invsr-daemon resume` goes on")
    say(", ".join(f"{count} {state}" for state, count in counts.items()))
    for row in running:
        say(f"  {_line(row)}")
    if found is not None and (left := _left(running, found.frames_per_second)):
        say(left)


def show_jobs(state_dir: Path, states: Sequence[State], limit: int, say: Say, *, as_json: bool) -> None:
    """The latest jobs, one a line."""
    with reading(state_dir) as store:
        rows = store.jobs(states or STATES, limit)
    for row in rows:
        say(json.dumps(_plain(row)) if as_json else _line(row))


def show_job(state_dir: Path, job: int, say: Say, *, as_json: bool) -> None:
    """All that is known of one job."""
    with reading(state_dir) as store:
        row = store.job(job)
        moves, attempts, chunks = store.transitions(job), store.attempts(job), store.chunks(job)
    lines = logs.tail(state_dir, job, LOG_LINES)
    if as_json:
        parts: dict[str, Sequence[Any]] = {"transitions": moves, "attempts": attempts, "chunks": chunks}
        described = {name: [asdict(each) for each in values] for name, values in parts.items()}
        say(json.dumps({**_plain(row), **described, "log": lines}))
        return
    say(_line(row))
    say(f"  {_shown(row.source)}" + (f" -> {_shown(row.output)}" if row.output else ""))
    say(f"  preset {row.preset or '-'}, priority {row.priority}, {row.attempts} attempt(s) counted")
    done = sum(chunk.finished is not None for chunk in chunks)
    if chunks:
        say(f"  {done} of {len(chunks)} chunks, {row.frames_done} of {row.frames} frames")
    for move in moves:
        say(f"  {_time(move.time)} {move.after}{_because(move.reason, None)}")
    for line in lines:
        say(f"  | {line}")


def retry(state_dir: Path, jobs: Sequence[int], say: Say, *, failed: bool) -> None:
    """Queue jobs again: these, or all that failed."""
    if failed == bool(jobs):
        raise ConfigError("retry: name jobs by their ids, or give --failed, not both")
    with requests(state_dir) as store:
        if failed:
            say(f"queued again: {logs.counted(store.retry_failed(time.time()), 'job')}")

        def again(job: int) -> str:
            store.retry(job, time.time())
            return f"job {job} is queued again"

        _for_each(jobs, again, say)


def cancel(state_dir: Path, jobs: Sequence[int], say: Say) -> None:
    """Cancel jobs; what is finished of them is kept for a retry."""
    with requests(state_dir) as store:

        def cancelled(job: int) -> str:
            state = store.request_cancel(job, time.time())
            return f"job {job} is {'being ' if state == 'running' else ''}cancelled"

        _for_each(jobs, cancelled, say)


def _for_each(jobs: Sequence[int], do: Callable[[int], str], say: Say) -> None:
    """Do all that can be done, and say so. Raises StoreError for the rest, all of it together."""
    problems = []
    for job in dict.fromkeys(jobs):
        try:
            say(do(job))
        except StoreError as error:
            problems.append(str(error))
    if problems:
        raise StoreError("; ".join(problems))


def pause(state_dir: Path, say: Say) -> None:
    """Let no further chunk begin."""
    with requests(state_dir) as store:
        store.pause(time.time())
    say("paused: chunks under way finish, no others begin")


def resume(state_dir: Path, say: Say) -> None:
    """Undo `pause`."""
    with requests(state_dir) as store:
        was_paused = store.resume()
    say("going on" if was_paused else "nothing was paused")


def _line(row: JobRow) -> str:
    frames = f" {row.frames_done}/{row.frames}" if row.frames else ""
    return f"{row.id:6} {row.state:9}{frames} {_shown(row.relative)}{_because(row.reason, 1)}"


def _left(running: Sequence[JobRow], frames_per_second: float) -> str | None:
    """How long the running jobs may take, if their frames and the speed are known."""
    planned = [(row.frames, row.frames_done) for row in running if row.frames is not None]
    if not planned or len(planned) < len(running) or frames_per_second <= 0:
        return None
    frames = sum(whole - done for whole, done in planned)
    return f"{logs.counted(frames, 'frame')} left of those, about {logs.lasting(frames / frames_per_second)}"


def _because(reason: str | None, most: int | None) -> str:
    """The first lines of a reason, in which names of files may stand."""
    lines = (reason or "").splitlines()[:most]
    return ": " + "; ".join(map(logs.printable, lines)) if lines else ""


def _plain(row: JobRow) -> dict[str, Any]:
    described = asdict(row)
    for name in ("source", "relative", "output"):
        described[name] = None if described[name] is None else _shown(described[name])
    return {**described, "settings": json.loads(row.settings)}


def _shown(path: Path) -> str:
    """A name that prints, whatever bytes it is made of."""
    return logs.printable(os.fsencode(path).decode(errors="backslashreplace"))


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).astimezone().isoformat(" ", "seconds")
