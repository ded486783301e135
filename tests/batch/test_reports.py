"""How the progress of a command is told to people."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest

from invsr_daemon.batch.reports import Course, Events, Report, Totals
from invsr_daemon.errors import InputError
from invsr_daemon.jobs.observing import Result
from invsr_daemon.logs import lasting
from tests.support.plans import plan_of


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


def test_what_a_worker_did_without_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    note = "the memory of cuda:0 was short: made with tiles of 32"
    result = Result(plan_of(tmp_path, 1), tmp_path / "b.png", computed=1, wants=(note,))
    Report().done(tmp_path / "a.png", result, 1.0)
    Events().done(tmp_path / "a.png", result, 1.0)
    printed = capsys.readouterr()
    assert f"a.png: note: {note}" in printed.err
    assert json.loads(printed.out)["notes"] == [note]
