"""What a device is asked by `doctor --gpu`: the CPU is well; a pretending device is well, or made to ail."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from invsr_daemon import InvSR
from invsr_daemon.records import ModelSettings
from invsr_daemon.restorers.invsr.model import InvSRNetworks
from invsr_daemon.workers.device import DeviceRestorer
from invsr_daemon.workers.device_trial import (
    GIB,
    architecture_seen,
    convolutions,
    examined,
    fail_assertion,
    film_twice,
    memory_seen,
    products,
)
from tests.support.pretending import DEVICE, Pretence, Pretending, sent_away

CPU = torch.device("cpu")
BUILT_FOR = ["sm_75", "sm_80", "sm_90a", "sm_100f", "compute_121"]


class Ailing(Pretence):
    """A device whose results of some operators are `factor` times what they should be, or more each time."""

    def __init__(self, operator: str, factor: float, growth: float = 1.0) -> None:
        super().__init__()
        self._operator, self._factor, self._growth = operator, factor, growth

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = super().__torch_dispatch__(function, types, args, kwargs)
        if str(function).startswith(self._operator) and isinstance(result, Pretending):
            result.held.mul_(self._factor)
            self._factor *= self._growth
        return result


class Away(DeviceRestorer):
    """A worker's device that pretends, with the embedded model on it."""

    def __init__(self) -> None:
        super().__init__("meta")
        near = InvSR.load("default").restorer
        for network in near.networks.values():
            sent_away(network)
        self._away = InvSR(InvSRNetworks(near.parts, DEVICE, torch.float32))

    def model(self, settings: ModelSettings) -> InvSR:
        return self._away


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("sm_80", True),
        ("sm_86", True),  # a later minor number
        ("sm_70", False),
        ("sm_90", True),  # what is built for sm_90a runs there ...
        ("sm_91", False),  # ... and nowhere else
        ("sm_103", True),  # of sm_100f's family
        ("sm_120", False),
        ("sm_130", True),  # compiled by the driver from compute_121
        ("gfx942", False),
    ],
)
def test_architectures(name: str, right: bool) -> None:
    seen = architecture_seen(name, BUILT_FOR)
    assert seen.problem is not right
    assert name in seen.text
    assert right or "sm_75, sm_80" in seen.text


def test_little_memory_is_a_problem() -> None:
    assert memory_seen(GIB, 80 * GIB).problem
    seen = memory_seen(70 * GIB, 80 * GIB)
    assert (seen.text, seen.problem) == ("70.0 of 80.0 GiB free", False)


@pytest.mark.parametrize("check", [products, convolutions])
def test_a_device_computes_as_the_cpu(check: Any) -> None:
    assert not check(CPU).problem
    with Pretence():
        seen = check(DEVICE)
    assert not seen.problem
    assert "fp32 0e+00" in seen.text


@pytest.mark.parametrize(("check", "operator"), [(products, "aten.mm"), (convolutions, "aten.conv")])
@pytest.mark.parametrize("factor", [1.1, float("nan")])
def test_a_device_that_computes_wrongly_is_found(check: Any, operator: str, factor: float) -> None:
    with Ailing(operator, factor):
        assert check(DEVICE).problem


@pytest.mark.slow
def test_everything_is_well_on_the_cpu() -> None:
    seen = list(examined(CPU))
    assert [each.subject for each in seen] == ["products", "convolutions", "film"]
    assert not any(each.problem for each in seen)


@pytest.mark.slow
def test_films_of_a_device() -> None:
    """Its bits must be the same twice, and values finite."""
    away = Away()
    with Pretence():
        assert not film_twice(away).problem
    with Ailing("aten.conv", 1.0, 1.0 + 1e-6):
        assert film_twice(away).text == "the same film has other bits the second time"
    with Ailing("aten.conv", float("nan")):
        assert film_twice(away).text == "a restored film has values that are not finite"


def test_an_assertion_fails() -> None:
    raised = fail_assertion(CPU)
    assert raised is not None
    assert raised.startswith("IndexError")
