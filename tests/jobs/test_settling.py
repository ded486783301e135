"""What decides bits is settled before a job is planned, and stands in its key and its tasks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from invsr_daemon.files.publishing import PublishPolicy
from invsr_daemon.jobs.settling import settled
from invsr_daemon.media.source import OpenFile
from invsr_daemon.pool.protocol import Numerics
from invsr_daemon.settings.settings import Settings
from invsr_daemon.wire.plans import Job, Plan, Target
from invsr_daemon.workers.media import plan_job


@pytest.fixture
def job(tmp_path: Path) -> Job:
    source = tmp_path / "a.png"
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(source)
    settings = Settings.model_validate({"state_dir": tmp_path / "state"})
    model = settings.model_settings(Path("/model"))
    return Job(source, Target(tmp_path / "out", "a"), settings, model, "", PublishPolicy())


def planned(job: Job) -> Plan:
    with job.source.open("rb") as file:
        return plan_job(job, OpenFile(job.source, file.fileno()))


def test_pieces_of_one_precision_do_not_serve_another(job: Job) -> None:
    plans = [planned(settled(job, Numerics(each, 1))) for each in ("fp32", "fp16", "bf16")]
    assert [plan.tasks[0].model.precision for plan in plans] == ["fp32", "fp16", "bf16"]
    assert len({plan.work for plan in plans}) == 3


def test_pieces_of_one_number_of_threads_do_not_serve_another(job: Job) -> None:
    assert len({planned(settled(job, Numerics("fp32", threads))).work for threads in (1, 2, 4)}) == 3


def test_what_is_asked_for_is_kept(job: Job) -> None:
    asked = replace(job, model=replace(job.model, precision="bf16"))
    one, other = (settled(asked, Numerics(each, 2)) for each in ("fp32", "fp16"))
    assert one == other
    assert one.model.precision == "bf16"


def test_auto_gives_the_key_of_what_it_stands_for(job: Job) -> None:
    asked = replace(job, model=replace(job.model, precision="fp32"))
    numerics = Numerics("fp32", 2)
    assert planned(settled(job, numerics)).key == planned(settled(asked, numerics)).key
