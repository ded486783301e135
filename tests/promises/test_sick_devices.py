"""No device, however sick, costs a job its life: the real daemon on cards that fail on purpose.

The cards are names: their workers compute on the CPU (see `tests.support.sick_devices`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import wait_until
from tests.support.daemons import Site, film, kill, picture, stop
from tests.support.sick_devices import UNSEEN

pytestmark = pytest.mark.slow  # starts processes, or computes for long


@pytest.fixture
def ward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Site]:
    """A site whose daemon finds these cards, each well (None) or sick of something."""

    def make(**settings: object) -> Site:
        monkeypatch.setenv("PYTHONPATH", os.getcwd())
        monkeypatch.setenv("SICK_DEVICES", str(tmp_path / "sick.json"))
        failures = {"move_to": str(tmp_path / "failed")}
        # The CPU computes for the cards, and is slow at what cards are quick at.
        site = Site.make(tmp_path / "site", failures=failures, precision="fp32", **settings)
        return replace(site, program="tests.support.sick_devices")

    return make


@pytest.fixture
def cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Say how the cards are from now on."""

    def be(*faults: str | None) -> None:
        named = {f"cuda:{number}": fault for number, fault in enumerate(faults)}
        monkeypatch.setenv("CARDS", ",".join(named))
        partial = tmp_path / "sick.part"
        partial.write_text(json.dumps({card: fault for card, fault in named.items() if fault}))
        partial.rename(tmp_path / "sick.json")

    return be


def drop_pictures(site: Site, count: int) -> None:
    for number in range(count):
        site.drop(picture(site.path / "a.png", seed=number), f"{number}.png")


def told(site: Site) -> dict[str, Any]:
    """What the daemon says of itself; nothing before its first word."""
    return site.status()["daemon"] or {}


def wait_for_all(site: Site, count: int) -> None:
    wait_until(lambda: [row.state for row in site.jobs()] == ["done"] * count, "all are done")


def attempts_that_counted(site: Site) -> int:
    """Attempts that cost a job one of those it has, beside the one that succeeded."""
    return sum(row.attempts - 1 for row in site.jobs())


@pytest.mark.parametrize(
    ("fault", "count"),
    [("abort", 5), ("die", 5), ("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", 40), (UNSEEN, 5)],
)
def test_beside_a_sick_card_a_healthy_one_does_everything(
    ward: Callable[..., Site], cards: Callable[..., None], fault: str, count: int
) -> None:
    site = ward()
    cards(fault, "busy")
    drop_pictures(site, count)
    with site.daemon() as process:
        wait_until(lambda: "cuda:0 is set aside until it is well again" in site.log, "it is set aside")
        cards(fault, None)
        wait_for_all(site, count)
        aside = told(site)["set_aside"]
        assert stop(process) == 0
    assert len(list(site.outbox.iterdir())) == count
    assert attempts_that_counted(site) == 0
    assert not (site.path.parent / "failed").exists()
    assert "cuda:1" not in aside, "the healthy one never is"


def test_without_a_healthy_card_work_waits_and_goes_on_by_itself(
    ward: Callable[..., Site], cards: Callable[..., None]
) -> None:
    site = ward()
    sick = "CUDA error: device-side assert triggered"
    cards(sick)
    drop_pictures(site, 3)
    with site.daemon() as process:
        wait_until(lambda: "no device can be used" in str(told(site).get("held")), "it is held")
        assert sick in told(site)["set_aside"]["cuda:0"]
        assert {row.state for row in site.jobs()} == {"queued"}
        cards(None)
        wait_for_all(site, 3)
        assert stop(process) == 0
    assert attempts_that_counted(site) == 0
    assert "cuda:0 is well again" in site.log


def test_a_card_that_hangs_is_set_aside(ward: Callable[..., Site], cards: Callable[..., None]) -> None:
    site = ward(limits={"stall_seconds": 15})
    cards("hang", "abort")
    drop_pictures(site, 4)
    with site.daemon() as process:
        killed = "the worker on cuda:0 made no progress for 15 s and was killed"
        wait_until(lambda: killed in site.log, "it is killed")
        cards("hang", None)
        wait_for_all(site, 4)
        assert stop(process) == 0
    assert attempts_that_counted(site) == 0


def test_what_was_made_with_too_little_memory_says_so(
    ward: Callable[..., Site], cards: Callable[..., None]
) -> None:
    """Also where another run has made the pieces: in the job's record, its sidecar and the log."""
    site = ward(results={"sidecar": True})
    cards("short")
    site.drop(film(site.path / "film.mp4"))
    with site.daemon() as process:
        wait_until(lambda: bool(site.finished("film.mp4")), "a piece is there")
        kill(process)
    cards(None)
    with site.daemon() as process:
        site.drop(picture(site.path / "a.png"))
        row, other = site.wait_for("film.mp4", "done"), site.wait_for("a.png", "done")
        site.wait_until_all_ended(2)
        assert stop(process) == 0
    note = "the memory of cpu was short: made with canvases in main memory"
    assert (row.reason, other.reason) == (note, None)
    assert json.loads((site.outbox / "film.mp4.json").read_text())["notes"] == [note]
    assert json.loads((site.outbox / "a.png.json").read_text())["notes"] == []
    assert f"film.mp4: note: {note}" in site.log
