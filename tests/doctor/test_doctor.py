"""`invsr-daemon doctor`: real folders, real probes, and a machine that is made to ail."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from invsr_daemon.doctor import encoders, folders, inotify, machine, models, service
from invsr_daemon.doctor.findings import Finding
from invsr_daemon.files import mounts
from invsr_daemon.settings.settings import Settings
from invsr_daemon.store import status
from tests.support.command import Finished, Home

OTHER_FILE_SYSTEM = Path("/dev/shm")


def _settings(folder: Path, **changes: Any) -> dict[str, Any]:
    for name in ("inbox", "outbox", "state"):
        (folder / name).mkdir(exist_ok=True)
    return {
        "inbox": str(folder / "inbox"),
        "outbox": str(folder / "outbox"),
        "state_dir": str(folder / "state"),
        "devices": "cpu",
        "limits": {"min_free_space": 0},
        **changes,
    }


def _loaded(folder: Path, **changes: Any) -> Settings:
    return Settings.model_validate(_settings(folder, **changes))


def _doctor(folder: Path, *options: str, **changes: Any) -> Finished:
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(_settings(folder, **changes)))
    return Home(folder).run("doctor", "-c", config, *options)


def _by_name(findings: Iterable[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


@pytest.mark.slow
def test_nothing_fails_where_all_is_well(tmp_path: Path) -> None:
    finished = _doctor(tmp_path, "--json")
    findings = _by_name(Finding(**json.loads(line)) for line in finished.out.splitlines())
    assert (finished.code, finished.err) == (0, "")
    assert "FAIL" not in {finding.level for finding in findings.values()}
    assert "built for" in findings["torch"].text
    assert findings["model default"].text.startswith("complete and unchanged")
    assert findings["encoder h264 (video)"].text == "encodes"
    assert findings["encoder ffv1"].text == "encodes"
    assert findings["devices"].text == "1 worker(s), on cpu"
    assert {"python", "inotify", "open files", "confinement", "service", "daemon"} <= findings.keys()
    assert [list((tmp_path / name).iterdir()) for name in ("inbox", "outbox", "state")] == [[], [], []]


@pytest.mark.slow
def test_everything_that_ails_is_told_at_once_and_how_to_mend_it(tmp_path: Path) -> None:
    """Among it a check that breaks: the status of a running daemon that cannot be read."""
    (tmp_path / "notes.txt").touch()
    with status.only_daemon(tmp_path / "state"):
        (tmp_path / "state" / status.STATUS_FILE).write_text("{")
        finished = _doctor(
            tmp_path,
            outbox=str(tmp_path / "notes.txt"),
            model="sd-turbo",
            models_dir=str(tmp_path / "models"),
            presets={"archive": {"video": {"codec": "av1", "preset": "glacial"}}},
            limits={"min_free_space": "1000TiB"},
        )
    assert finished.code == 1
    failed = [line for line in finished.out.splitlines() if line.startswith("FAIL")]
    for beginning in (
        "FAIL  model sd-turbo: the model 'sd-turbo' is not at",
        "FAIL  encoder av1 (presets.archive.video): video: the encoder libsvtav1 refuses its settings",
        f"FAIL  outbox: {tmp_path}/notes.txt cannot be used: Not a directory",
        "FAIL  free space, state_dir: ",
        "FAIL  daemon: this could not be checked: JSONDecodeError",
    ):
        assert any(line.startswith(beginning) for line in failed), (beginning, finished.out)
    assert finished.out.count("\n      → ") >= len(failed)
    assert "OK    encoder h264 (video): encodes" in finished.out
    (unusable,) = [line for line in finished.out.splitlines() if line.startswith("INFO  encoders not usable")]
    assert "h264_vaapi (" in unusable
    assert "OK    encoder h264_vaapi" not in finished.out
    assert "open files" in finished.out


@pytest.mark.slow
def test_a_wrong_configuration_has_exit_code_2(tmp_path: Path) -> None:
    finished = _doctor(tmp_path, scael=2)
    assert finished.code == 2
    assert "did you mean 'scale'" in finished.err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("torch", "told"),
    [
        ("raise ImportError('libcudart.so.12: cannot open')", "libcudart.so.12: cannot open (exit code 1)"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "killed by signal 9"),
    ],
)
def test_a_torch_that_breaks_is_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torch: str, told: str
) -> None:
    (tmp_path / "torch.py").write_text(torch)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    (finding,) = machine.check_torch()
    assert finding.level == "FAIL"
    assert told in finding.text
    assert finding.mend is not None
    assert "pip install" in finding.mend


@pytest.mark.slow
def test_encoders_that_cannot_be_tried_fail_only_if_they_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "av.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    wanted, others = encoders.check_encoders(_loaded(tmp_path))
    assert (wanted.level, wanted.text) == ("FAIL", "it could not be tried: killed by signal 11")
    assert others.level == "INFO"


def test_a_device_that_is_not_there_fails(tmp_path: Path) -> None:
    (finding,) = machine.check_devices(_loaded(tmp_path, devices="cuda:0"))
    assert finding.level == "FAIL"
    assert "there is no CUDA device here" in finding.text


def test_a_model_of_ones_own_is_only_looked_for(tmp_path: Path, tiny_model_dir: Path) -> None:
    own = {"mine": tiny_model_dir, "lost": tmp_path / "lost", "other": tmp_path}
    presets = {"presets": {name: {"model": str(folder)} for name, folder in own.items()}}
    found = _by_name(models.check_models(_loaded(tmp_path, **presets)))
    assert found["model default"].level == "OK"
    assert "not checked" in found[f"model {tiny_model_dir}"].text
    assert "holds no model" in found[f"model {tmp_path}"].text
    assert found[f"model {tmp_path / 'lost'}"].level == "FAIL"


def test_a_model_that_is_not_as_it_was_pulled_fails(tmp_path: Path) -> None:
    (tmp_path / "models" / "sd-turbo").mkdir(parents=True)
    settings = _loaded(tmp_path, model="sd-turbo", models_dir=str(tmp_path / "models"))
    (finding,) = models.check_models(settings)
    assert (finding.level, finding.mend) == ("FAIL", "invsr-daemon models pull sd-turbo")
    assert "lock.json is missing" in finding.text


def test_folders_that_are_not_there_yet(tmp_path: Path) -> None:
    """The inbox is awaited, the others are made."""
    later = tmp_path / "later"
    settings = _loaded(tmp_path, inbox=str(later / "inbox"), outbox=str(later / "outbox"))
    found = _by_name(folders.check_folders(settings))
    assert (found["inbox"].level, found["inbox"].mend) == ("FAIL", f"mkdir -p {later / 'inbox'}")
    assert found["outbox"].level == "OK"
    assert f"it will be made in {tmp_path}" in found["outbox"].text
    assert not later.exists()


def test_a_folder_that_takes_no_files_fails(tmp_path: Path) -> None:
    archive = {"after": "archive", "archive": "/proc/archive"}
    found = _by_name(folders.check_folders(_loaded(tmp_path, presets={"old": {"originals": archive}})))
    assert found["presets.old.originals.archive"].level == "FAIL"
    assert "/proc cannot be used" in found["presets.old.originals.archive"].text


def test_an_inbox_that_is_only_read_need_not_be_writable(tmp_path: Path) -> None:
    settings = _loaded(tmp_path, inbox="/proc/self/fdinfo", failures={"note": False})
    assert _by_name(folders.check_folders(settings))["inbox"].level == "OK"
    settings = _loaded(tmp_path, inbox="/proc/self/fdinfo")
    assert _by_name(folders.check_folders(settings))["inbox"].level == "FAIL"


def test_without_an_inbox_there_is_no_daemon(tmp_path: Path) -> None:
    found = list(folders.check_folders(_loaded(tmp_path, inbox=None)))
    assert [finding.name for finding in found if finding.level == "WARN"] == ["inbox"]
    assert list(inotify.check_inotify(_loaded(tmp_path, inbox=None))) == []


def test_an_inbox_inside_the_outbox_fails(tmp_path: Path) -> None:
    found = list(folders.check_folders(_loaded(tmp_path, outbox=str(tmp_path))))
    assert [finding.name for finding in found if finding.level == "FAIL"] == ["folders"]


def test_polling_is_told(tmp_path: Path) -> None:
    settings = _loaded(tmp_path, watch={"polling": "always"})
    found = _by_name(folders.check_folders(settings))
    assert found["inbox"].level == "WARN"
    assert "polled" in found["inbox"].text
    assert list(inotify.check_inotify(settings)) == []


@pytest.mark.skipif(not OTHER_FILE_SYSTEM.is_dir(), reason="no other file system at hand")
def test_moves_between_file_systems_copy(tmp_path: Path) -> None:
    settings = _loaded(
        tmp_path,
        originals={"after": "archive", "archive": str(OTHER_FILE_SYSTEM / "archive")},
        failures={"move_to": str(tmp_path / "failed")},
    )
    found = _by_name(folders.check_moves(settings))
    assert "copies" in found["originals.archive"].text
    assert "quick" in found["failures.move_to"].text


def test_the_kind_of_a_file_system(tmp_path: Path) -> None:
    assert mounts.file_system_of(Path("/proc/self")) == "proc"
    (tmp_path / "link").symlink_to("/proc")
    assert mounts.file_system_of(tmp_path / "link") == "proc"


def test_hard_links_and_free_space_of_an_outbox_to_be_made(tmp_path: Path) -> None:
    settings = _loaded(tmp_path, outbox=str(tmp_path / "new" / "outbox"))
    (links,) = folders.check_hard_links(settings)
    assert links == Finding("OK", "hard links", f"possible in {tmp_path}")
    assert [finding.level for finding in folders.check_free_space(settings)] == ["OK", "OK"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inbox", "outbox", "state"]


def test_folders_of_the_inbox_are_counted(tmp_path: Path) -> None:
    settings = _loaded(tmp_path)
    (tmp_path / "inbox" / "a" / "b").mkdir(parents=True)
    (finding,) = inotify.check_inotify(settings)
    assert finding.text.startswith("the inbox needs 3 of ")


@pytest.mark.parametrize(
    ("held", "problem", "level"), [(None, None, "OK"), ("paused", None, "WARN"), (None, "no inbox", "WARN")]
)
def test_a_running_daemon(tmp_path: Path, held: str | None, problem: str | None, level: str) -> None:
    settings = _loaded(tmp_path)
    state = tmp_path / "state"
    assert [finding.text for finding in service.check_daemon(settings)] == [f"none is running on {state}"]
    with status.only_daemon(state):
        assert "just been started" in next(iter(service.check_daemon(settings))).text
        status.DaemonStatus(1, "1.2", 0.0, ("cpu",), 0, (), 3, 0.0, "inotify", held, problem).write(state)
        (finding,) = service.check_daemon(settings)
    assert finding.level == level
    assert "3 queued" in finding.text


def test_devices_that_a_daemon_has_set_aside_are_named(tmp_path: Path) -> None:
    settings = _loaded(tmp_path)
    sick = {"cuda:1": "it convolves wrongly"}
    with status.only_daemon(tmp_path / "state"):
        status.DaemonStatus(
            1, "1.2", 0.0, ("cuda:0", "cuda:1"), 0, (), 3, 0.0, "inotify", None, None, sick
        ).write(tmp_path / "state")
        told, device = service.check_daemon(settings)
    assert "set aside: cuda:1" in told.text
    assert (device.level, device.text) == ("WARN", "cuda:1 is set aside: it convolves wrongly")


@pytest.mark.parametrize(
    ("active", "restarts", "level"), [("active", "0", "OK"), ("active", "3", "WARN"), ("failed", "3", "FAIL")]
)
def test_the_state_of_the_unit(active: str, restarts: str, level: str) -> None:
    unit = {"ActiveState": active, "SubState": "x", "NRestarts": restarts, "Result": "exit-code"}
    assert service.unit_state(unit).level == level
