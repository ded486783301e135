"""The daemon as it is run: real processes, files, store and workers, the embedded model."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from invsr_daemon.daemon import checks
from invsr_daemon.daemon.progress import Rate
from invsr_daemon.daemon.watch import Announcer
from invsr_daemon.jobs.clock import Sighting
from invsr_daemon.pool import devices
from invsr_daemon.pool.local import LocalPool
from invsr_daemon.pool.reach import Reach
from invsr_daemon.settings.reading import load
from invsr_daemon.store.status import DaemonStatus
from invsr_daemon.store.store import STORE_FILE, Store
from invsr_daemon.systemd.notify import Notifier
from tests.conftest import DATA
from tests.support.command import PATIENCE_SECONDS, wait_until
from tests.support.daemons import (
    Site,
    contents,
    cpu_seconds,
    film,
    kill,
    picture,
    resident_bytes,
    stop,
    wake_ups,
)
from tests.support.identities import replace_alike

pytestmark = pytest.mark.slow  # starts processes, or computes for long

FRAMES = 40
MOST_MEMORY = 80_000_000
MOST_WAKE_UPS = 150  # a second
CHUNKS = 6  # eight frames each, but cut where a keyframe is near


@dataclass(frozen=True)
class Live:
    """A daemon that several tests share, each with files of its own."""

    site: Site
    pid: int
    files: Path
    memory_at_start: int
    seconds_to_start: float


def presets(path: Path) -> dict[str, object]:
    return {
        "named": {
            "results": {"name": "{stem}-{preset}-{model}", "mode": "0640", "sidecar": True},
            "seed": 5,
            "scale": 2,
        },
        "archived": {"originals": {"after": "archive", "archive": str(path / "archive")}},
        "deleted": {"originals": {"after": "delete"}},
        "aside": {"failures": {"move_to": str(path / "failed")}},
        "urgent": {"priority": 10},
    }


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    path = tmp_path_factory.mktemp("live")
    site = Site.make(path, presets=presets(path))
    (path / "files").mkdir()
    began = time.monotonic()
    with site.daemon() as process:
        seconds = time.monotonic() - began
        yield Live(site, process.pid, path / "files", resident_bytes(process.pid), seconds)
        assert stop(process) == 0
    assert "Traceback" not in site.log


@pytest.fixture(scope="module")
def undisturbed(live: Live) -> Path:
    """A film's result from a daemon that nothing happened to, and the film beside it."""
    source = film(live.files / "undisturbed.mp4", FRAMES, seed=1)
    live.site.drop(source)
    live.site.wait_for("undisturbed.mp4", "done")
    return live.site.outbox / "undisturbed.mp4"


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site.make(tmp_path)


# A day at work


def test_it_is_ready_soon_and_small(live: Live) -> None:
    """Measured on two busy cores: 0.5 s, 43 MB. The bound of time leaves room for much busier ones."""
    print(f"ready after {live.seconds_to_start:.2f} s, {live.memory_at_start / 1e6:.1f} MB")
    assert live.seconds_to_start < 10
    assert live.memory_at_start < MOST_MEMORY


def test_results_are_published_whole_in_folders_like_the_inboxs(live: Live) -> None:
    site = live.site
    site.drop(film(live.files / "film.mp4", seed=2), "holiday/film.mp4")
    site.drop(picture(live.files / "a.png"), "holiday/deep/er/a.png")
    site.drop(picture(live.files / "b.jpg"), "b.jpg")
    for name in ("holiday/film.mp4", "holiday/deep/er/a.png", "b.jpg"):
        row = site.wait_for(name, "done")
        assert row.output == site.outbox / name
        assert row.output.stat().st_size > 0
        assert (site.inbox / name).exists(), "originals are kept unless asked"
    with Image.open(site.outbox / "b.jpg") as image:
        assert (image.format, image.size) == ("JPEG", (64, 48))
    row = site.jobs_of("holiday/film.mp4")[0]
    assert (row.frames, row.frames_done) == (FRAMES, FRAMES)
    assert [path.name for path in (site.outbox / "holiday").iterdir() if path.is_file()] == ["film.mp4"]


def test_bad_files_fail_alone_and_say_why(live: Live) -> None:
    site = live.site
    (live.files / "noise.png").write_bytes(bytes(range(256)) * 8)
    (live.files / "empty.mp4").touch()
    (live.files / "text.mp4").write_text("This is no film.\n" * 100)
    for name in ("noise.png", "empty.mp4", "text.mp4"):
        site.drop(live.files / name, f"bad/{name}")
    for name in ("noise.png", "empty.mp4", "text.mp4"):
        row = site.wait_for(f"bad/{name}", "failed")
        assert row.reason
        note = site.inbox / "bad" / f"{name}.error.txt"
        wait_until(note.exists, "the note is there")
        assert row.reason in note.read_text()
        assert f"retry {row.id}" in note.read_text()
    assert not (site.outbox / "bad").exists()


