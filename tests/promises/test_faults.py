"""Faults of disks and folders, and crashes at every single change of the file system.

After any of them: exactly one result, the same bytes, nothing left behind.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from invsr_daemon.files.publishing import obstacle
from invsr_daemon.records import Identity
from invsr_daemon.store.rows import NewJob
from invsr_daemon.store.store import LONGEST_DELAY_SECONDS, STORE_FILE, Store
from tests.support.command import PATIENCE_SECONDS, wait_until
from tests.support.crashing import Run
from tests.support.daemons import Site, contents, film, picture, stop

MOST_POINTS = 200
PUBLISHING = 4  # which change of the hidden file begins it: three before try whether there can be one

Runner = Callable[[Run], int]


@pytest.fixture(scope="module")
def crash() -> Iterator[Runner]:
    """Runs a site's daemon until it is killed where the run says, or is done; how it ended."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.crashing"],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        def run(wanted: Run) -> int:
            stdin.write(wanted.line())
            stdin.flush()
            return int(stdout.readline())

        yield run


@dataclass(frozen=True)
class Crashes:
    """A site as it was at one moment, to be broken from there again and again."""

    site: Site
    before: Path
    run: Runner

    @classmethod
    def of(cls, site: Site, run: Runner) -> Crashes:
        before = site.path.with_name("before")
        shutil.copytree(site.path, before)
        # Second names: what is moved or removed in the inbox can be put back as the very same file.
        (before / "originals").mkdir()
        for path in site.inbox.iterdir():
            os.link(path, before / "originals" / path.name)
        return cls(site, before, run)

    def at_every_change(self) -> Iterator[int]:
        """Kill it before its first change, then let it run to its end; before its second, and so on."""
        for number in range(1, MOST_POINTS):
            self._back()
            code = self.run(Run(str(self.site.path), kill_at=number))
            assert code in (0, -signal.SIGKILL), self.site.log
            if code == 0:
                return
            assert self.run(Run(str(self.site.path))) == 0, self.site.log
            yield number
        raise AssertionError("it never came to its end")

    def _back(self) -> None:
        for name in ("inbox", "outbox", "state", "archive", "failed"):
            shutil.rmtree(self.site.path / name, ignore_errors=True)
            if name != "inbox" and (self.before / name).exists():
                shutil.copytree(self.before / name, self.site.path / name)
        self.site.inbox.mkdir()
        for path in (self.before / "originals").iterdir():
            os.link(path, self.site.inbox / path.name)


def chain(site: Site) -> list[str]:
    """The states that the only job went through; each must follow from the one before."""
    with Store.open(site.state / STORE_FILE) as store:
        moves = store.transitions(1)
    assert [each.before for each in moves] == [None, *(each.after for each in moves[:-1])]
    return [each.after for each in moves]


def computed(site: Site) -> set[tuple[int, float | None]]:
    """The only job's pieces that a worker was seen to finish, and when; not those that were found."""
    with Store.open(site.state / STORE_FILE) as store:
        return {(row.index, row.finished) for row in store.chunks(1) if row.seconds is not None}


def assert_crashes_leave_no_trace(site: Site, source: Path, crash: Runner, results: set[str]) -> None:
    """From the moment on when all pieces are finished. The settings archive originals."""
    site.drop(source)
    original = source.read_bytes()
    assert crash(Run(str(site.path), kill_at=PUBLISHING, kill_on=".part")) == -signal.SIGKILL
    site.wait_for_children()
    before = computed(site)
    seen: set[bytes] = set()
    points = 0
    for number in Crashes.of(site, crash).at_every_change():
        points = number
        outbox = contents(site.outbox)
        assert outbox.keys() == results, f"killed at change {number}"
        seen.add(outbox[source.name])
        assert contents(site.path / "archive") == {source.name: original}, f"killed at change {number}"
        assert contents(site.inbox) == {}
        assert site.litter() == [], f"killed at change {number}"
        assert chain(site)[-1] == "done"
        assert computed(site) <= before, "no piece is computed again"
    assert points >= 15
    assert len(seen) == 1, "the same bytes each time"
    assert "Traceback" not in site.log


@pytest.mark.slow
def test_a_crash_at_any_change_while_a_film_is_published(tmp_path: Path, crash: Runner) -> None:
    archive = {"after": "archive", "archive": str(tmp_path / "site" / "archive")}
    site = Site.make(tmp_path / "site", originals=archive, results={"sidecar": True, "mode": "0640"})
    source = film(tmp_path / "film.mp4", 16)
    assert_crashes_leave_no_trace(site, source, crash, {"film.mp4", "film.mp4.json"})


