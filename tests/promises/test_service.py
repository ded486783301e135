"""The systemd service: its files, and what they do under a real systemd."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from invsr_daemon.confinement import OOM_SCORE
from invsr_daemon.errors import ConfigError
from invsr_daemon.systemd import service
from tests.support.command import Home, wait_until
from tests.support.daemons import film, picture
from tests.support.systemd_box import SystemdBox, booted, unavailable

PROGRAM = Path(sys.prefix) / "bin" / "invsr-daemon"
needs_systemd = pytest.mark.skipif(bool(unavailable()), reason=unavailable() or "there is one")

# Feeds its watchdog until SIGUSR1, and takes longer to drain than it is given unless it asks for time.
NOTIFYING = """
    import os, signal, time
    from invsr_daemon.systemd.notify import Notifier

    notifier, hanging = Notifier.from_environment(), False

    def reload(*_):
        notifier.reloading()
        notifier.status("settings were read again")
        notifier.ready()

    def hang(*_):
        global hanging
        hanging = True

    def drain(*_):
        notifier.stopping()
        notifier.extend_timeout(20)
        time.sleep(2.5)
        print("drained", flush=True)
        raise SystemExit

    signal.signal(signal.SIGHUP, reload)
    signal.signal(signal.SIGUSR1, hang)
    signal.signal(signal.SIGTERM, drain)
    notifier.status("2 running, 14 queued")
    notifier.ready()
    while True:
        if not hanging:
            notifier.watchdog()
        time.sleep(int(os.environ["WATCHDOG_USEC"]) / 8e6)
"""

# Quick settings; the outbox lies where the sandbox hides everything else.
CONFIG = """
inbox: /srv/invsr/inbox
state_dir: /var/lib/invsr-daemon
outbox: /home/somebody/outbox
settle_seconds: 0.1
watch: {rescan_seconds: 2}
video: {chunk_frames: 8, preset: ultrafast}
"""
# A busy machine may take its time; and where the service must not write, it cannot.
PATIENT = """[Service]
TimeoutStartSec=infinity
RestartSec=0
Nice=0
ExecStartPost=/bin/bash -c '! touch /srv/invsr/other && ! touch /etc/other'
"""
SHORT_STOP = "[Service]\nTimeoutStopSec=4\n"
SHORT_WATCHDOG = "[Service]\nWatchdogSec=8\n"
UNIT = "invsr-daemon"


@dataclass(frozen=True)
class Served:
    """The service in a box; its folders as seen from outside, its jobs as its commands tell."""

    box: SystemdBox
    files: Path

    @property
    def config(self) -> Path:
        return self.box.path("/etc/invsr-daemon/config.yaml")

    @property
    def inbox(self) -> Path:
        return self.box.path("/srv/invsr/inbox")

    @property
    def outbox(self) -> Path:
        return self.box.path("/home/somebody/outbox")

    @property
    def log(self) -> str:
        return self.box.journal(UNIT)

    def drop(self, source: Path) -> None:
        """Have a file appear in the inbox, whole."""
        hidden = self.inbox / f".{source.name}"
        shutil.copy(source, hidden)
        hidden.rename(self.inbox / source.name)

    def job(self, name: str) -> dict[str, Any]:
        """All that is known of a file's job; nothing if it has none yet."""
        listed = self.box.must(PROGRAM, "jobs", "--json", "-c", service.CONFIG)
        rows = [json.loads(line) for line in listed.splitlines()]
        ids = [str(row["id"]) for row in rows if row["relative"] == name]
        if not ids:
            return {}
        shown = self.box.must(PROGRAM, "jobs", "show", ids[0], "--json", "-c", service.CONFIG)
        return dict(json.loads(shown))

    def finished(self, name: str) -> dict[int, float]:
        """When each finished chunk of a file was written down."""
        chunks = self.job(name).get("chunks", [])
        return {each["index"]: each["finished"] for each in chunks if each["finished"] is not None}

    def wait_until_done(self, name: str) -> None:
        wait_until(lambda: self.job(name).get("state") == "done", f"{name} is done")

    def restarts(self) -> int:
        return int(self.box.show(UNIT, "NRestarts"))

    def kill(self, signal: str) -> None:
        """Send a signal to the daemon, not to its workers."""
        self.box.must("systemctl", "kill", "--kill-whom=main", f"--signal={signal}", UNIT)

    def wait_until_restarted(self, before: int) -> None:
        wait_until(lambda: self.restarts() > before, "it is started again")
        self.box.wait_for(UNIT, "ActiveState", "active")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SystemdBox]:
    with booted(tmp_path_factory.mktemp("box")) as running:
        yield running


