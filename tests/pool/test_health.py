"""Devices that are set aside, probed and taken back; probes are answered by the tests."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from invsr_daemon.errors import (
    DeviceLostError,
    DeviceOccupiedError,
    InputError,
    InvsrError,
    WorkerLostError,
    WorkerStartError,
)
from invsr_daemon.pool.health import DeviceHealth, Service

LOST, DEAD = DeviceLostError("CUDA error"), WorkerLostError("killed")


class Ward:
    """Two devices, and what happens to them. `sick`: what a probe finds, by device."""

    def __init__(self, waits: tuple[float, ...] = (0.0,)) -> None:
        self.happened: list[str] = []
        self.sick: dict[str, str] = {}
        service = Service(
            lambda device: self.happened.append(f"{device} aside"),
            lambda device: self.happened.append(f"{device} back"),
        )
        self.health = DeviceHealth(("cuda:0", "cuda:1"), self._probe, service, waits)

    async def _probe(self, device: str) -> str | None:
        self.happened.append(f"{device} probed")
        return self.sick.get(device)

    def suffer(self, *ends: tuple[str, InvsrError | None]) -> list[str]:
        """Tasks of cuda:0 that end so, one after the other; the devices that are set aside then."""
        for task, error in ends:
            if error is None:
                self.health.succeeded("cuda:0")
            else:
                self.health.failed("cuda:0", task, error)
        return list(self.health.problems)


def lived(life: Callable[[Ward], Awaitable[None]], ward: Ward) -> list[str]:
    """What happened to the devices while a test did something to them."""

    async def live() -> None:
        try:
            await life(ward)
        finally:
            await ward.health.stop()

    asyncio.run(live())
    return ward.happened


@pytest.mark.parametrize(
    "ends",
    [
        [("a", LOST), ("a", LOST)],
        [("a", LOST), ("b", LOST)],
        [("a", WorkerStartError("it died at once"))],
        [("a", DeviceOccupiedError("memory is taken"))],
        [("a", DEAD), ("b", DEAD)],
        [("a", None), ("a", DEAD), ("a", DEAD), ("b", DEAD)],
    ],
)
def test_a_device_that_fails_in_a_row_is_set_aside(ends: list[tuple[str, InvsrError | None]]) -> None:
    async def life(ward: Ward) -> None:
        assert ward.suffer(*ends) == ["cuda:0"]

    lived(life, Ward())


@pytest.mark.parametrize(
    "ends",
    [
        [("a", LOST)],
        [("a", LOST), ("b", None), ("c", LOST)],
        [("a", DEAD), ("a", DEAD), ("a", DEAD)],
        [("a", DEAD), ("b", None), ("c", DEAD)],
        [("a", InputError("damaged")), ("b", InputError("damaged")), ("c", InputError("damaged"))],
    ],
)
def test_one_with_a_success_between_or_a_single_deadly_task_is_not(
    ends: list[tuple[str, InvsrError | None]],
) -> None:
    async def life(ward: Ward) -> None:
        assert ward.suffer(*ends) == []

    assert lived(life, Ward()) == []


def test_it_is_probed_until_it_is_well() -> None:
    async def life(ward: Ward) -> None:
        ward.sick["cuda:0"] = "it multiplies matrices wrongly"
        ward.suffer(("a", LOST), ("a", LOST))
        await asyncio.sleep(0.02)
        assert ward.health.problems == {"cuda:0": "it multiplies matrices wrongly"}
        ward.sick.clear()
        while ward.health.problems:
            await asyncio.sleep(0)

    happened = lived(life, Ward((0.0, 0.001)))
    assert happened[0] == "cuda:0 aside"
    assert happened.count("cuda:0 probed") > 2
    assert happened[-2:] == ["cuda:0 probed", "cuda:0 back"]


def test_waits_grow_until_a_task_succeeds() -> None:
    async def life(ward: Ward) -> None:
        for _ in range(2):  # the first probe comes at once, the second does not
            ward.suffer(("a", LOST), ("a", LOST))
            await asyncio.sleep(0.01)
        assert list(ward.health.problems) == ["cuda:0"]

    async def life_with_success(ward: Ward) -> None:
        for _ in range(2):
            ward.suffer(("a", None), ("a", LOST), ("a", LOST))
            await asyncio.sleep(0.01)
        assert not ward.health.problems

    assert lived(life, Ward((0.0, 3600.0))).count("cuda:0 probed") == 1
    assert lived(life_with_success, Ward((0.0, 3600.0))).count("cuda:0 probed") == 2


def test_one_that_is_tried_and_found_sick_is_set_aside() -> None:
    async def life(ward: Ward) -> None:
        ward.sick["cuda:1"] = "it convolves wrongly"
        assert await ward.health.check("cuda:0")
        assert not await ward.health.check("cuda:1")
        assert ward.health.problems == {"cuda:1": "it convolves wrongly"}
        assert not await ward.health.check("cuda:1"), "it is not tried again before its time"

    assert lived(life, Ward((3600.0,))).count("cuda:1 probed") == 1
