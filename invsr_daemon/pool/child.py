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
from ..errors import ProcessRefusedError, WorkerLostError, WorkerStartError
from ..wire.descriptors import VARIABLE, send_descriptor
from ..wire.events import Progress, error_of

T = TypeVar("T")

log = logging.getLogger(__name__)

LINE_LIMIT = 2**28  # a plan holds the time of every frame: two days of film
STOP_SECONDS = 5.0
KILLED_SECONDS = 10.0  # a killed process that a driver holds may never end
SLICES = 20  # silence is counted in so many parts: see `_unless_stalled`
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
    # Devices in the order that nvidia-smi shows, not by speed.
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    # cuBLAS gives the same bits each time only with a work space of fixed size.
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    # Memory that was used in other sizes can be used again.
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    # Without it SVT-AV1 writes twenty lines for each chunk.
    "SVT_LOG": "1",
}


def environment() -> dict[str, str]:
    """The environment of processes that work for this one."""
    return ENVIRONMENT | os.environ


@dataclass
class Process:
    """A living process, and the task that passes on what it says."""

    handle: asyncio.subprocess.Process
    stdin: asyncio.StreamWriter
    stdout: asyncio.StreamReader
    last_words: list[str]
    listener: asyncio.Task[None]
    channel: socket.socket
    ready: bool = False


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

        Raises what the process reports; WorkerLostError if it dies or stalls, WorkerStartError if it dies
        before it is ready; ProcessRefusedError if the system starts none.

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
        with suppress(ConnectionError):  # it is dead, and its last event says when it died
            send_descriptor(process.channel, descriptor)
            process.stdin.write(line.encode())
            await self._unless_stalled(process, process.stdin.drain)
        while True:
            event = await self._event(process)
            if event["event"] == "ready":
                process.ready = True
            elif event["event"] == "progress":
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
            await _ended(process)
        else:
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
            try:
                self._process = await self._started()
            except OSError as error:  # EAGAIN, ENOMEM, EMFILE: all of them pass
                raise ProcessRefusedError(f"{self.name} cannot be started: {error.strerror}") from error
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
            env={**environment(), **self.environment, VARIABLE: str(channel.fileno())},
            pass_fds=(channel.fileno(),),
        )

    async def _event(self, process: Process) -> dict[str, Any]:
        line = await self._unless_stalled(process, process.stdout.readline)
        if not line.endswith(b"\n"):
            raise await self._lost(process)
        event: dict[str, Any] = json.loads(line)
        return event

    async def _unless_stalled(self, process: Process, wait: Callable[[], Awaitable[T]]) -> T:
        """What the process is waited for. Raises WorkerLostError if it stalls.

        Silence is counted in slices of time. If this very process was frozen meanwhile, stopped or suspended
        with the machine, that counts as one slice, and what lies in the pipe by then is read before the next.
        """
        waiting = asyncio.ensure_future(wait())
        try:
            silent, before = 0, self._work_of(process)
            slice_seconds = None if self._stall_seconds is None else self._stall_seconds / SLICES
            while not (await asyncio.wait({waiting}, timeout=slice_seconds))[0]:
                silent += 1
                if silent < SLICES:
                    continue
                if self._work_of(process) == before:
                    raise await self._stalled(process)
                silent, before = 0, self._work_of(process)
            return waiting.result()
        finally:
            if not waiting.done():
                waiting.cancel()
                await asyncio.wait({waiting})

    async def _stalled(self, process: Process) -> WorkerLostError:
        _kill(process)
        await self._lost(process)
        how = f"{self.silence} for {self._stall_seconds:g} s and was killed (limits.stall_seconds)"
        return WorkerLostError(f"{self.name} {how}")

    def _work_of(self, process: Process) -> object:
        """What differs from one moment to another if a process that says nothing works all the same."""
        return None

    async def _lost(self, process: Process) -> WorkerLostError:
        self._process = None
        code = await _ended(process)
        if code is None:
            return WorkerLostError(f"{self.name} does not end although it was killed: its device may hang")
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        when = "" if process.ready else " before it was ready"
        words = " | ".join(process.last_words)
        kind = WorkerLostError if process.ready else WorkerStartError
        return kind(f"{self.name} {how}{when}" + (f": {words}" if words else ""))

    async def _listen(self, stderr: asyncio.StreamReader, words: list[str]) -> None:
        """Pass on what the process says, and keep its last words for an error message."""
        while line := await stderr.readline():
            text = line.decode(errors="replace").rstrip()
            words[:] = [*words[1 - LAST_WORDS :], text]
            self._context.run(log.warning, "%s: %s", self.name, text)


async def _ended(process: Process) -> int | None:
    """The exit code of a process that ends; None if it does not in time, and is abandoned."""
    process.channel.close()
    try:
        async with asyncio.timeout(KILLED_SECONDS):
            code = await process.handle.wait()
            await process.listener
    except TimeoutError:
        _kill(process)
        process.listener.cancel()
        return None
    return code


def _kill(process: Process) -> None:
    if process.handle.returncode is None:
        with suppress(ProcessLookupError):  # it has just ended, and asyncio has not heard of it yet
            os.killpg(process.handle.pid, signal.SIGKILL)
