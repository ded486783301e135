"""One process that works for the parent: started, asked, killed when silent, seen to end."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from contextvars import Context, copy_context
from dataclasses import dataclass
from typing import Any, TypeVar

from ..confinement import Allowed
from ..errors import WorkerLostError
from ..wire.descriptors import VARIABLE, send_descriptor
from ..wire.events import Progress, error_of

T = TypeVar("T")

log = logging.getLogger(__name__)

LINE_LIMIT = 2**28  # a plan holds the time of every frame: two days of film
STOP_SECONDS = 5.0
LAST_WORDS = 3

# A process's environment, where ours does not say otherwise.
ENVIRONMENT = {
    # Waiting OpenMP threads that spin slow down everything else on the cores, by far.
    "OMP_WAIT_POLICY": "passive",
    # The memory of large tensors goes back to the system, and comes from it in large pages. The memory of
    # smaller ones is kept for the next.
    "GLIBC_TUNABLES": (
        "glibc.malloc.arena_max=1:glibc.malloc.mmap_threshold=16777216:"
        "glibc.malloc.trim_threshold=67108864:glibc.malloc.hugetlb=1"
    ),
    # Without it SVT-AV1 writes twenty lines for each chunk.
    "SVT_LOG": "1",
}


@dataclass
class Process:
    """A living process, and the task that passes on what it says."""

    handle: asyncio.subprocess.Process
    stdin: asyncio.StreamWriter
    stdout: asyncio.StreamReader
    last_words: list[str]
    listener: asyncio.Task[None]
    channel: socket.socket


class Child:
    """A process that answers one request at a time. It is started when it is needed.

    It is killed if it says nothing for `stall_seconds`; with None it may be silent for ever.
    """

    def __init__(self, name: str, module: str, arguments: Sequence[str], stall_seconds: float | None) -> None:
        self.name = name
        self._command = (module, *arguments)
        self._stall_seconds = stall_seconds
        self._process: Process | None = None
        self._context = Context()

    @property
    def silence(self) -> str:
        """How a process that was killed for it is described."""
        return "made no progress"

    @property
    def environment(self) -> Mapping[str, str]:
        """What a new process finds set in its environment."""
        return {}

    @property
    def allowed(self) -> Allowed | None:
        """What a new process is confined to from its beginning; None if it sees to that itself."""
        return None

    async def ask(self, line: str, progress: Progress, descriptor: int | None = None) -> Any:
        """The answer to a request; `descriptor`, the open file that it is about, goes along.

        Raises what the process reports; WorkerLostError if it dies or stalls.

        The process is killed if this is cancelled, or if `progress` raises: it would go on otherwise, and its
        late answer would be taken for the next one's.
        """
        try:
            event = await self._last_event(line, progress, descriptor)
        except BaseException:
            await self.kill()
            raise
        if event["event"] == "failed":
            raise error_of(event)
        return event["answer"]

    async def _last_event(self, line: str, progress: Progress, descriptor: int | None) -> dict[str, Any]:
        self._context = copy_context()  # the log lines of the process now belong to this job
        process = await self._living()
        try:
            send_descriptor(process.channel, descriptor)
            process.stdin.write(line.encode())
            await self._unless_stalled(process, process.stdin.drain)
        except ConnectionError as error:
            raise await self._lost(process) from error
        while True:
            event = await self._event(process)
            if event["event"] == "progress":
                progress(int(event["frames"]))
            else:
                return event

    @property
    def pid(self) -> int | None:
        """The process, if there is one now."""
        return self._process.handle.pid if self._process is not None else None

    async def stop(self) -> None:
        """End the process: close its stdin, and kill it if it does not end by itself."""
        process, self._process = self._process, None
        if process is None:
            return
        process.stdin.close()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await process.handle.wait()
        except TimeoutError:
            _kill(process)
            await process.handle.wait()
        process.channel.close()
        await process.listener

    async def kill(self) -> None:
        """End the process now; the next request gets a new one."""
        if self._process is not None:
            _kill(self._process)
            await self._lost(self._process)

    async def _living(self) -> Process:
        """The process; a new one if it died between two requests, for which neither is to blame."""
        if self._process is not None and self._process.handle.returncode is not None:
            log.warning("%s with nothing to do: a new one is started", await self._lost(self._process))
        if self._process is None:
            self._process = await self._started()
        return self._process

    async def _started(self) -> Process:
        channel, theirs = socket.socketpair()
        try:
            with theirs:
                handle = await self._spawned(theirs)
        except BaseException:
            channel.close()
            raise
        assert handle.stdin is not None
        assert handle.stdout is not None
        assert handle.stderr is not None
        words: list[str] = []
        listener = asyncio.create_task(self._listen(handle.stderr, words))
        return Process(handle, handle.stdin, handle.stdout, words, listener, channel)

    async def _spawned(self, channel: socket.socket) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "invsr_daemon.workers.serving", str(os.getpid())),
            "" if self.allowed is None else self.allowed.line(),
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=LINE_LIMIT,
            start_new_session=True,  # a terminal's Ctrl-C is the parent's to answer
            env={**ENVIRONMENT, **os.environ, **self.environment, VARIABLE: str(channel.fileno())},
            pass_fds=(channel.fileno(),),
        )

    async def _event(self, process: Process) -> dict[str, Any]:
        line = await self._unless_stalled(process, process.stdout.readline)
        if not line.endswith(b"\n"):
            raise await self._lost(process)
        event: dict[str, Any] = json.loads(line)
        return event

    async def _unless_stalled(self, process: Process, wait: Callable[[], Awaitable[T]]) -> T:
        """What the process is waited for. Raises WorkerLostError if it stalls."""
        while True:
            before = self._work_of(process)
            try:
                async with asyncio.timeout(self._stall_seconds):
                    return await wait()
            except TimeoutError as error:
                if self._work_of(process) != before:
                    continue
                _kill(process)
                await self._lost(process)
                how = f"{self.silence} for {self._stall_seconds:g} s and was killed (limits.stall_seconds)"
                raise WorkerLostError(f"{self.name} {how}") from error

    def _work_of(self, process: Process) -> object:
        """What differs from one moment to another if a process that says nothing works all the same."""
        return None

    async def _lost(self, process: Process) -> WorkerLostError:
        self._process = None
        code = await process.handle.wait()
        process.channel.close()
        await process.listener
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        words = " | ".join(process.last_words)
        return WorkerLostError(f"{self.name} {how}" + (f": {words}" if words else ""))

    async def _listen(self, stderr: asyncio.StreamReader, words: list[str]) -> None:
        """Pass on what the process says, and keep its last words for an error message."""
        while line := await stderr.readline():
            text = line.decode(errors="replace").rstrip()
            words[:] = [*words[1 - LAST_WORDS :], text]
            self._context.run(log.warning, "%s: %s", self.name, text)


def _kill(process: Process) -> None:
    if process.handle.returncode is None:
        with suppress(ProcessLookupError):  # it has just ended, and asyncio has not heard of it yet
            os.killpg(process.handle.pid, signal.SIGKILL)
