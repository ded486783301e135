"""Films without colour stay so."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from invsr_daemon.media.colour import as_grey, is_grey
from invsr_daemon.media.probe import plan_chunks, probe_video
from invsr_daemon.records import ModelSettings, TemporalSettings, VideoTask
from invsr_daemon.workers.device import DeviceRestorer
from invsr_daemon.workers.restore import restore_chunk
from tests.support.mediafiles import Pixels, flat, make_film, moving, video_settings


def grey(index: int, size: tuple[int, int]) -> Pixels:
    return as_grey(moving(index, size))


def black_then_colour(index: int, size: tuple[int, int]) -> Pixels:
    return (flat(0, 0, 0) if index < 4 else moving)(index, size)


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "paint", "is_grey"),
    [
        ("ffv1", "gray", moving, True),
        ("ffv1", "gray10le", moving, True),
        ("ffv1", "yuv420p", grey, True),
        ("ffv1", "yuv422p10le", grey, True),
        ("libx264", "yuv420p", grey, True),
        ("libx264", "yuv420p", moving, False),
        ("ffv1", "yuv420p", black_then_colour, False),
        ("ffv1", "bgr0", grey, False),
    ],
)
def test_whether_a_film_has_colour(
    tmp_path: Path, codec: str, pix_fmt: str, paint: object, is_grey: bool
) -> None:
    make_film(tmp_path / "a.mkv", codec=codec, pix_fmt=pix_fmt, paint=paint, pts=range(8), size=(50, 34))
    assert probe_video(tmp_path / "a.mkv", 10**6).info.grey == is_grey


@given(arrays(st.sampled_from([np.uint8, np.uint16]), (3, 4, 3)))
def test_greys_stay_as_they_are(pixels: Pixels) -> None:
    once = as_grey(pixels)
    assert once.dtype == pixels.dtype
    assert (once == once[..., :1]).all()
    assert np.array_equal(as_grey(once), once)


@pytest.mark.parametrize("pix_fmt", ["gray", "yuv420p"])
def test_a_restored_film_has_no_colour_either(tmp_path: Path, tiny_model_dir: Path, pix_fmt: str) -> None:
    make_film(tmp_path / "a.mkv", codec="ffv1", pix_fmt=pix_fmt, paint=grey, pts=range(2), size=(32, 32))
    film = probe_video(tmp_path / "a.mkv", 10**6)
    temporal = TemporalSettings("off", 12, 2.0)
    model = ModelSettings(str(tiny_model_dir), (200,), 2.0, 0, 64, 1, 1, "none", 1.0, "fp32", temporal)
    (chunk,) = plan_chunks(film, 8)
    task = VideoTask(film.info, chunk, model, video_settings(codec="ffv1"), tmp_path / "a.nut")
    restore_chunk(task, DeviceRestorer("cpu"), lambda frames: None)
    with av.open(str(task.output)) as chunk_file:
        assert [is_grey(frame) for frame in chunk_file.decode(video=0)] == [True, True]
