"""What the tests of `process` share: a film with sound, settings that cut it small, and what became of it."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.packet import Packet

from tests.support.command import Home

FRAMES = 40
CHUNK = 8
SETTINGS = "small-chunks.yaml"


def make_home(path: Path) -> Home:
    """A home with a file of settings for small chunks."""
    (path / SETTINGS).write_text(f"video: {{chunk_frames: {CHUNK}, preset: ultrafast}}\n")
    return Home(path)


def make_film_with_sound(path: Path) -> Path:
    """48x32, VFR, B-frames, with sound."""
    rng = np.random.default_rng(1)
    backdrop = rng.integers(0, 255, (32, 48 + FRAMES, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        video = container.add_stream(
            "libx264", rate=25, options={"bf": "2", "preset": "ultrafast", "g": "16"}
        )
        video.width, video.height, video.pix_fmt = 48, 32, "yuv420p"
        video.codec_context.time_base = Fraction(1, 1000)
        audio = container.add_stream("aac", rate=16000)
        audio.layout = "mono"
        for index in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(backdrop[:, index : index + 48]))
            frame.pts, frame.time_base = index * 40 + (index % 3) * 7, Fraction(1, 1000)
            container.mux(video.encode(frame))
        for start in range(0, 16000, 1024):
            tone = np.sin(np.arange(start, start + 1024) / 16000 * 2765).astype(np.float32)[None]
            sound = av.AudioFrame.from_ndarray(tone, "fltp", "mono")
            sound.rate, sound.pts = 16000, start
            container.mux(audio.encode(sound))
        container.mux(video.encode(None))
        container.mux(audio.encode(None))
    return path


def times(path: Path) -> list[Fraction]:
    with av.open(str(path)) as container:
        return [exact(frame) for frame in container.decode(video=0)]


def exact(timed: av.VideoFrame | Packet[Any]) -> Fraction:
    assert timed.pts is not None
    assert timed.time_base is not None
    return timed.pts * timed.time_base


def sound(path: Path) -> list[tuple[Fraction, bytes]]:
    with av.open(str(path)) as container:
        packets = container.demux(container.streams.audio[0])
        return [(exact(packet), bytes(packet)) for packet in packets if packet.size]


def listing(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
