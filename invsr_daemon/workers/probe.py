"""What `invsr-daemon doctor` asks in a process of its own: a broken driver may crash it, or hang it.

    python -m invsr_daemon.workers.probe torch
    python -m invsr_daemon.workers.probe encoders '[{"codec": "h264", ...}]'

One JSON object per line on stdout, each as soon as it is known; all else goes to stderr.
"""

from __future__ import annotations

import json
import os
import sys
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


def main() -> None:
    # Libraries print to stdout at C's level: only answers may go there.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    question, *details = sys.argv[1:]
    if question == "torch":
        answers.write(json.dumps(torch_and_devices()) + "\n")
        return
    for described in json.loads(details[0]):
        answers.write(json.dumps({"problem": encoding_problem(_settings(described))}) + "\n")


if __name__ == "__main__":
    main()
