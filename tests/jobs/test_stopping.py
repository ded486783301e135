"""A first signal and a second one, sent to a process of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys

import pytest

from invsr_daemon.jobs.stopping import TwoSignals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_tells_and_the_second_cancels(number: signal.Signals) -> None:
    told: list[bool] = []

    async def work() -> None:
        signals = TwoSignals(lambda: told.append(signals.stopping.is_set()))
        signals.listen()
        os.kill(os.getpid(), number)
        await signals.stopping.wait()
        assert told == [True]
        os.kill(os.getpid(), number)
        await asyncio.sleep(60)

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(work())
    assert told == [True]


@pytest.mark.slow
def test_leaving_waits_for_no_thread_and_loses_no_words() -> None:
    script = (
        "import threading, time; from invsr_daemon.jobs.stopping import leave_now\n"
        "threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "print('last words'); leave_now(7)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False
    )
    assert (ended.returncode, ended.stdout) == (7, "last words\n")
