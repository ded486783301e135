"""Commands about the daemon's jobs, and what they read: they need no running daemon."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from invsr_daemon import logs
from invsr_daemon.cli import control
from invsr_daemon.errors import ConfigError
from invsr_daemon.records import Identity
from invsr_daemon.store import status
from invsr_daemon.store.rows import JobKind, NewJob
from invsr_daemon.store.sqlite import StoreError
from invsr_daemon.store.status import DaemonStatus, only_daemon
from invsr_daemon.store.store import STORE_FILE, Store

STATUS = DaemonStatus(
    pid=7,
    version="1.0",
    started=1.0,
    devices=("cpu",),
    busy=1,
    running=(2,),
    queued=3,
    frames_per_second=4.25,
    watching="inotify",
    held=None,
    problem=None,
)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Jobs 1 to 4: done, failed, running with one chunk of two, queued."""
    with Store.open(tmp_path / STORE_FILE) as store:
        names = [b"a.mp4", b"b.mp4", b"c.mp4", b"new\nline-\xff.png"]
        store.accept([_new_job(os.fsdecode(name), number) for number, name in enumerate(names)], 1.0)
        for job in (1, 2, 3):
            assert store.claim("film", 2.0) is not None
            store.note_plan(job, Path(f"/out/{job}.mp4"), [8, 4], {0, 1}, 3.0)
        store.finish(1, Path("/out/1.mp4"), 12, "sound: left out", 4.0)
        store.fail(2, "no film\nat all", 5.0)
        store.note_chunk(3, 0, 1.5, "cpu", 6.0)
    return tmp_path


def _new_job(name: str, number: int) -> NewJob:
    kind: JobKind = "image" if name.endswith("png") else "film"
    path = Path(name)
    return NewJob(Path("/in") / path, path, Identity(number, 1, 1), kind, None, 0, '{"seed": 1}')


def states(state: Path) -> dict[int, str]:
    with Store.open(state / STORE_FILE) as store:
        return {row.id: row.state for row in store.jobs()}


