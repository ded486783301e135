"""What `invsr-daemon doctor` asks in a process of its own: a broken driver may crash it, or hang it.

    python -m invsr_daemon.workers.probe torch
    python -m invsr_daemon.workers.probe encoders '[{"codec": "h264", ...}]'
    python -m invsr_daemon.workers.probe device cuda:0    # what it computes
    python -m invsr_daemon.workers.probe lose cuda:0      # a failed assertion on it
    python -m invsr_daemon.workers.probe products cuda:0  # does it still compute?

One JSON object per line on stdout, each as soon as it is known; all else goes to stderr.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from ..media.trial import encoding_problem
from ..records import VideoSettings


def torch_and_devices() -> dict[str, Any]:
    """Torch's version, what it was built for, and its devices with their memory in bytes."""
    import torch

    return {
        "version": torch.__version__,
        "built_for": _built_for(torch.version.cuda, torch.version.hip),
        "devices": [
            {
                "name": f"cuda:{index}",
                "model": torch.cuda.get_device_name(index),
                "memory": torch.cuda.mem_get_info(index),
            }
            for index in range(torch.cuda.device_count())
        ],
    }


def _built_for(cuda: str | None, hip: str | None) -> str:
    if cuda:
        return f"CUDA {cuda}"
    return f"ROCm {hip}" if hip else "the CPU alone"


def _settings(described: dict[str, Any]) -> VideoSettings:
    options = tuple((str(name), str(value)) for name, value in described["options"])
    return VideoSettings(**{**described, "options": options})


def trial(question: str, name: str) -> Iterator[dict[str, Any]]:
    """What is seen of a device."""
    import torch

    from .device_trial import examined, fail_assertion, products

    device = torch.device(name)
    if question == "device":
        yield from map(asdict, examined(device))
    elif question == "lose":
        yield {"raised": fail_assertion(device)}
    else:
        yield asdict(products(device))


def answered(question: str, details: list[str]) -> Iterator[dict[str, Any]]:
    if question == "torch":
        yield torch_and_devices()
    elif question == "encoders":
        for described in json.loads(details[0]):
            yield {"problem": encoding_problem(_settings(described))}
    else:
        yield from trial(question, details[0])


def main() -> None:
    # Libraries print to stdout at C's level: only answers may go there.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    question, *details = sys.argv[1:]
    for answer in answered(question, details):
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
