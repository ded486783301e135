"""A process that answers each request after so many signs of life, a tenth of a second apart."""

from __future__ import annotations

import time

from invsr_daemon.wire.events import Progress
from invsr_daemon.workers.serving import serve


def answer(line: str, source: int | None, progress: Progress) -> int:
    for _ in range(int(line)):
        progress(1)
        time.sleep(0.1)
    return int(line)


if __name__ == "__main__":
    serve(answer)