def test_without_a_store_there_is_nothing_to_tell(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no daemon has ever run"):
        control.show_status(tmp_path, print, as_json=False)
    assert list(tmp_path.iterdir()) == []


def test_a_state_folder_that_cannot_be_looked_into_is_told(tmp_path: Path) -> None:
    """As one is that belongs to the service's user; root, as whom tests may run, sees that."""
    with pytest.raises(ConfigError, match=r"cannot be looked into: File name too long .*daemon's user"):
        control.show_status(tmp_path / ("x" * 300), print, as_json=False)


def test_status_names_devices_that_are_set_aside(state: Path) -> None:
    said: list[str] = []
    with only_daemon(state):
        replace(STATUS, set_aside={"cuda:1": "it convolves wrongly"}).write(state)
        control.show_status(state, said.append, as_json=False)
        control.show_status(state, said.append, as_json=True)
    assert "cuda:1 is set aside until it is well again: it convolves wrongly" in said
    assert json.loads(said[-1])["daemon"]["set_aside"] == {"cuda:1": "it convolves wrongly"}


def test_status_of_a_daemon_that_does_not_run(state: Path) -> None:
    said: list[str] = []
    control.show_status(state, said.append, as_json=False)
    assert said[:2] == [
        f"no daemon is running on {state}",
        "1 queued, 1 running, 1 done, 1 failed, 0 cancelled",
    ]
    assert said[2].split() == ["3", "running", "8/12", "c.mp4"]
    control.show_status(state, said.append, as_json=True)
    told = json.loads(said[-1])
    assert told["daemon"] is None
    assert told["jobs"]["queued"] == 1


def test_status_of_one_that_runs(state: Path) -> None:
    said: list[str] = []
    with only_daemon(state):
        STATUS.write(state)
        control.show_status(state, said.append, as_json=False)
        control.show_status(state, said.append, as_json=True)
    assert said[0] == "daemon 1.0, process 7: 1 running, 3 queued, 4.2 fps"
    assert said[3] == "4 frames left of those, about 1 s"
    assert json.loads(said[-1])["daemon"]["frames_per_second"] == 4.25
    assert status.read(state) is None, "it ended"


def test_what_a_killed_daemon_wrote_is_not_believed(state: Path) -> None:
    STATUS.write(state)
    assert status.read(state) is None


def test_what_a_killed_daemon_wrote_is_not_the_next_ones(state: Path) -> None:
    STATUS.write(state)
    with only_daemon(state):
        assert status.read(state) is None, "it has not said anything yet"


def test_jobs_are_one_line_each_whatever_their_names(state: Path) -> None:
    said: list[str] = []
    control.show_jobs(state, (), 50, said.append, as_json=False)
    assert [line.split()[0] for line in said] == ["4", "3", "2", "1"]
    assert said[0].endswith(r"new\nline-\xff.png")
    assert said[2].endswith("b.mp4: no film")
    said.clear()
    control.show_jobs(state, ("failed",), 50, said.append, as_json=True)
    (line,) = said
    assert json.loads(line)["reason"] == "no film\nat all"
    assert json.loads(line)["settings"] == {"seed": 1}


def test_one_job_in_full(state: Path) -> None:
    said: list[str] = []
    (state / logs.LOG_FOLDER).mkdir()
    (state / logs.LOG_FOLDER / "3.log").write_text("one\ntwo\n")
    control.show_job(state, 3, said.append, as_json=False)
    assert "  1 of 2 chunks, 8 of 12 frames" in said
    assert said[-2:] == ["  | one", "  | two"]
    control.show_job(state, 3, said.append, as_json=True)
    told = json.loads(said[-1])
    assert [chunk["device"] for chunk in told["chunks"]] == ["cpu", None]
    assert [move["after"] for move in told["transitions"]] == ["queued", "running"]
    with pytest.raises(StoreError, match="no job 99"):
        control.show_job(state, 99, said.append, as_json=False)


def test_names_and_reasons_cannot_steer_a_terminal(state: Path) -> None:
    said: list[str] = []
    with Store.open(state / STORE_FILE) as store:
        store.note_chunk(3, 1, 1.5, "cpu", 7.0)
        store.finish(3, Path("/out/\x1b[2J\n.mp4"), 12, "sound: \x1b[2J left out\nsubtitles: left out", 8.0)
    control.show_job(state, 3, said.append, as_json=False)
    control.show_job(state, 4, said.append, as_json=False)
    assert all(logs.printable(line) == line for line in said), said
    assert any(line.endswith(r"done: sound: \x1b[2J left out; subtitles: left out") for line in said)


def test_cancel_and_retry_without_a_daemon(state: Path) -> None:
    said: list[str] = []
    control.cancel(state, [3, 4], said.append)
    assert said == ["job 3 is being cancelled", "job 4 is cancelled"]
    assert states(state) == {1: "done", 2: "failed", 3: "running", 4: "cancelled"}
    with pytest.raises(StoreError, match="done already"):
        control.cancel(state, [1], said.append)
    control.retry(state, [4], said.append, failed=False)
    control.retry(state, [], said.append, failed=True)
    assert said[2:] == ["job 4 is queued again", "queued again: 1 job"]
    assert states(state) == {1: "done", 2: "queued", 3: "running", 4: "queued"}
    for jobs, failed in (([], False), ([1], True)):
        with pytest.raises(ConfigError, match="not both"):
            control.retry(state, jobs, said.append, failed=failed)


def test_pause_outlives_the_daemon(state: Path) -> None:
    said: list[str] = []
    control.pause(state, said.append)
    with Store.open(state / STORE_FILE) as store:
        assert store.paused_since() is not None
        assert store.claim("image", 9.0) is None
    control.show_status(state, said.append, as_json=False)
    assert any(line.startswith("paused on request since") for line in said)
    for answer in ("going on", "nothing was paused"):
        control.resume(state, said.append)
        assert said[-1] == answer
    with Store.open(state / STORE_FILE) as store:
        assert store.claim("image", 9.0) is not None


HOLD = """
import sys
from pathlib import Path
from invsr_daemon.store.status import only_daemon
with only_daemon(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.slow
def test_only_one_daemon_on_a_state_folder(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        assert status.is_running(tmp_path)
        with pytest.raises(ConfigError, match="another daemon"), only_daemon(tmp_path):
            pass
        process.kill()
    with only_daemon(tmp_path):
        pass


def test_whoever_asks_does_not_keep_a_daemon_from_starting(tmp_path: Path) -> None:
    done = threading.Event()
    (tmp_path / status.LOCK_FILE).touch()

    def ask() -> None:
        while not done.is_set():
            status.is_running(tmp_path)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for _ in range(50):
            with only_daemon(tmp_path):
                pass
    finally:
        done.set()
        asking.join()


def test_a_state_folder_that_cannot_be_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="state_dir"), only_daemon(tmp_path / "file" / "state"):
        pass


@pytest.mark.slow
def test_lines_for_people_journald_and_programs(tmp_path: Path) -> None:
    script = (
        "import logging, sys\n"
        "from pathlib import Path\n"
        "from invsr_daemon import logs\n"
        "logs.set_up('info', sys.argv[1], Path('state'))\n"
        "log = logging.getLogger('x')\n"
        "with logs.of_job(5):\n    log.info('one\\ntwo')\n"
        "log.info('three')\n"
        "try:\n    1 / 0\nexcept ZeroDivisionError:\n    log.exception('four')\n"
    )

    def said(wanted: str) -> list[str]:
        command = [sys.executable, "-c", script, wanted]
        return subprocess.run(
            command, cwd=tmp_path, check=True, capture_output=True, text=True
        ).stderr.splitlines()

    journal = said("journal")
    assert journal[:3] == [r"<6>job 5: one\ntwo", "<6>three", "<3>four"]
    assert journal[-1] == "<3>ZeroDivisionError: division by zero"
    assert all(line.startswith("<3>") for line in journal[2:])
    assert [json.loads(line)["job"] for line in said("json")] == [5, None, None]
    assert r"info    job 5: one\ntwo" in said("text")[0]
    assert [line[-8:] for line in logs.tail(tmp_path / "state", 5, 20)] == [r"one\ntwo"] * 3
    assert logs.tail(tmp_path / "state", 6, 20) == []


def test_lines_of_a_thread_are_its_jobs(tmp_path: Path) -> None:
    handler = logs.JobFiles(tmp_path)
    record = logging.LogRecord("x", logging.INFO, __file__, 1, "text", (), None)
    record.job = 3
    handler.handle(record)
    assert logs.tail(tmp_path, 3, 1)[0].endswith("job 3: text")


def test_of_several_jobs_each_that_can_be_is_and_the_others_are_told(state: Path) -> None:
    said: list[str] = []
    with pytest.raises(StoreError, match="job 1 is done already; there is no job 99"):
        control.cancel(state, [1, 99, 4, 4, 3], said.append)
    assert said == ["job 4 is cancelled", "job 3 is being cancelled"]
    said.clear()
    with pytest.raises(StoreError, match=r"job 1 is done: only .*; there is no job 99"):
        control.retry(state, [1, 99, 2, 4], said.append, failed=False)
    assert said == ["job 2 is queued again", "job 4 is queued again"]
