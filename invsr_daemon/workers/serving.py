"""What a process that serves the parent is like: a request a line on stdin, events as JSON lines on stdout.

    python -m invsr_daemon.workers.serving PARENT MODULE ARGUMENTS...

runs a module that dies with the process PARENT, at once, also while it still loads torch. When its stdin
closes it ends, too.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import queue
import runpy
import signal
import sys
import threading
from collections.abc import Callable
from typing import IO, Any

from ..wire.events import Progress, event_of

PR_SET_PDEATHSIG = 1  # prctl(2)


def main() -> None:
    parent, module, *arguments = sys.argv[1:]
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != int(parent):  # it died before that was said
        os._exit(0)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def serve(answer: Callable[[str, Progress], Any]) -> None:
    """Answer requests, one after the other, for ever. `answer` may tell of frames that are done meanwhile."""
    events = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    # Libraries print to stdout at C's level: only events may go there.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read_lines, args=(sys.stdin, lines), daemon=True).start()

    def send(event: dict[str, Any]) -> None:
        events.write(json.dumps(event) + "\n")

    def progress(frames: int) -> None:
        send({"event": "progress", "frames": frames})

    send({"event": "ready"})
    while True:
        send(event_of(answer, lines.get(), progress))


def _read_lines(stdin: IO[str], lines: queue.Queue[str]) -> None:
    for line in stdin:
        lines.put(line)
    os._exit(0)


if __name__ == "__main__":
    main()
