"""Checks of the models and encoders that the settings ask for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from .. import hub
from ..errors import ModelError
from ..records import VideoSettings
from ..settings.settings import Settings
from ..systemd.service import NAME
from .findings import Finding
from .machine import ask_probe

# With the pixel format that each takes; a server without a GPU does well without most of them.
ENCODERS = {
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


def check_models(settings: Settings) -> Iterator[Finding]:
    used = dict.fromkeys((each.model, each.models_dir) for each in settings.variants().values())
    for model, models_dir in used:
        yield _model(model, models_dir)


def _model(model: str, models_dir: Path | None) -> Finding:
    name = f"model {model}"
    try:
        known = model in hub.KNOWN
        folder = hub.resolve(model, models_dir) if known else hub.require(model, models_dir)
        problems = hub.verify(model, models_dir) if known else []
    except ModelError as error:
        problems = [str(error)]
    if problems:
        return Finding("FAIL", name, "; ".join(problems), _mend_model(model))
    if model in hub.KNOWN:
        return Finding("OK", name, f"complete and unchanged, in {folder}")
    return Finding("OK", name, f"a directory of your own, {folder}; what is in its files was not checked")


def _mend_model(model: str) -> str:
    known = hub.KNOWN.get(model)
    if known is None:
        return f"set model to a name of `{NAME} models list`, or to a directory"
    return f"install {NAME} again" if known.sources is None else f"{NAME} models pull {model}"


def check_encoders(settings: Settings) -> Iterator[Finding]:
    """Those that the settings want, with those very settings; then the others."""
    from ..media.names import ENCODERS as ENCODER_OF

    wanted = _wanted(settings)
    theirs = {ENCODER_OF.get(video.codec, video.codec) for video in wanted}
    others = [
        VideoSettings(name, 30, "", pixel_format, "auto", 2, ())
        for name, pixel_format in ENCODERS.items()
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
