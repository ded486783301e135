"""The processes that work for the parent, from its side: start, hand over requests, notice deaths.

Workers, one per device, and media processes, as many as are needed. The parent itself imports neither
torch nor FFmpeg. Each is a fresh interpreter that reads requests from its stdin, and dies with the parent.
"""

from __future__ import annotations

import asyncio
import heapq
import json
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from contextvars import Context, copy_context
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Self, TypeVar

from . import records
from .child import Progress
from .plans import Check, Job, Join, Look, Plan, Priority, Request, dump_request, plan_of
from .records import InvsrError, Task, VideoSettings, WorkerLostError
from .wire import dump_task

log = logging.getLogger(__name__)

T = TypeVar("T")
LINE_LIMIT = 2**28  # a plan holds the time of every frame: two days of film
STOP_SECONDS = 5.0
IDLE_SECONDS = 10.0  # how long a media process is kept for the next file
LAST_WORDS = 3
# A process's environment, where ours does not say otherwise.
ENVIRONMENT = {
    # Waiting OpenMP threads that spin slow down everything else on the cores, by far.
    "OMP_WAIT_POLICY": "passive",
    # Large tensors go back to the system, and come from it in large pages; smaller ones stay for the next.
    "GLIBC_TUNABLES": (
        "glibc.malloc.arena_max=1:glibc.malloc.mmap_threshold=16777216:"
        "glibc.malloc.trim_threshold=67108864:glibc.malloc.hugetlb=1"
    ),
    # Twenty lines of chatter for each chunk.
    "SVT_LOG": "1",
}


@dataclass
class _Process:
    """A living process, and the task that passes on what it says."""

    handle: asyncio.subprocess.Process
    stdin: asyncio.StreamWriter
    stdout: asyncio.StreamReader
    last_words: list[str]
    listener: asyncio.Task[None]


class Child:
    """A process that answers one request at a time, started when it is needed.

    One that says nothing for `stall_seconds` (None: however long) is killed.
    """

    silence = "made no progress"  # what is said of one that was killed

    def __init__(self, name: str, module: str, arguments: Sequence[str], stall_seconds: float | None) -> None:
        self.name = name
        self._command = (module, *arguments)
        self._stall_seconds = stall_seconds
        self._process: _Process | None = None
        self._context = Context()

    async def ask(self, line: str, progress: Progress) -> Any:
        """The answer to a request. Raises what the process reports; WorkerLostError if it dies or stalls.

        Cut off (also by `progress`), it kills the process: that would go on otherwise, and answer when the
        next one asks.
        """
        try:
            event = await self._last_event(line, progress)
        except BaseException:
            await self.kill()
            raise
        if event["event"] == "failed":
            raise _raised(event)
        return event["answer"]

    async def _last_event(self, line: str, progress: Progress) -> dict[str, Any]:
        self._context = copy_context()  # what it says from now on is about this job
        process = await self._living()
        try:
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
        """End the process: its stdin closes; what does not go by itself is killed."""
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
        await process.listener

    async def kill(self) -> None:
        """End the process now; the next request gets a new one."""
        if self._process is not None:
            _kill(self._process)
            await self._lost(self._process)

    async def _living(self) -> _Process:
        """The process; a new one if it died between two requests, which is the fault of neither."""
        if self._process is not None and self._process.handle.returncode is not None:
            log.warning("%s with nothing to do: a new one is started", await self._lost(self._process))
        if self._process is None:
            self._process = await self._started()
        return self._process

    async def _started(self) -> _Process:
        handle = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", f"{__package__}.child", str(os.getpid())),
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=LINE_LIMIT,
            start_new_session=True,  # a terminal's Ctrl-C is the parent's to answer
            env=ENVIRONMENT | os.environ,
        )
        assert handle.stdin is not None
        assert handle.stdout is not None
        assert handle.stderr is not None
        words: list[str] = []
        listener = asyncio.create_task(self._listen(handle.stderr, words))
        return _Process(handle, handle.stdin, handle.stdout, words, listener)

    async def _event(self, process: _Process) -> dict[str, Any]:
        line = await self._unless_stalled(process, process.stdout.readline)
        if not line.endswith(b"\n"):
            raise await self._lost(process)
        event: dict[str, Any] = json.loads(line)
        return event

    async def _unless_stalled(self, process: _Process, wait: Callable[[], Awaitable[T]]) -> T:
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

    def _work_of(self, process: _Process) -> object:
        """What differs from one moment to another if a process that says nothing works all the same."""
        return None

    async def _lost(self, process: _Process) -> WorkerLostError:
        self._process = None
        code = await process.handle.wait()
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


def _kill(process: _Process) -> None:
    if process.handle.returncode is None:
        with suppress(ProcessLookupError):  # it has just ended, and asyncio has not heard of it yet
            os.killpg(process.handle.pid, signal.SIGKILL)


def _raised(event: dict[str, Any]) -> InvsrError:
    kind = getattr(records, event["kind"])
    error: InvsrError = kind(event["message"])
    return error


class Worker(Child):
    """One worker process, on a device of its own."""

    def __init__(self, device: str, threads: int, stall_seconds: float | None = None) -> None:
        arguments = ("--device", device, "--threads", str(threads))
        super().__init__(f"the worker on {device}", "invsr_daemon.worker", arguments, stall_seconds)
        self.device = device

    async def run(self, task: Task, progress: Progress) -> float:
        """Do a task; its seconds. Raises as `ask` does."""
        return float(await self.ask(dump_task(task), progress))


