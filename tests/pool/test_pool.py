"""A process that answers requests, from the parent's side: real ones, which die at awkward moments."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from invsr_daemon.errors import ProcessRefusedError, ResourceError, WorkerLostError, WorkerStartError
from invsr_daemon.pool import child as child_room
from invsr_daemon.pool.child import Child
from invsr_daemon.pool.media import MediaProcess
from invsr_daemon.settings.settings import Settings
from invsr_daemon.wire.requests import Check, dump_request

pytestmark = pytest.mark.slow  # starts processes, or computes for long

DYING_SECONDS = 10.0


@asynccontextmanager
async def begun() -> AsyncIterator[MediaProcess]:
    """A process that has answered once, and waits for more."""
    child = MediaProcess(None)
    try:
        await answer(child)
        yield child
    finally:
        await child.stop()


async def answer(child: MediaProcess) -> None:
    assert await child.ask(dump_request(Check(())), lambda frames: None) == []


def kill(child: MediaProcess) -> Path:
    """Kill its process; what is there for as long as that was not waited for."""
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    return Path(f"/proc/{child.pid}")


def test_one_that_died_with_nothing_to_do_is_replaced(caplog: pytest.LogCaptureFixture) -> None:
    async def die_between_requests() -> None:
        async with begun() as child:
            there = kill(child)
            async with asyncio.timeout(DYING_SECONDS):
                while there.exists():
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)  # asyncio hears of it in its next turn
            await answer(child)

    asyncio.run(die_between_requests())
    assert "the media process was killed by SIGKILL with nothing to do: a new one is started" in caplog.text


def test_one_that_dies_of_a_request_is_told_of() -> None:
    async def die_of_a_request() -> None:
        async with begun() as child:
            kill(child)
            await answer(child)  # asyncio has not heard of the death yet

    with pytest.raises(WorkerLostError, match="the media process was killed by SIGKILL"):
        asyncio.run(die_of_a_request())


def test_one_that_died_a_moment_ago_can_be_killed() -> None:
    async def kill_the_dead() -> None:
        async with begun() as child:
            there = kill(child)
            deadline = time.monotonic() + 1
            while there.exists() and time.monotonic() < deadline:
                time.sleep(0.01)  # the event loop must not hear of it
            await child.kill()
            await answer(child)

    asyncio.run(kill_the_dead())


def test_one_that_was_cut_off_does_not_answer_the_next(caplog: pytest.LogCaptureFixture) -> None:
    async def cut_off() -> None:
        async with begun() as child:
            pid = child.pid
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await child.ask(dump_request(Check((Settings().video_settings(),))), lambda frames: None)
            assert child.pid is None
            await answer(child)
            assert child.pid != pid

    asyncio.run(cut_off())
    assert caplog.text == "", "this is no death to tell of"


def test_one_whose_progress_is_not_wanted_does_not_answer_the_next() -> None:
    """The daemon's disk may be full when it writes progress down."""

    def full(frames: int) -> None:
        raise ResourceError("the disk is full")

    async def refuse() -> None:
        child = Child("the teller", "tests.support.telling", (), None)
        try:
            assert await child.ask("one\n", lambda frames: None) == "one"
            with pytest.raises(ResourceError):
                await child.ask("two\n", full)
            assert await child.ask("three\n", lambda frames: None) == "three"
        finally:
            await child.stop()

    asyncio.run(refuse())


def test_a_parent_that_was_frozen_kills_nobody() -> None:
    """Stopped, or suspended with its machine, for longer than a process may be silent."""
    command = [sys.executable, "-m", "tests.support.asking"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "alive\n"
        parent.send_signal(signal.SIGSTOP)
        time.sleep(4)  # by now the answer lies in the pipe
        parent.send_signal(signal.SIGCONT)
        assert parent.stdout.read().splitlines()[-1] == "30"
    assert parent.returncode == 0


def test_one_that_is_silent_for_too_long_is_killed() -> None:
    async def hang() -> None:
        child = Child("the chatty process", "tests.support.chatty", (), 5.0)
        try:
            await child.ask("1\n", lambda frames: os.kill(child.pid or 0, signal.SIGSTOP))
        finally:
            await child.stop()

    with pytest.raises(WorkerLostError, match="made no progress for 5 s and was killed"):
        asyncio.run(hang())


def test_one_that_dies_before_it_is_ready_says_so() -> None:
    async def start() -> None:
        child = Child("the missing process", "tests.support.no_such_module", (), None)
        await child.ask("1\n", lambda frames: None)

    with pytest.raises(WorkerStartError, match=r"ended with code 1 before it was ready: .*no_such_module"):
        asyncio.run(start())


def test_a_system_that_starts_no_process_is_told_of() -> None:
    """Here it has no descriptors left; EAGAIN and ENOMEM come the same way."""

    async def start() -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")), hard))
        try:
            await Child("the process", "tests.support.chatty", (), None).ask("1\n", lambda frames: None)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    with pytest.raises(ProcessRefusedError, match="the process cannot be started: Too many open files"):
        asyncio.run(start())


def test_one_that_cannot_be_killed_is_abandoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a driver holds it: here the signal is not sent."""
    monkeypatch.setattr(child_room, "_kill", lambda process: None)
    monkeypatch.setattr(child_room, "KILLED_SECONDS", 0.5)

    async def abandon() -> None:
        child = Child("the chatty process", "tests.support.chatty", (), 5.0)
        pids: list[int] = []

        def stop(frames: int) -> None:
            assert child.pid is not None
            pids.append(child.pid)
            os.kill(child.pid, signal.SIGSTOP)

        with pytest.raises(WorkerLostError, match="made no progress"):
            async with asyncio.timeout(30):
                await child.ask("1\n", stop)
        assert child.pid is None, "the next request gets a new one"
        os.kill(pids[0], signal.SIGKILL)
        await asyncio.sleep(0.5)  # asyncio waits for it

    asyncio.run(abandon())
