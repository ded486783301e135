"""`process` is killed or interrupted: the same command goes on and computes no finished chunk again."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from tests.conftest import DATA
from tests.support.command import Home, wait_until
from tests.support.processing import CHUNK, FRAMES, SETTINGS, listing, times

pytestmark = pytest.mark.slow  # starts processes, or computes for long


def test_after_kill_9_only_unfinished_chunks_are_computed(home: Home, film: Path) -> None:
    undisturbed = home.run("process", film, "-o", "undisturbed/", "-c", SETTINGS)
    assert undisturbed.code == 0, undisturbed.err
    command = ("process", film, "-o", "out/", "-c", SETTINGS, "--json")
    with home.start(*command) as process:
        wait_until(lambda: len(home.chunks()) >= 2, "two finished chunks")
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    finished_chunks = len(home.chunks())
    home.wait_for_children()
    assert listing(home.path / "out") == []

    resumed = home.run(*command)
    assert resumed.code == 0, resumed.err
    (done,) = resumed.events("done")
    assert done["frames"] == FRAMES
    assert done["computed"] == FRAMES - CHUNK * finished_chunks
    assert (home.path / "out/film.mp4").read_bytes() == (home.path / "undisturbed/film.mp4").read_bytes()


def test_finished_chunks_that_the_disk_has_damaged_are_computed_again(home: Home, film: Path) -> None:
    undisturbed = home.run("process", film, "-o", "undisturbed/", "-c", SETTINGS)
    assert undisturbed.code == 0, undisturbed.err
    command = ("process", film, "-o", "out/", "-c", SETTINGS, "--json")
    with home.start(*command) as process:
        wait_until(lambda: len(home.chunks()) >= 2, "two finished chunks")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=120)
    zeroed, flipped, *whole = home.chunks()
    zeroed.write_bytes(bytes(zeroed.stat().st_size))
    content = bytearray(flipped.read_bytes())
    content[400:800] = bytes(byte ^ 0xFF for byte in content[400:800])
    flipped.write_bytes(content)

    resumed = home.run(*command)
    assert resumed.code == 0, resumed.err
    for damaged in (zeroed, flipped):
        assert f"{damaged} has changed since it was finished" in resumed.err
    (done,) = resumed.events("done")
    assert done["computed"] == FRAMES - CHUNK * len(whole)
    assert (home.path / "out/film.mp4").read_bytes() == (home.path / "undisturbed/film.mp4").read_bytes()


def test_a_killed_worker_is_replaced(home: Home, film: Path) -> None:
    with home.start("process", film, "-o", "out/", "-c", SETTINGS) as process:
        wait_until(lambda: len(home.chunks()) >= 1, "a finished chunk")
        for pid in home.workers():
            os.kill(pid, signal.SIGKILL)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "attempt 1 of 3: the worker on cpu was killed by SIGKILL" in err
    assert times(home.path / "out/film.mp4") == times(film)


def test_one_interrupt_stops_cleanly_and_the_same_command_resumes(home: Home, film: Path) -> None:
    command = ("process", film, "-o", "out/", "-c", SETTINGS, "--json")
    with home.start(*command) as process:
        wait_until(lambda: len(home.chunks()) >= 1, "a finished chunk")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "run the same command again" in err
    assert "Traceback" not in err
    events = [json.loads(line) for line in out.splitlines()]
    assert [event["event"] for event in events].count("interrupted") == 1
    summary = events[-1]
    assert (summary["event"], summary["unfinished"], summary["exit_code"]) == ("summary", 1, 130)
    before = CHUNK * len(home.chunks())
    resumed = home.run(*command)
    assert resumed.code == 0, resumed.err
    assert resumed.events("planned")[0]["done"] == before
    assert resumed.events("progress")[0]["done"] == before
    assert resumed.events("done")[0]["computed"] == FRAMES - before


def test_finished_chunks_serve_another_place(home: Home, film: Path) -> None:
    command = ("process", film, "-c", SETTINGS, "--json")
    with home.start(*command, "-o", "out/") as process:
        wait_until(lambda: len(home.chunks()) >= 1, "a finished chunk")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=120)
    left = len(home.chunks())
    resumed = home.run(*command, "-o", "elsewhere/")
    assert resumed.code == 0, resumed.err
    assert resumed.events("done")[0]["computed"] == FRAMES - CHUNK * left
    again = home.run(*command, "-o", "out/")
    assert again.events("done")[0]["computed"] == FRAMES, (
        "that the other place has it says nothing of this one"
    )
    for folder in ("out", "elsewhere"):
        assert home.run(*command, "-o", f"{folder}/").events("done")[0]["computed"] == 0


def test_a_result_that_is_there_costs_another_place_no_chunks(home: Home, film: Path) -> None:
    command = ("process", film, "-c", SETTINGS, "--json")
    assert home.run(*command, "-o", "out/").code == 0
    with home.start(*command, "-o", "elsewhere/") as process:
        wait_until(lambda: len(home.chunks()) >= 1, "a finished chunk")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=120)
    left = len(home.chunks())
    assert left
    assert home.run(*command, "-o", "out/").events("done")[0]["was_there"]
    assert len(home.chunks()) == left


def test_two_interrupts_stop_at_once(home: Home, film: Path) -> None:
    slow_model = DATA / "tiny-random"
    with home.start("process", film, "-o", "out/", "--model", slow_model, "--json") as process:
        assert process.stdout is not None
        while '"progress"' not in process.stdout.readline():
            pass
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert time.monotonic() - began < 8
    assert "Traceback" not in err
    assert listing(home.path / "out") == []
