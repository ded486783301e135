"""A film begun on one kind of device and resumed on another is not made of unlike pieces.

The card is a name: its worker computes on the CPU (see `tests.support.sick_devices`).
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.command import wait_until
from tests.support.daemons import Site, contents, film, kill, stop

pytestmark = pytest.mark.slow  # starts processes, or computes for long


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A site whose daemon finds the devices that CARDS names."""
    monkeypatch.setenv("PYTHONPATH", os.getcwd())
    monkeypatch.setenv("SICK_DEVICES", str(tmp_path / "sick.json"))
    (tmp_path / "sick.json").write_text("{}")
    site = Site.make(tmp_path / "site")
    return replace(site, program="tests.support.sick_devices")


def finish(site: Site, devices: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Let a daemon on these devices do what there is; the results."""
    monkeypatch.setenv("CARDS", devices)
    with site.daemon() as process:
        site.wait_for("film.mp4", "done")
        assert stop(process) == 0
    return contents(site.outbox)


def test_a_film_begun_on_a_card_is_the_cpus_alone_if_resumed_there(
    elsewhere: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = elsewhere.drop(film(elsewhere.path / "a.mp4"), "film.mp4")
    monkeypatch.setenv("CARDS", "cuda:0")
    with elsewhere.daemon() as process:
        wait_until(lambda: bool(elsewhere.finished("film.mp4")), "a piece is there")
        kill(process)
    results = finish(elsewhere, "cpu", monkeypatch)
    first, second = re.findall(r"(\d+) to do", elsewhere.log)
    assert first == second, "the card's pieces do not serve"

    alone = Site.make(elsewhere.path / "alone")
    alone.drop(source, "film.mp4")
    assert finish(replace(alone, program=elsewhere.program), "cpu", monkeypatch) == results