def planned(inbox: str = "/srv/in", outbox: str = "/srv/out", user: str = "invsr-daemon") -> service.Service:
    return service.plan(user, Path("/nowhere/config.yaml"), Path(inbox), Path(outbox), Path("/"))


def text_of(planned: service.Service, path: Path) -> str:
    (text,) = [file.text for file in service.files(planned) if file.path == path]
    return text


def value(unit: str, key: str) -> str:
    (found,) = re.findall(rf"^{key}=(.*)$", unit, re.MULTILINE)
    return str(found)


@pytest.mark.slow
@needs_systemd
@pytest.mark.parametrize("inbox", ["/srv/in", "/home/somebody/in"])
def test_the_unit_is_valid_and_little_exposed(tmp_path: Path, inbox: str) -> None:
    unit = tmp_path / "invsr-daemon.service"
    unit.write_text(text_of(planned(inbox), service.UNIT))
    for check in (["security", "--offline=true", "--threshold=15"], ["verify"]):
        done = subprocess.run(
            ["systemd-analyze", "--no-pager", *check, unit], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "invsr-daemon.service:" not in done.stderr


def test_memory_and_tasks_are_limited_and_children_go_first() -> None:
    unit = text_of(planned("/srv/in"), service.UNIT)
    assert (value(unit, "MemoryHigh"), value(unit, "MemoryMax")) == ("85%", "90%")
    assert (value(unit, "OOMPolicy"), value(unit, "OOMScoreAdjust")) == ("continue", "0")
    assert int(value(unit, "OOMScoreAdjust")) < OOM_SCORE
    assert (value(unit, "LimitCORE"), int(value(unit, "TasksMax")) > 1000) == ("0", True)


def test_paths_and_user_are_put_in() -> None:
    plan = planned("/data/in put", "/data/100%", user="restorer")
    unit = text_of(plan, service.UNIT)
    assert value(unit, "ExecStart") == f"{PROGRAM} run -c /nowhere/config.yaml"
    assert value(unit, "User") == "restorer"
    for key in ("ReadWritePaths", "RequiresMountsFor"):
        assert value(unit, key) == '"/data/in put" /data/100%%'
    assert 'd "/data/in put" :2770 :restorer :restorer -' in text_of(plan, service.TMPFILES)
    assert 'u restorer - "' in text_of(plan, service.SYSUSERS)
    assert "m restorer render" in text_of(plan, service.SYSUSERS)


def test_the_disks_of_models_are_waited_for(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("inbox: /in\noutbox: /out\nmodels_dir: /weights\nmodel: /weights/own\n")
    unit = text_of(service.plan("a", config, None, None, Path("/")), service.UNIT)
    assert value(unit, "RequiresMountsFor") == "/in /out /weights /weights/own"


def test_folders_that_the_sandbox_hides_are_bound_and_warned_of() -> None:
    plan = planned("/home/somebody/in", "/srv/out")
    unit = text_of(plan, service.UNIT)
    assert value(unit, "BindPaths") == "/home/somebody/in"
    assert value(unit, "ReadWritePaths") == "/srv/out"
    assert value(unit, "ProtectHome") == "tmpfs"
    assert any("/home/somebody/in" in warning for warning in plan.warnings)


@pytest.mark.parametrize("name", ["/srv/a:b", "/srv/$x", '/srv/"', "/srv/a\nUser=root", "/srv/a\\b"])
def test_names_that_systemd_would_read_otherwise_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="plainer"):
        service.files(planned(name))


@pytest.mark.parametrize("user", ["", "two words", "x\nUser=root", "-x"])
def test_a_user_needs_a_plain_name(user: str) -> None:
    with pytest.raises(ConfigError, match="plain user name"):
        planned(user=user)


@pytest.mark.slow
def test_every_folder_of_the_configuration_is_writable(home: Home) -> None:
    config = home.path / "config.yaml"
    config.write_text(
        "inbox: /data/in\noutbox: /data/out\nstate_dir: /data/state\n"
        "originals: {archive: /data/archive}\nfailures: {move_to: /data/failed}\n"
        "presets: {anime: {originals: {archive: /data/anime}}}\n"
    )
    finished = home.run("service", "print", "-c", config)
    assert finished.code == 0, finished.err
    folders = {Path(path).name for path in value(finished.out, "ReadWritePaths").split()}
    assert folders == {"anime", "archive", "failed", "in", "out", "state"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("outbox: /data/out\n", "inbox is not set"),
        ("inbox: in\noutbox: /elsewhere\n", "whole path"),
        ("inbox: /data/in\noutbox: /data/out\n", "the configuration says outbox: /data/out"),
    ],
)
def test_a_configuration_that_makes_no_service_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(text)
    with pytest.raises(ConfigError, match=reason):
        service.plan("invsr-daemon", config, None, Path("/elsewhere"), Path("/"))


