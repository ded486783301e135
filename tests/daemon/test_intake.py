"""From a file in the inbox to what the runner is told to do, by way of a real store."""

from __future__ import annotations

from pathlib import Path

import pytest

from invsr_daemon.daemon.inbox.arrivals import Arrival
from invsr_daemon.daemon.intake import Intake, runner_job
from invsr_daemon.records import Identity
from invsr_daemon.settings.settings import Settings
from invsr_daemon.store.store import STORE_FILE, Store


@pytest.mark.parametrize(("given", "named"), [("default", "default"), ("path", "tiny-random")])
def test_a_model_given_as_a_path_does_not_lead_a_result_out_of_its_folder(
    tmp_path: Path, tiny_model_dir: Path, given: str, named: str
) -> None:
    model = str(tiny_model_dir) if given == "path" else given
    settings = Settings(outbox=tmp_path / "outbox", model=model, results={"name": "{stem}-{model}"})
    relative = Path("sub/film.mp4")
    arrival = Arrival(tmp_path / "inbox" / relative, relative, Identity(1, 2, 3))
    with Store.open(tmp_path / STORE_FILE) as store:
        store.accept([Intake(settings).new_job(arrival)], 1.0)
        row = store.claim("film", 2.0)
    assert row is not None
    target = runner_job(row, settings).target.path(".mp4")
    assert target == tmp_path / "outbox" / "sub" / f"film-{named}.mp4"
