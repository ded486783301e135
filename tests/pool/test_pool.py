"""A process that answers requests, from the parent's side: real ones, which die at awkward moments."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from invsr_daemon.errors import ResourceError, WorkerLostError
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
