"""Tasks come out of JSON as they went in: exact times, odd names."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from invsr_daemon.records import (
    Chunk,
    Colour,
    ImageInfo,
    ImageSettings,
    ImageTask,
    ModelSettings,
    SeekPoint,
    StreamInfo,
    Task,
    TemporalSettings,
    VideoInfo,
    VideoSettings,
    VideoTask,
)
from invsr_daemon.wire.tasks import dump_task, parse_task

BIG = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1)
NAMES = st.binary(min_size=1, max_size=40).filter(lambda name: b"\0" not in name and b"/" not in name)
PATHS = NAMES.map(lambda name: Path("/in") / os.fsdecode(name))
FRACTIONS = st.fractions(min_value=Fraction(1, 2**31), max_value=2**31)
SEEKS = st.none() | st.builds(SeekPoint, st.integers(0, 2**40), BIG)
COLOURS = st.builds(Colour, *[st.integers(0, 22)] * 4)
TIMES = st.lists(BIG, max_size=5).map(tuple)
CHUNKS = st.builds(Chunk, st.integers(0, 10**6), st.integers(0, 10**9), TIMES, SEEKS, TIMES, TIMES)
MODELS = st.builds(
    ModelSettings,
    model=TEXT,
    timesteps=st.lists(st.integers(1, 1000)).map(tuple),
    scale=st.floats(1, 4),
    seed=st.integers(0, 2**62),
    tile=st.none() | st.integers(16, 4096),
    guidance_scale=st.floats(1, 20),
    temporal=st.builds(TemporalSettings, static_tolerance=st.floats(0, 255)),
)
INFOS = st.builds(
    VideoInfo,
    path=PATHS,
    time_base=FRACTIONS,
    rate=FRACTIONS,
    colour=COLOURS,
    sample_aspect_ratio=st.none() | FRACTIONS,
    display_matrix=st.none() | st.tuples(*[st.integers(-(2**31), 2**31 - 1)] * 9),
    others=st.lists(st.builds(StreamInfo, st.integers(0, 99), TEXT, TEXT), max_size=3).map(tuple),
    notes=st.lists(TEXT, max_size=3).map(tuple),
)
VIDEOS = st.builds(VideoSettings, options=st.lists(st.tuples(TEXT, TEXT), max_size=3).map(tuple))
TASKS = st.builds(
    VideoTask, info=INFOS, chunk=CHUNKS, model=MODELS, video=VIDEOS, output=PATHS, kind=st.just("video")
) | st.builds(
    ImageTask,
    info=st.builds(ImageInfo, path=PATHS),
    model=MODELS,
    image=st.builds(ImageSettings),
    output=PATHS,
    kind=st.just("image"),
)


@given(TASKS)
def test_a_task_survives_the_wire(task: Task) -> None:
    line = dump_task(task)
    assert line.endswith("\n")
    assert len(line.splitlines()) == 1
    parsed = parse_task(line.encode("ascii").decode())
    assert parsed == task
    assert type(parsed) is type(task)


@given(TASKS)
def test_types_survive_too(task: Task) -> None:
    """Equality alone would take a float for a fraction, and a list of strings for paths."""
    parsed = parse_task(dump_task(task))
    assert isinstance(parsed.output, Path)
    assert os.fsencode(parsed.info.path) == os.fsencode(task.info.path)
    if isinstance(parsed, VideoTask):
        assert isinstance(parsed.info.time_base, Fraction)
        assert isinstance(parsed.chunk.pts, tuple)
        assert hash(parsed) == hash(task)