def test_what_fails_is_laid_aside_with_its_note(live: Live) -> None:
    site = live.site
    (live.files / "junk.mp4").write_text("junk")
    source = site.drop(live.files / "junk.mp4", "aside/junk.mp4")
    site.wait_for("aside/junk.mp4", "failed")
    wait_until(lambda: not source.exists(), "it was moved")
    assert sorted(contents(site.path / "failed")) == ["aside/junk.mp4", "aside/junk.mp4.error.txt"]
    assert list((site.inbox / "aside").iterdir()) == []


def test_a_replaced_file_is_a_new_job_and_gets_the_next_name(live: Live) -> None:
    site = live.site
    site.drop(picture(live.files / "again.png", seed=1))
    site.wait_for("again.png", "done")
    site.drop(picture(live.files / "again.png", seed=2))
    second = site.wait_for("again.png", "done", jobs=2)
    assert second.output == site.outbox / "again (2).png"
    results = contents(site.outbox)
    assert results["again.png"] != results["again (2).png"]
    assert len(site.jobs_of("again.png")) == 2


def test_another_picture_that_looks_the_same_is_another_picture(site: Site) -> None:
    """Of the same inode, size and time: put there while the daemon runs, and while it does not."""
    site.configure(originals={"after": "keep"})
    pictures = [picture(site.path / f"{seed}.bmp", seed).read_bytes() for seed in range(3)]
    with site.daemon() as process:
        dropped = site.drop(site.path / "0.bmp", "a.bmp")
        site.wait_for("a.bmp", "done")
        replace_alike(dropped, pictures[1])
        site.wait_for("a.bmp", "done", jobs=2)
        assert stop(process) == 0
    replace_alike(dropped, pictures[2])
    with site.daemon() as process:
        site.wait_for("a.bmp", "done", jobs=3)
        dropped.chmod(0o600)
        site.drop(site.path / "0.bmp", "last.bmp")
        site.wait_for("last.bmp", "done")
        assert stop(process) == 0
    assert len(site.jobs_of("a.bmp")) == 3
    assert len(set(contents(site.outbox).values())) == 3, "last.bmp is the first one again"


def test_what_failed_while_it_was_copied_is_over_when_the_whole_file_is_done(live: Live) -> None:
    site = live.site
    whole = picture(live.files / "slow.png", seed=1)
    (live.files / "half.png").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    site.drop(live.files / "half.png", "slow.png")
    failed = site.wait_for("slow.png", "failed")
    site.drop(whole)
    site.wait_for("slow.png", "done", jobs=2)
    done, earlier = site.jobs_of("slow.png")
    assert (done.output, earlier.id) == (site.outbox / "slow.png", failed.id)
    assert (earlier.state, earlier.reason) == ("cancelled", "another file took its place")
    wait_until(lambda: not (site.inbox / "slow.png.error.txt").exists(), "the note went, too")


def test_a_preset_decides_by_folder(live: Live) -> None:
    site = live.site
    source = site.drop(picture(live.files / "p.png", seed=3), "named/p.png")
    row = site.wait_for("named/p.png", "done")
    assert (row.preset, row.priority) == ("named", 0)
    assert json.loads(row.settings)["seed"] == 5
    result = site.outbox / "named/p-named-default.png"
    assert row.output == result
    assert stat.S_IMODE(result.stat().st_mode) == 0o640
    with Image.open(result) as image:
        assert image.size == (32, 24)
    sidecar = result.with_name(result.name + ".json")
    wait_until(sidecar.exists, "the sidecar is there")
    described = json.loads(sidecar.read_text())
    assert described["seed"] == 5
    assert described["job"] == row.id
    assert described["source"]["path"] == "named/p.png"
    assert described["source"]["size"] == source.stat().st_size
    assert described["result"] == {"path": result.name, "frames": 1}
    assert stat.S_IMODE(sidecar.stat().st_mode) == 0o640


def test_priority_comes_with_the_preset(live: Live) -> None:
    site = live.site
    site.drop(picture(live.files / "u.png"), "urgent/u.png")
    assert site.wait_for("urgent/u.png", "done").priority == 10


def test_originals_are_archived_or_deleted_after_publishing(live: Live) -> None:
    site = live.site
    kept = {}
    for preset in ("archived", "deleted"):
        source = site.drop(picture(live.files / "o.png", seed=4), f"{preset}/sub/o.png")
        kept[preset] = source.read_bytes()
        site.wait_for(f"{preset}/sub/o.png", "done")
        wait_until(lambda source=source: not source.exists(), "the original is gone")  # type: ignore[misc]
        assert (site.outbox / preset / "sub/o.png").exists()
    assert contents(site.path / "archive") == {"archived/sub/o.png": kept["archived"]}


