"""What every pool must do for jobs: one test for all makes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from pathlib import Path

import pytest

from invsr_daemon.errors import NoDeviceError
from invsr_daemon.pool.local import LocalPool
from invsr_daemon.pool.protocol import Pool
from invsr_daemon.pool.reach import Reach
from invsr_daemon.wire.plans import Priority
from tests.support.memory_pool import MemoryPool

MakePool = Callable[..., Pool]

# A local pool starts a worker's process with the first task, so leases alone start none.
POOLS: dict[str, MakePool] = {
    "local": lambda *devices: LocalPool(devices, 1, Reach(Path("/nowhere"))),
    "memory": MemoryPool,
}
every_pool = pytest.mark.parametrize("make", POOLS.values(), ids=POOLS)


async def turns(count: int = 5) -> None:
    """Let other tasks go on."""
    for _ in range(count):
        await asyncio.sleep(0)


async def served(pool: Pool, order: list[str], name: str, priority: Priority) -> None:
    async with pool.lease(priority):
        order.append(name)
        await turns()


@every_pool
def test_it_has_the_workers_it_was_made_with(make: MakePool) -> None:
    async def look() -> None:
        pool = make("cpu", "cuda:1")
        assert (pool.size, pool.busy) == (2, 0)
        async with pool.lease() as one, pool.lease() as other:
            assert sorted((one.device, other.device)) == ["cpu", "cuda:1"]
            assert pool.busy == 2
        assert pool.busy == 0

    asyncio.run(look())


@every_pool
def test_lower_priorities_come_first_then_who_asked_first(make: MakePool) -> None:
    async def line_up() -> list[str]:
        pool, order = make("cpu"), list[str]()
        async with asyncio.TaskGroup() as group, pool.lease():
            for name, priority in (("late", (2,)), ("first", (1,)), ("second", (1,)), ("urgent", (-1,))):
                group.create_task(served(pool, order, name, priority))
            await turns()
        return order

    assert asyncio.run(line_up()) == ["urgent", "first", "second", "late"]


@every_pool
def test_another_worker_is_found_if_there_is_one(make: MakePool) -> None:
    async def avoid(pool: Pool) -> str:
        async with pool.lease(avoid={"cuda:0"}) as found:
            return found.device

    async def both() -> tuple[str, str]:
        return await avoid(make("cuda:0", "cuda:0", "cuda:1")), await avoid(make("cuda:0", "cuda:0"))

    assert asyncio.run(both()) == ("cuda:1", "cuda:0")


@every_pool
def test_who_is_cut_off_holds_nobody_up(make: MakePool) -> None:
    async def cut_off() -> list[str]:
        pool, order = make("cpu"), list[str]()
        async with asyncio.TaskGroup() as group:
            async with pool.lease():
                gone = group.create_task(served(pool, order, "gone", (0,)))
                group.create_task(served(pool, order, "patient", (1,)))
                await turns()
                gone.cancel()
            await turns()
        return order

    assert asyncio.run(cut_off()) == ["patient"]


@every_pool
def test_one_cut_off_in_the_moment_of_its_turn_gives_the_worker_back(make: MakePool) -> None:
    async def cut_off() -> None:
        pool, order = make("cpu"), list[str]()
        holding = pool.lease()
        await holding.__aenter__()
        waiting = asyncio.create_task(served(pool, order, "gone", ()))
        await turns()
        await holding.__aexit__(None, None, None)  # hands over
        waiting.cancel()
        await turns()
        async with asyncio.timeout(1), pool.lease():
            assert order == []

    asyncio.run(cut_off())


@every_pool
def test_an_error_gives_the_worker_back(make: MakePool) -> None:
    async def fail() -> None:
        pool = make("cpu")
        with pytest.raises(RuntimeError):
            async with pool.lease():
                raise RuntimeError("midway")
        assert pool.busy == 0

    asyncio.run(fail())


@every_pool
def test_paused_it_leases_nothing_until_it_goes_on(make: MakePool) -> None:
    async def pause() -> None:
        pool, order = make("cpu"), list[str]()
        pool.pause()
        waiting = asyncio.create_task(served(pool, order, "patient", ()))
        await turns()
        assert order == []
        pool.resume()
        await waiting
        assert order == ["patient"]

    asyncio.run(pause())


# Workers that come and go: local ones do not, others will


def test_a_worker_that_comes_serves_who_waits() -> None:
    async def come() -> str:
        pool = MemoryPool()
        waiting = asyncio.create_task(device_of(pool))
        await turns()
        pool.add("cuda:7")
        return await waiting

    assert asyncio.run(come()) == "cuda:7"


def test_a_worker_that_goes_ends_its_lease_and_gets_no_other() -> None:
    async def go() -> None:
        pool = MemoryPool("cpu")
        async with pool.lease() as worker:
            pool.remove(worker)
            assert (pool.size, pool.busy) == (0, 0)
        waiting = asyncio.create_task(device_of(pool))
        await turns()
        assert not waiting.done()
        pool.add("cuda:0")
        assert await waiting == "cuda:0"

    asyncio.run(go())


def test_the_last_worker_left_is_taken_although_it_is_avoided() -> None:
    async def leave_one() -> str:
        pool = MemoryPool("cpu", "cuda:0")
        first, second = pool.workers
        async with pool.lease() as _:
            waiting = asyncio.create_task(device_of(pool, avoid={second.device}))
            await turns()
            assert not waiting.done()
            pool.remove(first)
            return await waiting

    assert asyncio.run(leave_one()) == "cuda:0"


def test_who_waits_is_refused_where_no_worker_will_come_and_served_by_the_next() -> None:
    async def refuse() -> str:
        pool = MemoryPool()
        waiting = asyncio.create_task(device_of(pool))
        await turns()
        pool.refuse()
        with pytest.raises(NoDeviceError):
            await waiting
        with pytest.raises(NoDeviceError):
            await device_of(pool)
        pool.add("cuda:0")
        return await device_of(pool)

    assert asyncio.run(refuse()) == "cuda:0"


async def device_of(pool: Pool, avoid: Collection[str] = ()) -> str:
    async with pool.lease(avoid=avoid) as worker:
        return worker.device
