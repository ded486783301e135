from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from invsr_daemon.errors import ConfigError
from invsr_daemon.pool import devices
from invsr_daemon.pool.devices import choose_devices, named_by_torch
from invsr_daemon.pool.probing import device_problem
from invsr_daemon.settings.devices import device_names


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wanted", "workers", "chosen"),
    [
        (("cpu",), 0, ("cpu",)),
        (("cpu:3",), 0, ("cpu", "cpu", "cpu")),
        (("cpu",), 2, ("cpu", "cpu")),
        (("cpu:3",), 1, ("cpu",)),
        (("cpu", "cpu:2"), 0, ("cpu", "cpu", "cpu")),
        (("cpu", " cpu"), 0, ("cpu", "cpu")),
    ],
)
def test_a_device_for_every_worker(wanted: tuple[str, ...], workers: int, chosen: tuple[str, ...]) -> None:
    assert choose_devices(device_names(wanted), workers) == chosen


@pytest.mark.parametrize("wanted", ["", "gpu", "cpu:0", "cpu:x", "cuda:x", "cpu,cpu"])
def test_what_is_no_device_is_refused(wanted: str) -> None:
    with pytest.raises(ValueError, match="is none of auto, cpu, cpu:N, cuda, cuda:N, GPU-UUID, MIG-UUID"):
        device_names(["cpu", wanted])


def stand_in_python(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    """A script in place of the interpreter, on a machine that has a GPU."""
    python = folder / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(devices, "ACCELERATOR_NODES", (Path("/dev/null"),))


@pytest.mark.slow
def test_torch_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = tmp_path / "asked"
    stand_in_python(monkeypatch, tmp_path, f"""echo >> {asked}; echo '["cuda:0", "cuda:1"]'""")
    assert choose_devices(("cuda:1", "cuda:0", "auto"), 0) == ("cuda:1", "cuda:0", "cuda:0", "cuda:1")
    assert asked.read_text() == "\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo first >&2; echo no driver >&2; exit 1", "cannot be asked for them: no driver;"),
        ("exit 3", "cannot be asked for them: exit code 3;"),
        ("exec sleep 600", "did not name any within"),
    ],
)
def test_a_torch_that_breaks_or_hangs_is_told_with_a_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, said: str
) -> None:
    stand_in_python(monkeypatch, tmp_path, script)
    monkeypatch.setattr(devices, "ASK_SECONDS", 600 if "exit" in script else 0.1)
    with pytest.raises(ConfigError, match=said) as caught:
        choose_devices(("auto",), 0)
    assert "devices: cpu" in str(caught.value)


CARD = "GPU-8f6c1a3e-02b4-5c1e-9a77-0d4ce1f0aa01"
PART = "MIG-f4b1a0b2-7a63-55c4-bb1e-1f8f3b3c9d10"
OLD_PART = f"MIG-{CARD}/7/0"
SEES_ONE = f"""test "$CUDA_VISIBLE_DEVICES" = {PART} && echo '["cuda:0"]' || echo '[]'"""


@pytest.mark.parametrize("name", [CARD, PART, OLD_PART])
def test_a_card_or_a_part_of_one_is_the_only_one_that_its_process_sees(name: str) -> None:
    assert device_names([name]) == (name,)
    assert named_by_torch(name) == ("cuda:0", {"CUDA_VISIBLE_DEVICES": name})


def test_other_devices_are_called_as_torch_has_it() -> None:
    assert named_by_torch("cuda:3") == ("cuda:3", {})


@pytest.mark.slow
def test_a_part_of_a_card_is_looked_for_by_its_uuid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in_python(monkeypatch, tmp_path, SEES_ONE)
    assert choose_devices((PART,), 2) == (PART, PART)
    with pytest.raises(ConfigError, match=f"there is no {CARD} here"):
        choose_devices((CARD,), 0)


@pytest.mark.slow
def test_a_device_that_was_set_aside_is_probed_by_its_uuid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = """echo "{\\"problem\\": \\"$3 $CUDA_VISIBLE_DEVICES\\"}\""""
    stand_in_python(monkeypatch, tmp_path, answer)
    assert asyncio.run(device_problem(PART, "a.module")) == f"cuda:0 {PART}"
