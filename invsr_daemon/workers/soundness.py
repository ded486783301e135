"""Whether a device computes as it should, tried in a process of its own.

    python -m invsr_daemon.workers.soundness cuda:0

prints {"problem": TEXT or null} as a line of JSON.
"""

from __future__ import annotations

import json
import os
import sys

import torch
from torch import Tensor
from torch.nn import functional

SIDE = 256
# Of float32, in relation to the largest value: rounding, and TF32 where a card has it, stay far below.
TOLERANCE = 0.01


def device_problem(device: str) -> str | None:
    """What is wrong with a device; None if it multiplies and convolves as the CPU does."""
    try:
        return _compared(torch.device(device))
    except (RuntimeError, AssertionError) as error:  # the latter from a torch that was built without CUDA
        first = str(error).strip().partition("\n")[0]
        return f"it raises {type(error).__name__}: {first}"


def _compared(device: torch.device) -> str | None:
    """Each operation on both, with the same numbers."""
    draws = torch.Generator().manual_seed(0)
    matrix = torch.randn(SIDE, SIDE, generator=draws)
    kernel = torch.randn(8, 8, 3, 3, generator=draws)
    picture = matrix.reshape(1, 8, SIDE, SIDE // 8)
    wrong = []
    if _differ(matrix @ matrix, matrix.to(device) @ matrix.to(device)):
        wrong.append("multiplies matrices wrongly")
    convolved = functional.conv2d(picture.to(device), kernel.to(device))
    if _differ(functional.conv2d(picture, kernel), convolved):
        wrong.append("convolves wrongly")
    return f"it {' and '.join(wrong)}" if wrong else None


def _differ(expected: Tensor, found: Tensor) -> bool:
    """Also if anything is not finite."""
    return not bool((found.cpu() - expected).abs().max() <= TOLERANCE * expected.abs().max())


def main() -> None:
    # Libraries print to stdout at C's level: only the answer may go there.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    answers.write(json.dumps({"problem": device_problem(sys.argv[1])}) + "\n")


if __name__ == "__main__":
    main()
