"""What a process taken over by a hostile file would try, and what came of it; and processes that do.

    python -m tests.support.misbehaving media | worker

They serve the parent as the real ones do, confined by the same functions, but try these instead of their
work.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from invsr_daemon.errors import InputError
from invsr_daemon.wire.events import Progress
from invsr_daemon.workers import media
from invsr_daemon.workers.serving import serve, serve_apart


def attempts(site: Path, port: int, *, of_a_worker: bool = False) -> dict[str, str]:
    """What each attempt ended with: "done", or the error's name. Workers may have sockets."""
    tries: dict[str, Callable[[], object]] = {
        "read the store": (site / "state/jobs.sqlite").read_bytes,
        "read another's input": (site / "inbox/other.png").read_bytes,
        "list the inbox": lambda: os.listdir(site / "inbox"),
        "write into the outbox": lambda: (site / "outbox/result.png").write_bytes(b"mine"),
        "write into the inbox": lambda: (site / "inbox/new.png").write_bytes(b"mine"),
        "remove a result": (site / "outbox/old.png").unlink,
        "link a result": lambda: os.symlink("/etc/passwd", site / "outbox/link.png"),
        "write a temporary file": lambda: Path("/tmp/misbehaving").write_bytes(b"mine"),
        "read who the users are": Path("/etc/passwd").read_bytes,
        "read the parent's memory": Path(f"/proc/{os.getppid()}/mem").read_bytes,
        "kill the daemon": lambda: os.kill(int(os.environ["MISBEHAVE_AGAINST"]), signal.SIGWINCH),
        "connect": lambda: socket.create_connection(("127.0.0.1", port), timeout=5).close(),
        "listen": lambda: socket.create_server(("127.0.0.1", 0)).close(),
        "run a program": _run_a_program,
        **({} if of_a_worker else {"send a datagram": _send_a_datagram}),
    }
    return {name: _outcome(attempt) for name, attempt in tries.items()}


def _send_a_datagram() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.sendto(b"mine", ("127.0.0.1", 9))


def _run_a_program() -> None:
    process = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(process, 0)


def _outcome(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except OSError as error:
        return type(error).__name__
    return "done"


def _told(*, of_a_worker: bool) -> NoReturn:
    site, port = Path(os.environ["MISBEHAVE_IN"]), int(os.environ["MISBEHAVE_AT"])
    raise InputError(json.dumps(attempts(site, port, of_a_worker=of_a_worker)))


def _worker(line: str, source: int | None, progress: Progress) -> Any:
    _told(of_a_worker=True)


def main() -> None:
    if sys.argv[1] == "worker":
        serve(_worker)
    media.plan_job = lambda *_: _told(of_a_worker=False)
    serve_apart(media.answer)


if __name__ == "__main__":
    main()