def test_what_is_lost_is_named_in_the_log_and_in_the_job(live: Live) -> None:
    Image.new("CMYK", (16, 12)).save(live.files / "print.jpg")
    live.site.drop(live.files / "print.jpg")
    row = live.site.wait_for("print.jpg", "done")
    lost = "its colours are converted from CMYK to RGB"
    assert row.reason == lost
    wait_until(lambda: f"print.jpg: note: {lost}" in live.site.log, "the log names it")


def test_a_picture_does_not_wait_for_a_film(live: Live) -> None:
    site = live.site
    site.drop(film(live.files / "long.mp4", 160, seed=5))
    wait_until(lambda: site.finished("long.mp4") != {}, "the film is under way")
    site.drop(picture(live.files / "quick.png", seed=5))
    site.wait_for("quick.png", "done")
    assert site.jobs_of("long.mp4")[0].state == "running"
    site.command("cancel", str(site.jobs_of("long.mp4")[0].id))
    site.wait_for("long.mp4", "cancelled")


def test_an_urgent_film_does_not_wait_for_others(live: Live) -> None:
    """Two run already, which is all that one worker's lane has room for."""
    site = live.site
    slow = ("slow-1.mp4", "slow-2.mp4")
    for seed, name in enumerate(slow):
        site.drop(film(live.files / name, 160, seed=seed))
    for name in slow:
        site.wait_for(name, "running")
    site.drop(film(live.files / "later.mp4", 16, seed=6))
    site.drop(film(live.files / "soon.mp4", 16, seed=7), "urgent/soon.mp4")
    site.wait_for("urgent/soon.mp4", "done")
    assert [site.jobs_of(name)[0].state for name in slow] == ["running", "running"]
    assert site.jobs_of("later.mp4")[0].state == "queued"
    for name in (*slow, "later.mp4"):
        site.command("cancel", str(site.jobs_of(name)[0].id))
    for name in (*slow, "later.mp4"):
        site.wait_for(name, "cancelled")


def test_a_film_is_cancelled_and_tried_again_from_where_it_was(live: Live, undisturbed: Path) -> None:
    site = live.site
    source = live.files / "cancelled.mp4"
    shutil.copy(live.files / "undisturbed.mp4", source)
    site.drop(source)
    wait_until(lambda: site.finished("cancelled.mp4") != {}, "the film is under way")
    job = site.jobs_of("cancelled.mp4")[0].id
    assert f"job {job} is being cancelled" in site.command("cancel", str(job))
    site.wait_for("cancelled.mp4", "cancelled")
    before = site.finished("cancelled.mp4")
    assert not (site.outbox / "cancelled.mp4").exists()
    assert f"job {job} is queued again" in site.command("retry", str(job))
    site.wait_for("cancelled.mp4", "done")
    after = site.finished("cancelled.mp4")
    assert 0 < len(before) < len(after) == CHUNKS
    assert before.items() <= after.items(), "finished chunks are not computed again"
    assert (site.outbox / "cancelled.mp4").read_bytes() == undisturbed.read_bytes()


def test_pause_and_resume(live: Live) -> None:
    site = live.site
    site.command("pause")
    wait_until(lambda: (site.status()["daemon"] or {}).get("held") == "paused", "it has heard")
    site.drop(picture(live.files / "waits.png", seed=6))
    site.drop(picture(live.files / "dropped.png", seed=6))
    site.wait_for("waits.png", "queued")
    cancelled = site.wait_for("dropped.png", "queued")
    assert f"job {cancelled.id} is cancelled" in site.command("cancel", str(cancelled.id))
    assert site.status()["paused_since"] is not None
    resumed = time.time()
    site.command("resume")
    row = site.wait_for("waits.png", "done")
    assert row.started is not None
    assert row.started >= resumed
    assert site.jobs_of("dropped.png")[0].state == "cancelled"


def test_a_failed_job_is_tried_again_on_request(live: Live) -> None:
    site = live.site
    (live.files / "hopeless.mp4").write_text("nothing")
    site.drop(live.files / "hopeless.mp4")
    row = site.wait_for("hopeless.mp4", "failed")
    site.command("retry", str(row.id))
    with Store.open(site.state / STORE_FILE) as store:
        wait_until(lambda: len(store.attempts(row.id)) == 2, "a second attempt")
        wait_until(lambda: store.job(row.id).state == "failed", "it failed again")


def test_a_killed_worker_is_replaced(live: Live, undisturbed: Path) -> None:
    site = live.site
    source = live.files / "bereft.mp4"
    shutil.copy(live.files / "undisturbed.mp4", source)
    site.drop(source)
    wait_until(lambda: site.finished("bereft.mp4") != {}, "the film is under way")
    for pid in site.workers():
        os.kill(pid, signal.SIGKILL)
    row = site.wait_for("bereft.mp4", "done")
    said = "attempt 1 of 3: the worker on cpu was killed by SIGKILL"
    assert f"job {row.id}: bereft.mp4: {said}" in site.log
    assert said in "\n".join(json.loads(site.command("jobs", "show", str(row.id), "--json"))["log"])
    assert (site.outbox / "bereft.mp4").read_bytes() == undisturbed.read_bytes()