def test_an_owner_of_results_is_warned_of(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("inbox: /data/in\noutbox: /data/out\npresets: {anime: {results: {owner: somebody}}}\n")
    plan = service.plan("invsr-daemon", config, None, None, Path("/"))
    assert any("results.owner" in warning for warning in plan.warnings)


@pytest.mark.slow
def test_what_install_wrote_uninstall_removes(home: Home) -> None:
    root = home.path / "image"
    install = ("service", "install", "--root", root, "--inbox", "/data/in put")
    assert home.run(*install).code == 0
    written = _files(root)
    assert len(written) == 4
    assert "inbox: /data/in put\n" in (root / "etc/invsr-daemon/config.yaml").read_text()
    assert home.run(*install).code == 0  # once more, over files of its own
    assert _files(root) == written
    assert home.run("service", "uninstall", "--root", root).code == 0
    assert not _files(root)


def test_files_edited_by_hand_are_neither_replaced_nor_removed(tmp_path: Path) -> None:
    plan, said = planned(), list[str]()
    service.install(plan, tmp_path, said.append, force=False)
    written = _files(tmp_path)
    unit, config = tmp_path / service.UNIT.relative_to("/"), tmp_path / plan.config.relative_to("/")
    for path in (unit, config):
        path.write_text(written[path] + "# mine\n")
    with pytest.raises(ConfigError, match=str(unit)):
        service.install(plan, tmp_path, said.append, force=False)
    service.uninstall(plan.config, tmp_path, said.append)
    assert set(_files(tmp_path)) == {unit, config}
    service.install(plan, tmp_path, said.append, force=True)
    assert _files(tmp_path) == {**written, config: written[config] + "# mine\n"}


def _files(root: Path) -> dict[Path, str]:
    return {path: path.read_text() for path in root.rglob("*") if path.is_file()}


@pytest.mark.slow
@needs_systemd
def test_systemd_hears_what_is_notified(box: SystemdBox) -> None:
    box.path("/opt/notifying.py").write_text(textwrap.dedent(NOTIFYING))
    box.add_unit(
        "notifying.service",
        f"[Service]\nType=notify\nExecStart={sys.executable} /opt/notifying.py\n"
        "ExecReload=/bin/kill -HUP $MAINPID\n"
        "Restart=on-failure\nRestartSec=0\nWatchdogSec=2\nWatchdogSignal=KILL\nTimeoutStopSec=1\n",
    )
    box.must("systemctl", "start", "notifying")
    assert box.show("notifying", "StatusText") == "2 running, 14 queued"
    box.must("systemctl", "reload", "notifying")
    box.wait_for("notifying", "StatusText", "settings were read again")
    box.must("systemctl", "kill", "--signal=USR1", "notifying")
    box.wait_for("notifying", "NRestarts", "1")
    assert "Watchdog timeout" in box.journal("notifying")
    box.wait_for("notifying", "ActiveState", "active")
    box.must("systemctl", "stop", "notifying")
    assert box.show("notifying", "Result") == "success"
    assert "drained" in box.journal("notifying")


@pytest.mark.slow
@needs_systemd
def test_only_root_installs(box: SystemdBox) -> None:
    nobody = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups")
    refused = box.run(*nobody, PROGRAM, "service", "install")
    assert (refused.code, "root" in refused.err) == (2, True)


@pytest.fixture(scope="module")
def served(box: SystemdBox, tmp_path_factory: pytest.TempPathFactory) -> Served:
    """Installed, and started: systemd waited until it said that it is ready."""
    served = Served(box, tmp_path_factory.mktemp("served"))
    served.config.parent.mkdir()
    served.config.write_text(CONFIG)
    box.must(PROGRAM, "service", "install")
    box.add_unit(f"{UNIT}.service.d/patient.conf", PATIENT)
    started = box.run("systemctl", "start", UNIT)
    assert started.code == 0, served.log
    return served


@pytest.mark.slow
@needs_systemd
def test_the_service_starts_and_says_so(served: Served) -> None:
    box = served.box
    assert "render" in box.must("id", "invsr-daemon")
    assert "drwxrws---" in box.must("ls", "-ld", "/srv/invsr/inbox")
    assert (box.show(UNIT, "ActiveState"), box.show(UNIT, "Type")) == ("active", "notify")
    wait_until(lambda: "0 running, 0 queued" in box.show(UNIT, "StatusText"), "it tells what it does")
    assert "Landlock" not in served.log, "the unit lets its processes confine themselves"
    exposure = box.must("systemd-analyze", "--no-pager", "security", "--threshold=15", UNIT)
    print(exposure.splitlines()[-1])


@pytest.mark.slow
@needs_systemd
def test_killed_it_is_started_again_and_goes_on(served: Served) -> None:
    served.drop(picture(served.files / "picture.png"))
    served.wait_until_done("picture.png")
    result = served.outbox / "picture.png"
    with Image.open(result) as image:
        assert image.size == (64, 48)
    assert result.stat().st_mode & 0o777 == 0o660
    assert result.stat().st_gid == served.inbox.stat().st_gid

    served.drop(film(served.files / "film.mp4"))
    wait_until(lambda: served.finished("film.mp4") != {}, "a chunk is finished")
    before, restarts = served.finished("film.mp4"), served.restarts()
    served.kill("KILL")
    served.wait_until_restarted(restarts)
    served.wait_until_done("film.mp4")
    assert before.items() <= served.finished("film.mp4").items(), "no finished chunk is computed again"
    assert (served.outbox / "film.mp4").exists()


@pytest.mark.slow
@needs_systemd
def test_a_reload_is_for_new_jobs(served: Served) -> None:
    served.config.write_text(f"{CONFIG}scale: 2\n")
    pid = served.box.show(UNIT, "MainPID")
    served.box.must("systemctl", "reload", UNIT)
    wait_until(lambda: "settings were read again" in served.log, "it has read them")
    assert served.box.show(UNIT, "MainPID") == pid
    served.drop(picture(served.files / "half.png"))
    served.wait_until_done("half.png")
    with Image.open(served.outbox / "half.png") as image:
        assert image.size == (32, 24)


@pytest.mark.slow
@needs_systemd
def test_a_stop_lets_the_chunk_under_way_finish(served: Served) -> None:
    """Longer than systemd would wait, had the daemon not asked for time."""
    box = served.box
    box.add_unit(f"{UNIT}.service.d/stop.conf", SHORT_STOP)
    served.drop(film(served.files / "long.mp4", 200))
    wait_until(lambda: served.finished("long.mp4") != {}, "a chunk is finished")
    before = served.finished("long.mp4")
    worker = box.must("pgrep", "--full", "invsr_daemon.workers.restore").split()[0]
    box.must("kill", "-STOP", worker)
    box.must("systemctl", "stop", "--no-block", UNIT)
    began = time.monotonic()
    wait_until(lambda: time.monotonic() - began > 6, "more time passes than TimeoutStopSec=")
    assert box.show(UNIT, "ActiveState") == "deactivating"
    box.must("kill", "-CONT", worker)
    box.wait_for(UNIT, "ActiveState", "inactive")
    assert box.show(UNIT, "Result") == "success"
    job, after = served.job("long.mp4"), served.finished("long.mp4")
    assert (job["state"], job["reason"]) == ("queued", "the daemon stopped")
    assert len(after) > len(before), "the chunk under way was finished"
    box.must(PROGRAM, "cancel", str(job["id"]), "-c", service.CONFIG)


@pytest.mark.slow
@needs_systemd
def test_hung_it_is_started_again(served: Served) -> None:
    box = served.box
    box.add_unit(f"{UNIT}.service.d/watchdog.conf", SHORT_WATCHDOG)
    box.must("systemctl", "restart", UNIT)
    fed = box.show(UNIT, "WatchdogTimestampMonotonic")
    wait_until(lambda: box.show(UNIT, "WatchdogTimestampMonotonic") != fed, "it feeds the watchdog")
    restarts = served.restarts()
    served.kill("STOP")
    served.wait_until_restarted(restarts)
    assert "Watchdog timeout" in served.log


@pytest.mark.slow
@needs_systemd
def test_uninstalled_it_leaves_what_it_made(served: Served) -> None:
    (served.outbox / "result.mp4").touch()
    served.box.must(PROGRAM, "service", "uninstall")
    assert served.box.show(UNIT, "ActiveState") == "inactive"
    assert not served.box.path(service.UNIT).exists()
    assert (served.outbox / "result.mp4").exists()
    assert served.config.exists(), "it was written by hand"
