"""Worker processes, one per device, from the parent's side: start, hand over tasks, notice deaths.

The parent never imports torch. A worker is a fresh interpreter that reads tasks from its stdin; when
the parent goes away, stdin closes and the worker ends.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self

from . import records
from .records import InvsrError, Task, WorkerLostError
from .wire import dump_task

log = logging.getLogger(__name__)

Progress = Callable[[int], None]
LINE_LIMIT = 2**20
STOP_SECONDS = 5.0
LAST_WORDS = 3


@dataclass
class _Process:
    """A living worker process, and the task that passes on what it says."""

    handle: asyncio.subprocess.Process
    stdin: asyncio.StreamWriter
    stdout: asyncio.StreamReader
    last_words: list[str]
    listener: asyncio.Task[None]


class Worker:
    """One worker process. `run` one task at a time."""

    def __init__(self, device: str, threads: int) -> None:
        self.device = device
        self._threads = threads
        self._process: _Process | None = None

    async def run(self, task: Task, progress: Progress) -> float:
        """Do a task; its seconds. Raises what the worker reports, or WorkerLostError if it dies."""
        process = self._process = self._process or await self._started()
        try:
            process.stdin.write(dump_task(task).encode())
            await process.stdin.drain()
        except ConnectionError as error:
            raise await self._lost(process) from error
        while True:
            event = await self._event(process)
            if event["event"] == "progress":
                progress(int(event["frames"]))
            elif event["event"] == "done":
                return float(event["seconds"])
            elif event["event"] == "failed":
                raise _raised(event)

    async def stop(self) -> None:
        """End the process: its stdin closes; what does not go by itself is killed."""
        process, self._process = self._process, None
        if process is None:
            return
        process.stdin.close()
        try:
            await asyncio.wait_for(process.handle.wait(), STOP_SECONDS)
        except TimeoutError:
            _kill(process)
            await process.handle.wait()
        await process.listener

    def kill(self) -> None:
        """End the process now."""
        if self._process is not None:
            _kill(self._process)

    async def _started(self) -> _Process:
        handle = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "invsr_daemon.worker",
            *("--device", self.device, "--threads", str(self._threads)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=LINE_LIMIT,
            start_new_session=True,  # a terminal's Ctrl-C is the parent's to answer
            # Waiting OpenMP threads that spin slow down everything else on the cores, by far.
            env={"OMP_WAIT_POLICY": "passive", **os.environ},
        )
        assert handle.stdin is not None
        assert handle.stdout is not None
        assert handle.stderr is not None
        words: list[str] = []
        listener = asyncio.create_task(self._listen(handle.stderr, words))
        return _Process(handle, handle.stdin, handle.stdout, words, listener)

    async def _event(self, process: _Process) -> dict[str, Any]:
        line = await process.stdout.readline()
        if not line.endswith(b"\n"):
            raise await self._lost(process)
        event: dict[str, Any] = json.loads(line)
        return event

    async def _lost(self, process: _Process) -> WorkerLostError:
        self._process = None
        code = await process.handle.wait()
        await process.listener
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        words = " | ".join(process.last_words)
        return WorkerLostError(f"the worker on {self.device} {how}" + (f": {words}" if words else ""))

    async def _listen(self, stderr: asyncio.StreamReader, words: list[str]) -> None:
        """Pass on what the worker says, and keep its last words for an error message."""
        while line := await stderr.readline():
            text = line.decode(errors="replace").rstrip()
            words[:] = [*words[1 - LAST_WORDS :], text]
            log.warning("worker on %s: %s", self.device, text)


def _kill(process: _Process) -> None:
    if process.handle.returncode is None:
        os.killpg(process.handle.pid, signal.SIGKILL)


def _raised(event: dict[str, Any]) -> InvsrError:
    kind = getattr(records, event["kind"])
    error: InvsrError = kind(event["message"])
    return error


class Pool:
    """Workers that take tasks in the order they come; a dead one is replaced when next needed."""

    def __init__(self, devices: tuple[str, ...], threads: int) -> None:
        self.workers = [Worker(device, threads) for device in devices]
        self._idle: asyncio.Queue[Worker] = asyncio.Queue()
        for worker in self.workers:
            self._idle.put_nowait(worker)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await asyncio.gather(*(worker.stop() for worker in self.workers))

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[Worker]:
        """The next idle worker. If the block is cancelled the worker is killed: it would go on otherwise."""
        worker = await self._idle.get()
        try:
            yield worker
        except asyncio.CancelledError:
            worker.kill()
            raise
        finally:
            self._idle.put_nowait(worker)
