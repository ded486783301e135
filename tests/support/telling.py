"""A process that tells of progress at each request, waits a moment, and answers with the request."""

from __future__ import annotations

import time

from invsr_daemon.wire.events import Progress
from invsr_daemon.workers.serving import serve


def answer(line: str, descriptor: int | None, progress: Progress) -> str:
    progress(1)
    time.sleep(0.1)
    return line.strip()


if __name__ == "__main__":
    serve(answer)