@pytest.mark.slow
def test_a_crash_at_any_change_while_a_picture_replaces_another(tmp_path: Path, crash: Runner) -> None:
    archive = {"after": "archive", "archive": str(tmp_path / "site" / "archive")}
    site = Site.make(tmp_path / "site", originals=archive, results={"collision": "overwrite"})
    site.outbox.mkdir()
    (site.outbox / "a.png").write_text("an older one")
    assert_crashes_leave_no_trace(site, picture(tmp_path / "a.png"), crash, {"a.png"})


@pytest.mark.slow
def test_a_crash_at_any_change_while_a_failure_is_laid_aside(tmp_path: Path, crash: Runner) -> None:
    site = Site.make(tmp_path / "site", failures={"move_to": str(tmp_path / "site" / "failed")})
    (tmp_path / "junk.mp4").write_text("no film")
    site.drop(tmp_path / "junk.mp4")
    points = 0
    for number in Crashes.of(site, crash).at_every_change():
        points = number
        assert contents(site.path / "failed").keys() == {"junk.mp4", "junk.mp4.error.txt"}
        assert contents(site.inbox) == {}
        assert not site.outbox.exists() or contents(site.outbox) == {}
        assert site.litter() == []
        assert chain(site)[-1] == "failed"
    assert points >= 5


@pytest.mark.slow
def test_a_disk_that_fails_while_results_are_synced(tmp_path: Path, crash: Runner) -> None:
    """First its file, then its folder, when it has its name there already: each costs an attempt."""
    site = Site.make(tmp_path / "site")
    site.drop(picture(tmp_path / "b.png", seed=2), "sub/b.png")
    assert crash(Run(str(site.path), fail_sync=(".part", "outbox/sub"))) == 0
    (row,) = site.jobs()
    assert (row.state, row.attempts) == ("done", 3)
    assert contents(site.outbox).keys() == {"sub/b.png"}
    assert site.litter() == []
    assert site.log.count("Input/output error") == 2


