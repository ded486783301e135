"""Whether a device computes as it should, tried in a process of its own.

    python -m invsr_daemon.workers.soundness cuda:0

prints {"problem": TEXT or null} as a line of JSON.
"""

from __future__ import annotations

import json
import os
import sys

import torch

from .device_trial import convolutions, products


def device_problem(device: str) -> str | None:
    """What is wrong with a device; None if it multiplies and convolves as the CPU does."""
    try:
        seen = [compute(torch.device(device)) for compute in (products, convolutions)]
    except (RuntimeError, AssertionError) as error:  # the latter from a torch that was built without CUDA
        first = str(error).strip().partition("\n")[0]
        return f"it raises {type(error).__name__}: {first}"
    return "; ".join(each.text for each in seen if each.problem) or None


def main() -> None:
    # Libraries print to stdout at C's level: only the answer may go there.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    answers.write(json.dumps({"problem": device_problem(sys.argv[1])}) + "\n")


if __name__ == "__main__":
    main()
