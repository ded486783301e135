"""How the progress of a command is told to people."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from invsr_daemon.batch.reports import Course, Totals
from invsr_daemon.errors import InputError
from invsr_daemon.files.publishing import PublishPolicy
from invsr_daemon.logs import lasting
from invsr_daemon.records import Identity, ImageInfo, ImageTask
from invsr_daemon.settings.settings import Settings
from invsr_daemon.wire.plans import Job, Plan, Target


def plan_of(work: Path, frames: int, finished: int) -> Plan:
    """So many frames in as many chunks, of which some are finished."""
    settings = Settings()
    model = settings.model_settings(work)
    info = ImageInfo(work / "a.png", "PNG", 4, 4, 8)
    tasks = tuple(
        ImageTask(info, model, settings.image_settings(), work / f"{number}.png") for number in range(frames)
    )
    for task in tasks[:finished]:
        task.output.touch()
    job = Job(info.path, Target(work, "b"), settings, model, "", "", PublishPolicy())
    return Plan(
        job, Identity(1, 2, 3), "key", work, work / "b.png", frames, tasks, film=None, layout=None, notes=()
    )


def test_a_course_tells_speed_and_time_left_of_this_run(tmp_path: Path) -> None:
    course = Course(plan_of(tmp_path, frames=300, finished=224))
    assert course.begun() == "300 frames in 300 chunks, 224 frames done before"
    course.add(224)
    assert str(course) == "224 of 300 frames (74 %)", "nothing is known of the speed yet"
    course.add(1)
    time.sleep(0.2)
    course.add(2)
    found = re.fullmatch(r"227 of 300 frames \(75 %\), (\d+\.\d) a second, about (\d+) s left", str(course))
    assert found, str(course)
    speed, left = map(float, found.groups())
    assert 1 < speed <= 10
    assert left == pytest.approx(73 / speed, rel=0.1, abs=1)


def test_what_a_worker_had_done_when_it_died_is_taken_back(tmp_path: Path) -> None:
    course = Course(plan_of(tmp_path, frames=10, finished=0))
    assert course.begun() == "10 frames in 10 chunks"
    for frames in (0, 1, 1, -2):
        course.add(frames)
    assert str(course) == "0 of 10 frames (0 %)"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.9, "1 min 0 s"), (86, "1 min 26 s"), (7_530, "2 h 5 min")],
)
def test_time_is_told_in_words(seconds: float, said: str) -> None:
    assert lasting(seconds) == said


def test_totals_name_what_was_left_only_if_there_is_any() -> None:
    failed = {Path("a"): InputError("damaged")}
    assert str(Totals(20, 0, failed, 0, 1)) == "20 restored, 1 failed, 0 were there"
    assert str(Totals(1, 2, {}, 3, 130)) == "1 restored, 0 failed, 2 were there, 3 unfinished"