class MediaProcess(Child):
    """A process that reads strangers' files. It does not say how far it is, but works by reading and writing.

    So that is looked at from here: at the end of a long film FFmpeg moves all of it, in one call.
    """

    silence = "has read and written nothing"

    def __init__(self, stall_seconds: float | None) -> None:
        super().__init__("the media process", "invsr_daemon.media_process", (), stall_seconds)

    def _work_of(self, process: _Process) -> object:
        """Bytes read and written; a kernel that does not count them lets the process have its time."""
        try:
            counted = Path(f"/proc/{process.handle.pid}/io").read_text()
        except OSError:
            return object()
        return counted.partition("syscr")[0]  # not of calls: at the end of a file they read nothing


class MediaProcesses:
    """Media processes: as many as are asked at once, and none for long when idle."""

    def __init__(self, stall_seconds: float | None = None) -> None:
        self._stall_seconds = stall_seconds
        self._idle: dict[Child, asyncio.TimerHandle] = {}
        self._leaving: set[asyncio.Task[None]] = set()

    async def look(self, job: Job) -> Plan:
        """The plan of a job. Raises InputError, ConfigError, WorkerLostError."""
        return plan_of(await self._ask(Look(job)))

    async def join(self, plan: Plan, partial: Path) -> None:
        """Put a plan's pieces together in `partial`. Raises InputError, OutputError, ResourceError."""
        await self._ask(Join(plan, partial))

    async def check(self, settings: Sequence[VideoSettings]) -> list[str | None]:
        """For each of these settings why no film can be encoded with it, if so. Raises WorkerLostError."""
        problems: list[str | None] = await self._ask(Check(tuple(settings)))
        return problems

    async def stop(self) -> None:
        while self._idle:
            self._retire(next(iter(self._idle)))
        if self._leaving:
            await asyncio.wait(self._leaving)

    async def _ask(self, request: Request) -> Any:
        child = self._taken()
        try:
            return await child.ask(dump_request(request), _no_progress)
        finally:
            if child.pid is not None:
                loop = asyncio.get_running_loop()
                self._idle[child] = loop.call_later(IDLE_SECONDS, self._retire, child)

    def _taken(self) -> Child:
        if not self._idle:
            return MediaProcess(self._stall_seconds)
        child, retiring = self._idle.popitem()
        retiring.cancel()
        return child

    def _retire(self, child: Child) -> None:
        self._idle.pop(child).cancel()
        leaving = asyncio.create_task(child.stop())
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)


def _no_progress(frames: int) -> None:
    pass


@dataclass
class _Waiter:
    """Someone who wants a worker: any but `avoid`, if there are others at all."""

    future: asyncio.Future[Worker]
    avoid: Worker | None


class Pool:
    """Workers, leased by priority, then in the order they were asked for; a dead one is replaced."""

    def __init__(self, devices: tuple[str, ...], threads: int, stall_seconds: float | None = None) -> None:
        self.workers = [Worker(device, threads, stall_seconds) for device in devices]
        self.media = MediaProcesses(stall_seconds)
        self._idle = list(self.workers)
        self._waiting: list[tuple[Priority, int, _Waiter]] = []
        self._asked = count()
        self._paused = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await asyncio.gather(self.media.stop(), *(worker.stop() for worker in self.workers))

    @property
    def busy(self) -> int:
        """How many workers are leased."""
        return len(self.workers) - len(self._idle)

    def pause(self) -> None:
        """Lease no worker until `resume`; those that are leased go on."""
        self._paused = True

    def resume(self) -> None:
        """Lease workers again."""
        self._paused = False
        self._match()

    @asynccontextmanager
    async def lease(self, priority: Priority = (), avoid: Worker | None = None) -> AsyncIterator[Worker]:
        """A worker; lower priorities come first. `avoid`: rather another than this one."""
        worker = await self._leased(priority, avoid)
        try:
            yield worker
        finally:
            self._give_back(worker)

    async def _leased(self, priority: Priority, avoid: Worker | None) -> Worker:
        waiter = _Waiter(asyncio.get_running_loop().create_future(), avoid)
        heapq.heappush(self._waiting, (priority, next(self._asked), waiter))
        self._match()
        try:
            return await waiter.future
        except asyncio.CancelledError:
            if waiter.future.done() and not waiter.future.cancelled():  # handed over in this very moment
                self._give_back(waiter.future.result())
            raise

    def _give_back(self, worker: Worker) -> None:
        self._idle.append(worker)
        self._match()

    def _match(self) -> None:
        """Hand idle workers to whoever waits, the first in line first."""
        passed: list[tuple[Priority, int, _Waiter]] = []
        while self._idle and self._waiting and not self._paused:
            entry = heapq.heappop(self._waiting)
            waiter = entry[-1]
            if waiter.future.done():  # cancelled while it waited
                continue
            fitting = [w for w in self._idle if w is not waiter.avoid or len(self.workers) == 1]
            if not fitting:
                passed.append(entry)
                continue
            self._idle.remove(fitting[0])
            waiter.future.set_result(fitting[0])
        for entry in passed:
            heapq.heappush(self._waiting, entry)