def test_settings_are_read_again_for_new_jobs(live: Live) -> None:
    site = live.site
    before = site.config.read_text()
    try:
        site.configure(presets=presets(site.path), scale=2, settle_seconds=0.2)
        os.kill(live.pid, signal.SIGHUP)
        wait_until(lambda: "settings were read again" in site.log, "valid settings are taken")
        assert "settle_seconds: changes need a restart" in site.log
        site.config.write_text(before + "\nscale: 9\nlimits: {stall_seconds: no}\nnonsense: 1\n")
        os.kill(live.pid, signal.SIGHUP)
        wait_until(lambda: "settings were not changed" in site.log, "wrong settings are refused")
        (line,) = [line for line in site.log.splitlines() if "settings were not changed" in line]
        for name in ("scale", "limits.stall_seconds", "nonsense"):
            assert name in line
        site.configure(presets={"odd": {"video": {"container": "mov", "codec": "ffv1"}}})
        os.kill(live.pid, signal.SIGHUP)
        wait_until(lambda: "presets.odd.video.container: mov cannot hold ffv1" in site.log, "it tells")
        site.drop(picture(live.files / "half.png", seed=7))
        site.wait_for("half.png", "done")
        with Image.open(site.outbox / "half.png") as image:
            assert image.size == (32, 24), "the last valid settings hold"
    finally:
        site.config.write_text(before)
        os.kill(live.pid, signal.SIGHUP)
        wait_until(lambda: site.log.count("settings were read again") == 2, "the old settings are back")


def test_a_second_daemon_is_refused(live: Live) -> None:
    finished = live.site.run("run", "-c", live.site.config)
    assert finished.code == 2
    assert "another daemon is running" in finished.err
    assert "Traceback" not in finished.err


def test_a_second_daemon_on_the_same_inbox_is_refused(live: Live, tmp_path: Path) -> None:
    other = Site.make(tmp_path / "other")
    other.configure(inbox=str(live.site.inbox))
    finished = other.run("run", "-c", other.config)
    assert finished.code == 2
    assert f"another daemon, with another state_dir, watches {live.site.inbox}" in finished.err


def test_status_and_jobs_for_scripts(live: Live, undisturbed: Path) -> None:
    site = live.site
    status = site.status()
    assert status["daemon"]["pid"] == live.pid
    assert status["daemon"]["devices"] == ["cpu"]
    assert status["daemon"]["watching"] == "inotify"
    assert status["daemon"]["problem"] is None
    assert status["jobs"]["done"] >= 1
    lines = [json.loads(line) for line in site.command("jobs", "--state", "done", "--json").splitlines()]
    (row,) = [line for line in lines if line["relative"] == "undisturbed.mp4"]
    shown = json.loads(site.command("jobs", "show", str(row["id"]), "--json"))
    assert [each["after"] for each in shown["transitions"]] == ["queued", "running", "done"]
    assert len(shown["chunks"]) == CHUNKS
    assert shown["output"] == str(undisturbed)


def test_lines_about_a_job_say_which(live: Live, undisturbed: Path) -> None:
    (row,) = live.site.jobs_of("undisturbed.mp4")
    (line,) = [line for line in live.site.log.splitlines() if f"-> {undisturbed}" in line]
    assert f" job {row.id}: undisturbed.mp4 -> " in line


def test_the_parent_loads_neither_torch_nor_what_decodes(live: Live, undisturbed: Path) -> None:
    mapped = Path(f"/proc/{live.pid}/maps").read_text()
    for library in ("libtorch", "libavcodec", "numpy", "PIL"):
        assert library not in mapped
    assert undisturbed.exists()


def test_a_file_that_kills_what_reads_it_fails_alone(live: Live, undisturbed: Path) -> None:
    """As a film that crashes a decoder would: whatever looks at it is killed, at whatever moment."""
    site = live.site
    site.drop(undisturbed, "deadly.mp4")

    def killed() -> bool:
        for pid in site.media_processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return any(row.state == "failed" for row in site.jobs_of("deadly.mp4"))

    wait_until(killed, "it is given up")
    assert "3 processes died of it" in (site.jobs_of("deadly.mp4")[0].reason or "")
    site.drop(picture(live.files / "harmless.png", seed=9))
    site.wait_for("harmless.png", "done")


