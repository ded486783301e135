"""What a process that serves the parent is like: a request a line on stdin, events as JSON lines on stdout.

    python -m invsr_daemon.workers.serving PARENT ALLOWED MODULE ARGUMENTS...

runs a module that dies with the process PARENT, at once, also while it still loads torch. When its stdin
closes it ends, too. ALLOWED, if it is not empty, is all that it may reach from the beginning. With each
request comes the file that it is about, open, through a socket.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import runpy
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable
from typing import IO, Any

from ..confinement import Allowed, confine, die_before_others, die_with, leave_no_core
from ..errors import WorkerLostError
from ..wire.descriptors import VARIABLE, receive_descriptor
from ..wire.events import Progress, event_of, failed_event

# What a request asks for: it is given the request, the file that goes along, and whom to tell of progress.
Answer = Callable[[str, int | None, Progress], Any]
READY = {"event": "ready"}


def main() -> None:
    parent, allowed, module, *arguments = sys.argv[1:]
    die_with(int(parent))
    die_before_others()
    leave_no_core()
    if allowed:
        confine(Allowed.of_line(allowed))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def serve(answer: Answer) -> None:
    """Answer requests, one after the other, for ever. `answer` may tell of frames that are done meanwhile."""
    channel, events = _channel(), _Events()
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read_lines, args=(sys.stdin, lines), daemon=True).start()
    events.send(READY)
    while True:
        line = lines.get()
        descriptor = receive_descriptor(channel)
        events.send(_answered(answer, line, descriptor, events))
        if descriptor is not None:
            os.close(descriptor)


def serve_apart(answer: Answer) -> None:
    """Answer requests, each in a process of its own that may give up rights, and die, by itself.

    It is forked, so that it need not load anything.
    """
    channel, events = _channel(), _Events()
    events.send(READY)
    for line in sys.stdin:
        descriptor = receive_descriptor(channel)
        server = os.getpid()
        apart = os.fork()
        if apart == 0:
            die_with(server)
            channel.close()
            events.send(_answered(answer, line, descriptor, events))
            os._exit(0)
        if descriptor is not None:
            os.close(descriptor)
        code = _end_of(apart)
        if code:
            events.send(failed_event(WorkerLostError(f"the media process {_how(code)}")))


class _Events:
    """What the parent is told."""

    def __init__(self) -> None:
        self._stream = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
        # Libraries print to stdout at C's level: only events may go there.
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")

    def send(self, event: dict[str, Any]) -> None:
        self._stream.write(json.dumps(event) + "\n")

    def progress(self, frames: int) -> None:
        self.send({"event": "progress", "frames": frames})


def _channel() -> socket.socket:
    return socket.socket(fileno=int(os.environ[VARIABLE]))


def _answered(answer: Answer, line: str, descriptor: int | None, events: _Events) -> dict[str, Any]:
    return event_of(lambda request, progress: answer(request, descriptor, progress), line, events.progress)


def _end_of(process: int) -> int:
    """How a process ended: its exit code, or minus a signal. If stdin closes before, both end."""
    watched = os.pidfd_open(process)
    try:
        ready, _, _ = select.select([sys.stdin, watched], [], [])
        if watched not in ready:  # no request comes before the answer: this is the end
            os.kill(process, signal.SIGKILL)
            os._exit(0)
    finally:
        os.close(watched)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def _how(code: int) -> str:
    if code > 0:
        return f"ended with code {code}"
    name = signal.Signals(-code).name
    memory = " (so the kernel does when memory ends)" if name == "SIGKILL" else ""
    return f"was killed by {name}{memory}"


def _read_lines(stdin: IO[str], lines: queue.Queue[str]) -> None:
    for line in stdin:
        lines.put(line)
    os._exit(0)


if __name__ == "__main__":
    main()
