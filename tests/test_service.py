"""The systemd service: its files, and what they do under a real systemd."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from invsr_daemon import service
from invsr_daemon.records import ConfigError

from .command import Home
from .conftest import DATA
from .systemd_box import SystemdBox, booted, unavailable

PROGRAM = Path(sys.prefix) / "bin" / "invsr-daemon"
needs_systemd = pytest.mark.skipif(bool(unavailable()), reason=unavailable() or "there is one")

# Feeds its watchdog until SIGUSR1, and takes longer to drain than it is given unless it asks for time.
NOTIFYING = """
    import signal, time
    from invsr_daemon.notify import Notifier, watchdog_seconds

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
        time.sleep(watchdog_seconds() / 8)
"""

# Another program in the service's sandbox.
ONE_PICTURE = f"""[Service]
Type=oneshot
Restart=no
WatchdogSec=0
TimeoutStartSec=infinity
Nice=0
ExecStart=
ExecStart={PROGRAM} process /srv/invsr/inbox/picture.png -o /home/somebody/outbox/ --model /srv/model
ExecStartPost=/bin/bash -c '! touch /srv/invsr/other && ! touch /etc/other'
"""


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


@needs_systemd
def test_the_installed_service_restores_a_picture_in_its_sandbox(box: SystemdBox) -> None:
    nobody = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups")
    refused = box.run(*nobody, PROGRAM, "service", "install")
    assert (refused.code, "root" in refused.err) == (2, True)

    # The outbox where the sandbox hides everything else.
    box.must(PROGRAM, "service", "install", "--outbox", "/home/somebody/outbox")
    assert box.show("invsr-daemon", "LoadState") == "loaded"
    assert "render" in box.must("id", "invsr-daemon")
    assert "drwxrws---" in box.must("ls", "-ld", "/srv/invsr/inbox")

    Image.new("RGB", (16, 16), (200, 30, 90)).save(box.path("/srv/invsr/inbox/picture.png"))
    shutil.copytree(DATA / "tiny-random", box.path("/srv/model"))
    box.add_unit("invsr-daemon.service.d/once.conf", ONE_PICTURE)
    started = box.run("systemctl", "start", "invsr-daemon")
    assert started.code == 0, box.journal("invsr-daemon")
    result = box.path("/home/somebody/outbox/picture.png")
    with Image.open(result) as picture:
        assert picture.size == (64, 64)
    assert result.stat().st_mode & 0o777 == 0o660

    box.must(PROGRAM, "service", "uninstall")
    assert not box.path(service.UNIT).exists()
    assert result.exists()
