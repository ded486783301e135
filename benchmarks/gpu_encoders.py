"""A stage of `gpu.py`: how quickly restored frames are encoded. It needs PyAV."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
from gpu_device import Setting
from gpu_models import picture
from gpu_results import Findings

from invsr_daemon.errors import InvsrError
from invsr_daemon.media.decode import RgbFrame
from invsr_daemon.media.encode import chunk_suffix, open_chunk
from invsr_daemon.media.trial import video_of
from invsr_daemon.records import Chunk, VideoSettings

SIZES = ((2560, 1440), (7680, 4320))
ENCODERS = ("h264_nvenc", "hevc_nvenc", "av1_nvenc")
FRAMES = 24


def encode_stage(setting: Setting, found: Findings) -> None:
    """Frames a second of each encoder that works here; one that does not is no failure, for cards differ."""
    sizes = ((320, 180), (640, 360)) if setting.dry else SIZES
    for width, height in sizes:
        for name in ("libx264",) if setting.dry else ENCODERS:
            label = f"{name} at {width}x{height}"
            try:
                seconds, size = _encoded(name, width, height)
            except InvsrError as error:
                found.figure(label, f"not usable: {error}"[:200])
                continue
            found.figure(f"{label}, frames per second", FRAMES / seconds)
            found.check(f"{label} writes a file", size > 0, size, "> 0 bytes")


def _encoded(encoder: str, width: int, height: int) -> tuple[float, int]:
    """Seconds for FRAMES frames that pan, and the file's bytes. Raises InvsrError."""
    wide = (picture(height, width + 2 * FRAMES)[0] * 255).round().byte().permute(1, 2, 0).numpy()
    settings = VideoSettings(encoder, 20, "", "yuv420p", "auto", 2, ())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"chunk{chunk_suffix(encoder)}"
        began = time.monotonic()
        chunk = Chunk(0, 0, tuple(range(FRAMES)), None)
        with open_chunk(path, video_of(width, height), chunk, settings, 1.0) as opened:
            for index in range(FRAMES):
                pixels = np.ascontiguousarray(wide[:, 2 * index : 2 * index + width])
                opened.encode(RgbFrame(index, pixels))
        return time.monotonic() - began, path.stat().st_size
