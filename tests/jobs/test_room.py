"""The size of a result, before there is one: of real films, and on a disk that is too small."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from invsr_daemon.errors import NoRoomError
from invsr_daemon.jobs.room import BYTES_PER_FILM, check_room, result_bytes
from invsr_daemon.media.encode import chunk_suffix
from invsr_daemon.media.probe import plan_chunks
from invsr_daemon.records import VideoTask
from invsr_daemon.wire.plans import Plan
from tests.support.mediafiles import Sound, Subtitles, make_film, pass_through, video_settings
from tests.support.plans import plan_of


def joined(path: Path, container: str) -> tuple[Plan, int]:
    """A film's plan with its pieces, and the size of the result that they were joined to."""
    copy = pass_through(path, container=container)
    empty, film, video = plan_of(path.parent, 0), copy.source, video_settings()
    suffix = chunk_suffix(video.codec)
    tasks = tuple(
        VideoTask(
            film.info, chunk, empty.job.model, video, path.with_name(f"{path.stem}-{chunk.index}{suffix}")
        )
        for chunk in plan_chunks(film, 8)
    )
    plan = replace(empty, tasks=tasks, frames=len(film.pts), film=film, layout=copy.layout)
    return plan, copy.path.stat().st_size


@pytest.mark.parametrize("container", ["mp4", "mkv", "mov", "nut"])
def test_a_film_needs_no_more_than_the_estimate_and_not_much_less(tmp_path: Path, container: str) -> None:
    make_film(
        tmp_path / "a.mkv",
        sounds=[Sound(seconds=60), Sound("pcm_s16le", seconds=20)],
        subtitles=[Subtitles("subrip")],
        attachment=b"font" * 40_000,
        pts=range(0, 12_000, 100),
    )
    plan, size = joined(tmp_path / "a.mkv", container)
    assert size <= result_bytes(plan) <= 1.1 * size + BYTES_PER_FILM


def test_a_picture_needs_what_its_piece_has(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, 1)
    plan.tasks[0].output.write_bytes(bytes(12_345))
    assert result_bytes(plan) == 12_345
    check_room(plan)


def test_what_cannot_fit_says_how_much_it_needs_and_how_much_is_free(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, 1)
    with plan.tasks[0].output.open("wb") as file:
        file.truncate(2**43)  # sparse
    with pytest.raises(NoRoomError, match=rf"about 8388608\.0 MiB, and [\d.]+ MiB are free in {tmp_path}"):
        check_room(plan)
