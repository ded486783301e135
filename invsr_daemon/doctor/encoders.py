"""Checks of the encoders: those that the settings ask for, and what else this machine has."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict

from ..media.names import ENCODERS
from ..records import VideoSettings
from ..settings.settings import Settings
from .findings import Finding
from .machine import ask_probe

# With the pixel format that each takes; a server without a GPU does well without most of them.
TRIED_ENCODERS = {
    "libx264": "yuv420p",
    "libx265": "yuv420p",
    "libsvtav1": "yuv420p",
    "ffv1": "yuv420p",
    "h264_nvenc": "yuv420p",
    "hevc_nvenc": "yuv420p",
    "av1_nvenc": "yuv420p",
    "h264_vaapi": "nv12",
    "hevc_vaapi": "nv12",
    "av1_vaapi": "nv12",
    "h264_qsv": "nv12",
    "hevc_qsv": "nv12",
    "av1_qsv": "nv12",
}


def check_encoders(settings: Settings) -> Iterator[Finding]:
    """Those that the settings want, with those very settings; then the others."""
    wanted = _wanted(settings)
    theirs = {ENCODERS.get(video.codec, video.codec) for video in wanted}
    others = [
        VideoSettings(name, 30, "", pixel_format, "auto", 2, ())
        for name, pixel_format in TRIED_ENCODERS.items()
        if name not in theirs
    ]
    tried = [*wanted, *others]
    answers = ask_probe("encoders", json.dumps([asdict(each) for each in tried]))
    problems = [answer["problem"] for answer in answers.lines]
    problems += [f"it could not be tried: {answers.problem}"] * (len(tried) - len(problems))
    unusable = []
    for video, problem in zip(tried, problems, strict=False):
        if problem and video not in wanted:
            unusable.append(f"{video.codec} ({problem.rpartition(': ')[2]})")
        else:
            yield _encoder(video, problem, wanted.get(video))
    if unusable:
        yield Finding("INFO", "encoders not usable here, nor asked for", ", ".join(unusable))


def _wanted(settings: Settings) -> dict[VideoSettings, str]:
    """Each way of encoding that is asked for, and where: `video`, `presets.NAME.video`."""
    found: dict[VideoSettings, str] = {}
    for place, each in settings.variants().items():
        found.setdefault(each.video_settings(), f"{place}video")
    return found


def _encoder(video: VideoSettings, problem: str | None, wanted_by: str | None) -> Finding:
    if wanted_by is not None:
        name = f"encoder {video.codec} ({wanted_by})"
        if problem:
            return Finding("FAIL", name, problem, f"change {wanted_by}: its codec, preset or options")
        return Finding("OK", name, "encodes")
    return Finding("OK", f"encoder {video.codec}", "encodes")