def test_idle_it_costs_next_to_nothing(live: Live, undisturbed: Path) -> None:
    """After films and pictures: some 30 wake-ups a second (`pytest -rP` shows it), and nothing that spins."""
    wait_until(lambda: not live.site.media_processes(), "what decodes is gone")
    began, wakes, used = time.monotonic(), wake_ups(live.pid), cpu_seconds(live.pid)
    wait_until(lambda: time.monotonic() - began > 10, "ten seconds pass")
    seconds = time.monotonic() - began
    each_second, share = (wake_ups(live.pid) - wakes) / seconds, (cpu_seconds(live.pid) - used) / seconds
    print(f"{each_second:.0f} wake-ups a second, {share:.2%} of a core")
    assert each_second < MOST_WAKE_UPS
    assert share < 0.1
    assert resident_bytes(live.pid) < MOST_MEMORY


def test_nothing_is_left_behind(live: Live, undisturbed: Path) -> None:
    """Neither hidden files in the outbox nor pieces of work that is done."""
    done = {f"job-{row.id}" for row in live.site.jobs() if row.state == "done"}
    wait_until(lambda: not done & {path.name for path in live.site.state.glob("*/*")}, "rooms are cleared")
    assert [path for path in live.site.outbox.rglob(".*")] == []


def test_ten_thousand_files_at_once_are_queued_within_one_scan(site: Site) -> None:
    """While they are dropped events get lost; the time allowed is that between two scans by default."""
    source = picture(site.path / "a.png")
    with site.daemon() as process:
        site.command("pause")
        wait_until(lambda: (site.status()["daemon"] or {}).get("held") == "paused", "it has heard")
        began = time.monotonic()
        for number in range(10_000):
            os.link(source, site.inbox / f"{number}.png")
        with Store.open(site.state / STORE_FILE) as store:
            wait_until(lambda: store.counts()["queued"] == 10_000, "all are queued")
        seconds = time.monotonic() - began
        print(f"queued after {seconds:.1f} s, {resident_bytes(process.pid) / 1e6:.1f} MB")
        assert seconds < load(None, {}).watch.rescan_seconds
        assert resident_bytes(process.pid) < MOST_MEMORY
        assert stop(process) == 0
    assert len({row.relative for row in site.jobs()}) == 10_000


def test_a_slow_writer_is_waited_for(site: Site) -> None:
    """A file that grows for ten seconds, with pauses shorter than the settling time."""
    site.configure(settle_seconds=3, watch={"rescan_seconds": 0.5})
    with site.daemon() as process:
        site.command("pause")
        with (site.inbox / "film.mp4").open("wb", buffering=0) as file:
            until = time.monotonic() + 10
            while time.monotonic() < until:
                file.write(bytes(1000))
                time.sleep(0.2)
            size = file.tell()
        assert site.jobs() == []
        assert site.wait_for("film.mp4", "queued").identity.size == size
        assert stop(process) == 0
    assert len(site.jobs()) == 1


