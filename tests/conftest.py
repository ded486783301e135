"""What every test is held to: nothing may be left behind, and no error may pass in silence.

A test fails if it leaves a child process, a thread or an open file, or if something logged an error
(unless it is marked `logs_errors`). A test that starts processes has to be marked `slow`.
"""

from __future__ import annotations

import gc
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

# Sums depend on the number of threads: fixed before anything imports torch, here and in children.
# Threads that wait must not spin: with something else on the cores that was eight times slower.
os.environ["OMP_NUM_THREADS"] = "2"
os.environ["OMP_WAIT_POLICY"] = "passive"

import pytest
from hypothesis import settings

from tests.support.process_starts import ProcessStarts

if TYPE_CHECKING:
    from invsr_daemon import InvSR

DATA = Path(__file__).parent / "data"
GRACE_SECONDS = 3.0

# The same examples in every run; no deadline, for machines are busy.
settings.register_profile("invsr", deadline=None, derandomize=True, database=None, max_examples=60)
settings.load_profile("invsr")


@pytest.fixture(scope="session")
def process_starts() -> ProcessStarts:
    starts = ProcessStarts()
    starts.listen()
    return starts


@pytest.fixture(autouse=True)
def no_stray_children() -> Iterator[None]:
    before = _children()
    yield
    _assert_none("child processes", lambda: _new_children(before, _children()))


@pytest.fixture(autouse=True)
def no_processes_unless_slow(request: pytest.FixtureRequest, process_starts: ProcessStarts) -> Iterator[None]:
    before = len(process_starts.seen)
    yield
    if not request.node.get_closest_marker("slow"):
        new = process_starts.seen[before:]
        assert not new, f"a test that starts processes is to be marked `slow`: {new}"


@pytest.fixture(autouse=True)
def no_stray_threads() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    _assert_none(
        "threads", lambda: [str(t) for t in set(threading.enumerate()) - before if not _tolerated(t)]
    )


@pytest.fixture(autouse=True)
def no_open_files() -> Iterator[None]:
    before = _open_files()
    yield
    _assert_none("open files", lambda: _new(before, _open_files()))


@pytest.fixture(autouse=True)
def no_error_logs(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    if request.node.get_closest_marker("logs_errors"):
        return
    records = [*caplog.get_records("setup"), *caplog.get_records("call")]
    errors = [f"{r.name}: {r.getMessage()}" for r in records if r.levelno >= logging.ERROR]
    assert not errors, f"errors were logged (mark the test logs_errors if it means to): {errors}"


@pytest.fixture(scope="session")
def tiny_model_dir() -> Path:
    """A complete small model with random weights, in diffusers layout. Copy it before changing it."""
    return DATA / "tiny-random"


@pytest.fixture(scope="session")
def tiny_model(tiny_model_dir: Path) -> InvSR:
    """That model, loaded once: fp32 on the CPU."""
    from invsr_daemon import InvSR

    return InvSR.load(tiny_model_dir)


def _assert_none(what: str, leaked: Callable[[], list[str]]) -> None:
    """Give what is ending a moment; collect garbage only if something seems to be left."""
    deadline = time.monotonic() + GRACE_SECONDS
    while left := leaked():
        if time.monotonic() > deadline:
            pytest.fail(f"the test left {what} behind: {left}", pytrace=False)
        gc.collect()
        time.sleep(0.02)


def _new(before: dict[int, str], after: dict[int, str]) -> list[str]:
    return [f"{number}: {name}" for number, name in after.items() if before.get(number) != name]


# The process id and when it began. A command is no mark: just after its start it is empty for a moment.
Child = tuple[int, str]


def _new_children(before: dict[Child, str], after: dict[Child, str]) -> list[str]:
    return [f"{child[0]}: {command}" for child, command in after.items() if child not in before]


def _children() -> dict[Child, str]:
    """The commands of our children, whether they run or were never waited for."""
    children = {}
    for number in _child_ids():
        folder = Path(f"/proc/{number}")
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            began = _stat(folder)[19]
        except OSError:  # gone meanwhile
            continue
        # multiprocessing keeps one resource tracker until the interpreter ends.
        if "multiprocessing.resource_tracker" not in command:
            children[number, began] = command or "a zombie: it ended, but nobody waited for it"
    return children


def _child_ids() -> list[int]:
    """The kernel's own list of them, by thread, where it keeps one: to look at all processes takes long."""
    try:
        lists = [
            Path(f"/proc/self/task/{thread}/children").read_text() for thread in os.listdir("/proc/self/task")
        ]
        return [int(number) for numbers in lists for number in numbers.split()]
    except OSError:  # it keeps none, or a thread has ended meanwhile
        return [int(folder.name) for folder in Path("/proc").glob("[0-9]*") if _parent(folder) == os.getpid()]


def _parent(folder: Path) -> int | None:
    """The parent's process id; None if the process is gone."""
    try:
        return int(_stat(folder)[1])
    except OSError:
        return None


def _stat(folder: Path) -> list[str]:
    """From the state on: "pid (name) state ppid ...", where the name may hold spaces and brackets."""
    return (folder / "stat").read_text().rpartition(")")[2].split()


def _tolerated(thread: threading.Thread) -> bool:
    # tqdm starts one monitor for all its bars, and keeps it until the interpreter ends.
    return type(thread).__module__.startswith("tqdm") or not thread.is_alive()


def _open_files() -> dict[int, str]:
    """Regular files that are open, by descriptor; libraries' own data does not count."""
    files = {}
    for link in Path("/proc/self/fd").iterdir():
        try:
            target = os.readlink(link)
        except OSError:  # the descriptor of this very listing
            continue
        regular = target.startswith("/") and not target.startswith(("/dev/", "/proc/", "/sys/"))
        if regular and "/site-packages/" not in target and not Path(target).is_dir():
            files[int(link.name)] = target
    return files
