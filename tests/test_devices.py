from __future__ import annotations

import pytest

from invsr_daemon.devices import choose_devices
from invsr_daemon.records import ConfigError


@pytest.mark.parametrize(
    ("wanted", "workers", "chosen"),
    [
        ("cpu", 0, ("cpu",)),
        ("cpu:3", 0, ("cpu", "cpu", "cpu")),
        ("cpu", 2, ("cpu", "cpu")),
        ("cpu:3", 1, ("cpu",)),
        (("cpu", "cpu:2"), 0, ("cpu", "cpu", "cpu")),
        ("cpu, cpu", 0, ("cpu", "cpu")),
    ],
)
def test_a_device_for_every_worker(
    wanted: str | tuple[str, ...], workers: int, chosen: tuple[str, ...]
) -> None:
    assert choose_devices(wanted, workers) == chosen


@pytest.mark.parametrize("wanted", ["", "gpu", "cpu:0", "cpu:x", "cuda:x", "cpu,,cpu"])
def test_what_is_no_device_is_refused(wanted: str) -> None:
    with pytest.raises(ConfigError, match="devices"):
        choose_devices(wanted, 0)