@pytest.mark.slow
def test_a_folder_that_fails_when_it_is_synced(tmp_path: Path) -> None:
    """By the kernel's own answer, once, when the result has its name already: it is not published twice."""
    site = Site.make(tmp_path)
    site.outbox.mkdir()
    failing = ("-e", "trace=fsync", "-P", str(site.outbox), "-e", "inject=fsync:error=EIO:when=1")
    with site.daemon("strace", "-D", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null", *failing) as process:
        site.drop(picture(tmp_path / "a.png"))
        row = site.wait_for("a.png", "done")
        assert stop(process) == 0
    assert row.attempts == 2
    assert "Input/output error" in site.log
    assert list(contents(site.outbox)) == ["a.png"]
    assert site.litter() == []


# Disks that are full, folders that are not there or not to be written to


def mount(*arguments: str) -> bool:
    return subprocess.run(["unshare", "-m", *arguments], capture_output=True, check=False).returncode == 0


@pytest.fixture
def mounting(tmp_path: Path) -> None:
    if shutil.which("unshare") is None or not mount("mount", "-t", "tmpfs", "none", str(tmp_path)):
        pytest.skip("mounting needs root, or the right to it")


def on_small_disk(folder: Path, size: str) -> tuple[str, ...]:
    """What to start a command with that is to see a small disk of its own on a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    script = f'mount -t tmpfs -o size={size} none "$0" && exec "$@"'
    return ("unshare", "-m", "sh", "-c", script, str(folder))


def seen_by(pid: int, path: Path) -> Path:
    """A path as another process sees it, with its mounts."""
    return Path(f"/proc/{pid}/root{path}")


def fill(folder: Path) -> Path:
    """Leave no room in a folder; the file that takes it. What has become free since is taken, too."""
    filler = folder / "filler"
    with filler.open("ab", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            return filler
    raise AssertionError("it is never full")


def remount(pid: int, folder: Path, how: str) -> None:
    inside(pid, "mount", "-o", f"remount,{how}", folder)


@pytest.mark.slow
@pytest.mark.usefixtures("mounting")
def test_an_outbox_that_is_full_or_read_only(tmp_path: Path) -> None:
    site = Site.make(tmp_path)
    with site.daemon(*on_small_disk(site.outbox, "512k")) as process:
        outbox = seen_by(process.pid, site.outbox)
        filler = fill(outbox)
        site.drop(picture(tmp_path / "a.png", seed=1))
        wait_until(lambda: "a.png waits for room" in site.log, "the job waits")
        reason = site.wait_for("a.png", "queued").reason or ""
        assert re.search(rf"needs about [1-9]\d* KiB, and 0 KiB are free in {site.outbox}$", reason)
        filler.unlink()
        assert site.wait_for("a.png", "done").attempts == 1, "it was not the picture's fault"
        remount(process.pid, site.outbox, "ro")
        wait_until(lambda: f"paused: {site.outbox} cannot be written to" in site.log, "it pauses again")
        site.drop(picture(tmp_path / "b.png", seed=2))
        site.wait_for("b.png", "queued")
        remount(process.pid, site.outbox, "rw")
        site.wait_for("b.png", "done")
        assert sorted(contents(outbox)) == ["a.png", "b.png"]
        assert stop(process) == 0
    assert site.litter() == []


@pytest.mark.slow
@pytest.mark.usefixtures("mounting")
def test_a_result_that_does_not_fit_holds_nothing_up(tmp_path: Path) -> None:
    """It waits by itself, longer each time, and is not joined to see that it does not fit."""
    site = Site.make(tmp_path)
    with site.daemon(*on_small_disk(site.outbox, "1m")) as process:
        outbox = seen_by(process.pid, site.outbox)
        filler = fill(outbox)
        os.truncate(filler, filler.stat().st_size - 200 * 1024)
        site.drop(film(tmp_path / "film.mp4"))
        wait_until(lambda: "film.mp4 waits for room" in site.log, "the film waits")
        for number in range(5):
            site.drop(picture(tmp_path / "a.png", seed=number), f"{number}.png")
        for number in range(5):
            site.wait_for(f"{number}.png", "done")
        wait_until(lambda: site.log.count("film.mp4 waits for room") == 3, "it is tried again")
        row = site.wait_for("film.mp4", "queued")
        assert re.search(r"needs about \d+ KiB, and \d+ KiB are free in", row.reason or "")
        assert "paused" not in site.log
        assert len(site.chunks()) == len(site.finished("film.mp4")) > 1, "its pieces are kept"
        assert re.findall(r"(\d+) to do", site.log)[1:] == ["1"] * 5, "it was planned once, and not joined"
        filler.unlink()
        assert site.wait_for("film.mp4", "done").attempts == 1
        assert stop(process) == 0
    assert site.litter() == []


@pytest.mark.slow
@pytest.mark.usefixtures("mounting")
def test_a_state_folder_that_is_read_only_at_the_start_is_no_wrong_setting(tmp_path: Path) -> None:
    """systemd starts it again after exit code 1, not after 2."""
    site = Site.make(tmp_path)
    site.state.mkdir(parents=True)
    script = 'mount -t tmpfs -o ro none "$0" && exec "$@"'
    with site.started("unshare", "-m", "sh", "-c", script, str(site.state)) as process:
        assert process.wait(PATIENCE_SECONDS) == 1
    assert f"state_dir: {site.state} cannot be written to: Read-only file system" in site.log


@pytest.mark.slow
@pytest.mark.usefixtures("mounting")
def test_a_state_folder_that_is_full(tmp_path: Path) -> None:
    site = Site.make(tmp_path)
    with site.daemon(*on_small_disk(site.state, "2m")) as process:
        state = seen_by(process.pid, site.state)
        fill(state)
        site.drop(film(tmp_path / "film.mp4"))

        def pauses() -> bool:
            fill(state)  # the daemon may have held some room for a moment when the disk was filled first
            return "paused: the disk of" in site.log

        wait_until(pauses, "it pauses")
        (state / "filler").unlink()
        wait_until(lambda: f"-> {site.outbox / 'film.mp4'}" in site.log, "the film is done")
        assert list(contents(site.outbox)) == ["film.mp4"]
        assert stop(process) == 0
    assert " failed: " not in site.log


def on_one_disk(folder: Path, *places: Path) -> tuple[str, ...]:
    """What to start a command with for which these folders lie on a disk of their own, mounted on each."""
    script = 'mount -t tmpfs none "$0" && while [ "$1" != -- ]; do mkdir -p "$0/$1" "$1" && '
    script += 'mount --bind "$0/$1" "$1" && shift || exit 1; done; shift; exec "$@"'
    folder.mkdir()
    return ("unshare", "-m", "sh", "-c", script, str(folder), *map(str, places), "--")


def inside(pid: int, *command: str | Path) -> None:
    """Run a command with another process's mounts."""
    subprocess.run(["nsenter", "-t", str(pid), "-m", *map(str, command)], check=True)


@pytest.mark.slow
@pytest.mark.usefixtures("mounting")
def test_folders_that_are_unmounted_are_not_taken_for_empty_ones(tmp_path: Path) -> None:
    site = Site.make(tmp_path)
    disk = tmp_path / "disk"

    def drop(process: subprocess.Popen[bytes], name: str) -> None:
        picture(tmp_path / name, seed=len(name))
        shutil.copy(tmp_path / name, seen_by(process.pid, site.inbox) / f".{name}")
        (seen_by(process.pid, site.inbox) / f".{name}").rename(seen_by(process.pid, site.inbox) / name)

    with site.daemon(*on_one_disk(disk, site.inbox, site.outbox)) as process:
        drop(process, "a.png")
        site.wait_for("a.png", "done")
        site.command("pause")
        wait_until(lambda: (site.status()["daemon"] or {}).get("held") == "paused", "it has heard")
        drop(process, "bb.png")
        site.wait_for("bb.png", "queued")
        for place in (site.outbox, site.inbox):
            inside(process.pid, "umount", "--lazy", place)
        wait_until(lambda: f"paused: {site.inbox} is not mounted" in site.log, "it misses the inbox")
        site.command("resume")
        inside(process.pid, "mount", "--bind", f"{disk}/{site.inbox}", site.inbox)
        missed = f"{site.outbox} is not mounted"
        wait_until(lambda: missed in (site.status()["daemon"]["held"] or ""), "it misses the outbox")
        assert site.jobs_of("bb.png")[0].state == "queued"
        inside(process.pid, "mount", "--bind", f"{disk}/{site.outbox}", site.outbox)
        site.wait_for("bb.png", "done")
        assert sorted(contents(seen_by(process.pid, site.outbox))) == ["a.png", "bb.png"]
        assert stop(process) == 0
    with site.daemon() as process:
        wait_until(lambda: site.log.count("is not mounted") >= 2, "it knows after a start, too")
        site.drop(tmp_path / "a.png", "c.png")
        site.wait_for("c.png", "queued")
        assert stop(process) == 0
    assert contents(site.outbox) == {}, "nothing lies beneath the mount"


@pytest.mark.slow
def test_folders_that_go_and_come(tmp_path: Path) -> None:
    site = Site.make(tmp_path)
    site.outbox.write_text("a file where the folder should be")
    with site.daemon() as process:
        wait_until(lambda: f"paused: {site.outbox} is not a folder" in site.log, "it pauses")
        site.drop(picture(tmp_path / "a.png", seed=1))
        site.wait_for("a.png", "queued")
        site.outbox.unlink()
        site.wait_for("a.png", "done")
        site.inbox.rename(tmp_path / "old")
        wait_until(lambda: "waiting for it" in site.log, "it misses the inbox")
        site.inbox.mkdir()
        site.drop(picture(tmp_path / "b.png", seed=2))
        site.wait_for("b.png", "done")
        (site.outbox / "sub").write_text("a file where a folder should be")
        site.configure(failures={"attempts": 1})
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: "settings were read again" in site.log, "it has read them")
        site.drop(picture(tmp_path / "c.png", seed=3), "sub/c.png")
        row = site.wait_for("sub/c.png", "failed")
        assert f"{site.outbox / 'sub'} cannot be written to" in (row.reason or "")
        assert stop(process) == 0
    assert sorted(contents(site.outbox)) == ["a.png", "b.png", "sub"]


