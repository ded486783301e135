"""What `invsr-daemon doctor` asks in a process of its own: a broken driver may crash it, or hang it.

    python -m invsr_daemon.doctor_probe torch
    python -m invsr_daemon.doctor_probe encoders '[{"codec": "h264", ...}]'

One JSON object per line on stdout, each as soon as it is known; all else goes to stderr.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from .media.colour import BT709, STUDIO
from .media.decode import RgbFrame
from .media.encode import open_chunk
from .records import Chunk, Colour, InvsrError, VideoInfo, VideoSettings

# Hardware encoders refuse smaller pictures.
SIDE = 256


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


def encoding_problem(settings: VideoSettings) -> str | None:
    """Why a frame cannot be encoded with these settings, the way that jobs do it; None if it can."""
    info = VideoInfo(
        path=Path(),
        container="",
        stream=0,
        codec="",
        width=SIDE,
        height=SIDE,
        depth=8,
        time_base=Fraction(1, 25),
        rate=Fraction(25),
        colour=Colour(BT709, BT709, BT709, STUDIO),
        sample_aspect_ratio=None,
        display_matrix=None,
        others=(),
        notes=(),
    )
    frame = RgbFrame(0, np.zeros((SIDE, SIDE, 3), np.uint8))
    with tempfile.TemporaryDirectory() as folder:
        try:
            with open_chunk(
                Path(folder) / "try.nut", info, Chunk(0, 0, (0,), None), settings, 1.0
            ) as encoder:
                encoder.encode(frame)
        except InvsrError as error:
            return str(error)
    return None


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