def test_a_writer_that_pauses_loses_nothing(site: Site) -> None:
    """Half a film, a pause much longer than the settling time, the other half: one result, of all."""
    site.configure(originals={"after": "delete"})
    whole = film(site.path / "whole.mkv").read_bytes()
    with site.daemon() as process:
        with (site.inbox / "film.mkv").open("wb", buffering=0) as file:
            file.write(whole[: len(whole) // 2])
            wait_until(lambda: "film.mkv waits: someone is writing to it" in site.log, "it is told")
            wait_until(lambda: "film.mkv waits: someone" in site.command("status"), "status tells it")
            site.drop(picture(site.path / "a.png"))
            site.wait_for("a.png", "done")
            assert site.jobs_of("film.mkv") == []
            file.write(whole[len(whole) // 2 :])
        done = site.wait_for("film.mkv", "done")
        assert done.frames == FRAMES
        wait_until(lambda: not (site.inbox / "film.mkv").exists(), "the original is removed")
        assert stop(process) == 0
    assert sorted(contents(site.outbox)) == ["a.png", "film.mkv"]


def test_a_film_that_grows_while_it_is_restored_is_begun_anew(site: Site) -> None:
    """The rest of the old job is not computed: its result would be refused in the end."""
    film(site.path / "film.mkv", frames=160)
    with site.daemon() as process:
        dropped = site.drop(site.path / "film.mkv")
        wait_until(lambda: bool(site.finished("film.mkv")), "a chunk is finished")
        with dropped.open("ab") as file:
            file.write(bytes(1000))
        latest = site.wait_for("film.mkv", "done", jobs=2)
        assert latest.frames == 160
        assert stop(process) == 0
    outdated = site.jobs_of("film.mkv")[1]
    assert (outdated.state, outdated.reason) == ("cancelled", "another file took its place")
    with Store.open(site.state / STORE_FILE) as store:
        assert not all(chunk.finished for chunk in store.chunks(outdated.id))
    assert list(contents(site.outbox)) == ["film.mkv"]


def test_an_original_is_not_removed_under_a_writers_hands(site: Site) -> None:
    """Opened again while it is restored, and still open at the end."""
    site.configure(originals={"after": "delete"})
    with site.daemon() as process:
        site.command("pause")
        dropped = site.drop(picture(site.path / "a.png"))
        site.wait_for("a.png", "queued")
        with dropped.open("ab"):
            site.command("resume")
            site.wait_for("a.png", "done")
            wait_until(lambda: "a.png stays as long as someone has it open" in site.log, "it is told")
            assert dropped.exists()
        wait_until(lambda: not dropped.exists(), "it is removed when it is closed")
        assert stop(process) == 0
    assert site.log.count("stays as long as") == 1
    assert site.untidy() == []


def test_what_ended_long_ago_is_forgotten_unless_its_file_is_still_there(site: Site) -> None:
    site.configure(failures={"note": False})
    for name in ("gone.mp4", "kept.mp4", "latest.mp4"):
        (site.path / name).write_text(f"no film, and not {name}")
    with site.daemon() as process:
        for name in ("gone.mp4", "kept.mp4", "latest.mp4"):
            site.drop(site.path / name)
            site.wait_for(name, "failed")
        site.wait_until_all_ended(3)
        assert stop(process) == 0
    (site.inbox / "gone.mp4").unlink()
    assert {path.name for path in site.state.glob("logs/*")} == {"1.log", "2.log", "3.log"}
    site.configure(keep_days=1e-6)
    now = time.time()
    Sighting(now - 365 * 86_400, now - 365 * 86_400).write(site.state)
    with site.daemon() as process:
        wait_until(lambda: "nothing is forgotten until it has gone on for a day" in site.log, "it doubts")
        assert stop(process) == 0
    assert len(site.jobs()) == 3, "the clock may be a year ahead"
    Sighting(now, now).write(site.state)
    with site.daemon() as process:
        wait_until(lambda: site.jobs_of("gone.mp4") == [], "it is forgotten")
        assert stop(process) == 0
    assert [row.relative.name for row in site.jobs()] == ["latest.mp4", "kept.mp4"]
    assert {path.name for path in site.state.glob("logs/*")} == {"3.log"}


# Starting, stopping, dying


def test_sigterm_lets_chunks_finish_and_the_next_start_goes_on(site: Site, undisturbed: Path) -> None:
    shutil.copy(undisturbed.parents[1] / "files/undisturbed.mp4", site.path / "film.mp4")
    picture(site.path / "p.png")
    site.drop(site.path / "film.mp4")
    with site.daemon() as process:
        wait_until(lambda: len(site.chunks()) >= 1, "a finished chunk")
        assert stop(process) == 0
    assert "stopping when the chunks under way are finished" in site.log
    row = site.jobs_of("film.mp4")[0]
    assert (row.state, row.reason, row.attempts) == ("queued", "the daemon stopped", 0)
    finished = len(site.chunks())
    assert finished == len(site.finished("film.mp4")), "what is there was written down"
    assert 1 <= finished < CHUNKS
    site.command("pause")
    with site.daemon() as process:
        site.drop(site.path / "p.png")
        site.wait_for("p.png", "queued")
        assert site.jobs_of("film.mp4")[0].state == "queued", "it was paused while it did not run"
        site.command("resume")
        site.wait_until_all_ended(2)
        assert stop(process) == 0
    assert f"{FRAMES} frames in {CHUNKS} chunks, {CHUNKS - finished} to do" in site.log
    assert (site.outbox / "film.mp4").read_bytes() == undisturbed.read_bytes()
    with site.daemon() as process:
        site.drop(site.path / "p.png", "later.png")
        site.wait_for("later.png", "done")
        assert stop(process) == 0
    assert len(site.jobs()) == 3, "what was there before is not accepted again"
    assert sorted(contents(site.outbox)) == ["film.mp4", "later.png", "p.png"]
    assert site.litter() == []


@pytest.mark.parametrize(
    ("drain_seconds", "signals", "said"),
    [(600, 2, "stopped at once"), (1, 1, "chunks under way were given up after 1 s")],
)
def test_patience_ends(site: Site, drain_seconds: int, signals: int, said: str) -> None:
    """With the second signal, or when a chunk takes too long: it is begun anew next time."""
    slow = DATA / "tiny-random"
    site.configure(
        model=str(slow),
        limits={"drain_seconds": drain_seconds},
        video={"chunk_frames": 1000, "preset": "ultrafast"},
    )
    site.drop(film(site.path / "film.mp4", 200))
    with site.daemon() as process:
        wait_until(lambda: list(site.state.glob("work/**/.chunk-*.partial")) != [], "a chunk is begun")
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: "stopping when" in site.log, "it has heard the first")
        if signals == 2:
            process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=120) == 0
        assert time.monotonic() - began < 15
    assert said in site.log
    assert "Traceback" not in site.log
    (row,) = site.jobs()
    assert (row.state, row.attempts) == ("queued", 0)
    assert contents(site.outbox) == {}


def test_a_long_look_at_a_film_does_not_delay_a_stop(site: Site) -> None:
    site.state.mkdir(parents=True)
    site.drop(film(site.path / "film.mp4", 8))
    with Store.open(site.state / STORE_FILE) as store:
        store.pause(time.time())
        with site.daemon() as process:
            site.wait_for("film.mp4", "queued")
            wait_until(lambda: (site.status()["daemon"] or {}).get("held") == "paused", "encoders were tried")
            for pid in site.media_processes():
                os.kill(pid, signal.SIGSTOP)  # it is asked next, too
            store.resume()
            site.wait_for("film.mp4", "running")
            began = time.monotonic()
            assert stop(process) == 0
            assert time.monotonic() - began < 60, "not limits.drain_seconds"
    (row,) = site.jobs()
    assert (row.state, row.reason, row.attempts) == ("queued", "the daemon stopped", 0)


def test_kill_9_costs_only_what_was_not_finished(site: Site, undisturbed: Path) -> None:
    shutil.copy(undisturbed.parents[1] / "files/undisturbed.mp4", site.path / "film.mp4")
    site.drop(site.path / "film.mp4")
    recorded: dict[int, float] = {}
    for at_least in (1, 3):
        with site.daemon() as process:
            wait_until(lambda at_least=at_least: len(site.finished("film.mp4")) >= at_least, "chunks")  # type: ignore[misc]
            kill(process)
        now = site.finished("film.mp4")
        assert recorded.items() <= now.items()
        recorded = now
    assert contents(site.outbox) == {}
    # State and outbox may move meanwhile: jobs have no settings of their own for these.
    moved = Site.make(site.path / "moved", inbox=str(site.inbox))
    site.state.parent.rename(moved.state.parent)
    with moved.daemon() as process:
        moved.wait_until_all_ended(1)
        assert stop(process) == 0
    assert recorded.items() <= moved.finished("film.mp4").items()
    with Store.open(moved.state / STORE_FILE) as store:
        went = ["queued", "running", "queued", "running", "queued", "running", "done"]
        assert [each.after for each in store.transitions(1)] == went
        assert store.job(1).attempts == 1, "it is not the film's fault"
    assert (moved.outbox / "film.mp4").read_bytes() == undisturbed.read_bytes()
    assert moved.litter() == []
    assert contents(site.outbox) == {}


def test_a_worker_that_hangs_is_killed(site: Site, undisturbed: Path) -> None:
    """The time allowed must suffice for loading the model, so it follows how long that takes here; if that
    takes longer all at once, the worker is killed once more.
    """
    patient = {"worker_deaths": 100}  # a job keeps what it was accepted with
    site.configure(limits=patient)
    shutil.copy(undisturbed.parents[1] / "files/undisturbed.mp4", site.path / "film.mp4")
    site.drop(site.path / "film.mp4")
    began = time.monotonic()
    with site.daemon() as process:
        wait_until(lambda: len(site.chunks()) >= 1, "a finished chunk")
        loading = time.monotonic() - began
        assert stop(process) == 0
    stall = round(3 + 1.5 * loading)
    site.configure(limits={"stall_seconds": stall, **patient})
    chunks = len(site.chunks())
    with site.daemon() as process:
        wait_until(lambda: len(site.chunks()) > chunks, "another chunk")
        for pid in site.workers():
            os.kill(pid, signal.SIGSTOP)
        site.wait_for("film.mp4", "done")
        assert stop(process) == 0
    assert f"made no progress for {stall} s and was killed" in site.log
    assert (site.outbox / "film.mp4").read_bytes() == undisturbed.read_bytes()


def test_a_film_that_media_processes_hang_over_fails_alone(site: Site) -> None:
    site.configure(limits={"stall_seconds": 5, "worker_deaths": 2})
    site.state.mkdir(parents=True)
    site.drop(film(site.path / "film.mp4", 8))
    with Store.open(site.state / STORE_FILE) as store:
        store.pause(time.time())
        with site.daemon() as process:
            wait_until(lambda: (site.status()["daemon"] or {}).get("held") == "paused", "encoders were tried")
            store.resume()

            def failed() -> bool:
                for pid in site.media_processes():
                    with suppress(ProcessLookupError):  # it was killed just now
                        os.kill(pid, signal.SIGSTOP)
                return any(row.state == "failed" for row in store.jobs())

            wait_until(failed, "it failed")
            (site.path / "text.mp4").write_text("This is no film.\n" * 100)
            site.drop(site.path / "text.mp4")
            site.wait_for("text.mp4", "failed")
            assert stop(process) == 0
    (row,), (other,) = site.jobs_of("film.mp4"), site.jobs_of("text.mp4")
    hung = "the media process has found nothing new for 5 s and was killed (limits.stall_seconds)"
    assert row.reason == f"2 processes died of it; the last: {hung}"
    assert f"attempt 1 of 2: {hung}" in site.log
    assert other.reason is not None
    assert "not a film" in other.reason, "the daemon goes on"


def kill_media_process(site: Site) -> None:
    """The next one that there is."""
    wait_until(lambda: site.media_processes() != set(), "a media process")
    for pid in site.media_processes():
        with suppress(ProcessLookupError):  # it has just gone by itself
            os.kill(pid, signal.SIGKILL)


def test_a_death_while_encoders_are_tried_may_pass(site: Site) -> None:
    with site.daemon() as process:
        kill_media_process(site)
        wait_until(lambda: "encoders: attempt 1 of 3: the media process was killed" in site.log, "it died")
        site.drop(picture(site.path / "a.png"))
        site.wait_for("a.png", "done")
        assert stop(process) == 0


def test_encoders_that_kill_every_process_are_refused(site: Site) -> None:
    site.configure(limits={"worker_deaths": 1})
    with site.started() as process:
        kill_media_process(site)
        assert process.wait(PATIENCE_SECONDS) == 2
    assert "video: an encoder crashes: 1 processes died of it" in site.log


def test_an_encoder_that_hangs_is_told(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "CHECK_SECONDS", 0.01)
    mistakes = asyncio.run(checks.config_mistakes(site.config))
    assert mistakes == ["video: an encoder hangs: no answer within 0.01 s"]


@pytest.fixture
def manager(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A socket in place of systemd's."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(str(site.path / "notify"))
        bound.settimeout(PATIENCE_SECONDS)
        monkeypatch.setenv("NOTIFY_SOCKET", str(site.path / "notify"))
        yield bound


def heard(manager: socket.socket, count: int) -> list[str]:
    """The first words of so many messages."""
    return [manager.recv(1000).decode().partition(" ")[0] for _ in range(count)]


def test_systemd_hears_from_it_between_all_that_takes_long_at_the_start(
    site: Site, manager: socket.socket
) -> None:
    unit = (DATA.parents[1] / "systemd" / "invsr-daemon.service").read_text()
    (watchdog,) = re.findall(r"^WatchdogSec=(\d+)$", unit, re.MULTILINE)
    assert int(watchdog) > 1.25 * max(devices.ASK_SECONDS, checks.CHECK_SECONDS)
    with site.daemon() as process:
        # Devices are found; encoders are tried; then it begins to tell what it does.
        assert heard(manager, 4) == ["READY=1", "WATCHDOG=1", "STATUS=0", "WATCHDOG=1"]
        assert stop(process) == 0


def test_a_worker_is_not_silent_before_it_has_something_to_do(site: Site, manager: socket.socket) -> None:
    """However long there was nothing to do before, because of a pause for instance."""

    async def work_after_hours() -> None:
        site.state.mkdir(parents=True)
        rate, notifier = Rate(), Notifier.from_environment()
        announcer = Announcer(site.state, notifier, rate)
        pool = LocalPool(("cpu",), 0, Reach(site.state / "work"))

        def tell() -> None:
            announcer.tell(
                DaemonStatus(1, "1", 0.0, ("cpu",), pool.busy, (), 0, 0.0, "inotify", None, None), 600
            )

        rate.last -= 1e6
        tell()
        async with pool.lease():
            tell()
            rate.last -= 1e6
            tell()
        notifier.stopping()

    asyncio.run(work_after_hours())
    manager.settimeout(0.1)  # all was said by now
    assert heard(manager, 6) == ["STATUS=0", "WATCHDOG=1", "STATUS=0", "WATCHDOG=1", "STATUS=0", "STOPPING=1"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"outbox": "inbox"}, "must not lie in outbox"),
        ({"inbox": "outbox/inbox"}, "must not lie in outbox"),
        ({"state_dir": "."}, "must not lie in state_dir"),
        ({"failures": {"move_to": "inbox"}}, "must not lie in failures.move_to"),
        ({"presets": {"a": {"originals": {"after": "archive", "archive": "."}}}}, "presets.a.originals"),
        ({"inbox": None}, "inbox: a folder is needed"),
        ({"inbox": None, "outbox": None}, "--inbox DIR); outbox: a folder is needed"),
        ({"model": "no-such-model"}, "no-such-model"),
        ({"model": "inbox"}, "inbox holds no model: vae/config.json is missing"),
        ({"presets": {"a": {"results": {"owner": ":nobodies"}}}}, "there is no group 'nobodies'"),
        (
            {"presets": {"a": {"video": {"preset": "glacial"}}, "b": {"video": {"codec": "nope"}}}},
            "presets.b.video.codec: there is no encoder 'nope'",
        ),
    ],
)
def test_what_cannot_work_is_refused_at_the_start(site: Site, settings: dict[str, object], said: str) -> None:
    site.configure(**settings)
    finished = site.run("run", "-c", site.config)
    assert finished.code == 2
    assert said in finished.err
    assert "Traceback" not in finished.err