@pytest.mark.slow
def test_a_file_that_is_replaced_while_it_is_worked_on(tmp_path: Path) -> None:
    site = Site.make(tmp_path)
    with site.daemon() as process:
        site.drop(film(tmp_path / "film.mp4", 120, seed=1))
        wait_until(lambda: site.finished("film.mp4") != {}, "it is under way")
        site.drop(film(tmp_path / "film.mp4", 16, seed=2))
        row = site.wait_for("film.mp4", "done", jobs=2)
        site.wait_until_all_ended(2)
        assert stop(process) == 0
    assert (row.frames, row.output) == (16, site.outbox / "film.mp4")
    (first,) = [each for each in site.jobs() if each.id == 1]
    assert (first.state, first.reason) == ("cancelled", "another file took its place")
    assert list(contents(site.outbox)) == ["film.mp4"]
    assert site.litter() == []


def test_what_stands_in_the_way_of_writing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert obstacle(tmp_path, 0) is None
    assert obstacle(tmp_path / "not" / "yet", 0) is None
    assert obstacle(tmp_path / "file" / "below", 0) == f"{tmp_path / 'file'} is not a folder"
    assert "limits.min_free_space" in (obstacle(tmp_path, 2**60) or "")


def test_a_clock_that_is_set_back_delays_nothing_for_long(tmp_path: Path) -> None:
    with Store.open(tmp_path / STORE_FILE) as store:
        new = NewJob(Path("/a"), Path("a"), Identity(1, 1, 1), "film", None, 0, "{}")
        (job,) = store.accept([new], 1e9)
        assert store.claim("film", 1e9) is not None
        store.postpone(job, "lost a worker", 1e9 + 60, 1e9, counts=True)
        assert store.claim("film", 1e9 + 59) is None
        assert store.claim("film", 1e9 + 60 - LONGEST_DELAY_SECONDS) is None
        assert store.claim("film", 1e9 - 86_400) is not None, "a day earlier now"
        store.finish(job, Path("/out"), 1, None, 1e9 - 86_399)
        assert store.job(job).state == "done"
