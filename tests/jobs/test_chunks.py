"""A plan's tasks on a pool in memory: order, deaths, workers that come and go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from invsr_daemon.errors import (
    DeviceLostError,
    DeviceUnfitError,
    InputError,
    Interrupted,
    InvsrError,
    NoDeviceError,
    WorkerLostError,
    WorkersLostError,
)
from invsr_daemon.jobs.chunks import Dispatcher
from invsr_daemon.records import Task
from invsr_daemon.wire.events import Progress
from invsr_daemon.wire.plans import Plan
from invsr_daemon.wire.tasks import Done
from tests.support.memory_pool import MemoryPool, MemoryWorker, Perform, write
from tests.support.plans import plan_of


@dataclass
class Watching:
    """An observer that counts."""

    frames: int = 0
    done: list[tuple[str, str]] = field(default_factory=list)

    def looked(self, plan: Plan) -> None: ...

    def planned(self, plan: Plan) -> None: ...

    def progress(self, plan: Plan, frames: int) -> None:
        self.frames += frames

    def finished(self, plan: Plan, task: Task, device: str, seconds: float) -> None:
        self.done.append((task.output.name, device))

    def ended(self, plan: Plan) -> None: ...


def run(plan: Plan, pool: MemoryPool, stopping: asyncio.Event | None = None) -> Watching:
    watching = Watching()

    async def restore() -> None:
        await Dispatcher(plan, pool, watching, stopping or asyncio.Event()).run(plan.tasks)

    asyncio.run(restore())
    return watching


def slowly(then: Perform = write) -> Perform:
    async def perform(worker: MemoryWorker, task: Task, progress: Progress) -> Done:
        for _ in range(10):
            await asyncio.sleep(0)
        return await then(worker, task, progress)

    return perform


KILLED = WorkerLostError("the worker was killed by SIGKILL")


def dying(when: Callable[[MemoryWorker], bool], error: InvsrError = KILLED) -> Perform:
    """Work of which some workers die, with frames told of; or that ends with another error there."""

    async def perform(worker: MemoryWorker, task: Task, progress: Progress) -> Done:
        progress(5)
        if when(worker):
            raise error
        progress(-4)
        task.output.touch()
        return Done(0.0)

    return perform


def test_tasks_are_begun_in_order(tmp_path: Path) -> None:
    pool = MemoryPool("cpu")
    watching = run(plan_of(tmp_path, 5), pool)
    assert [name for name, _ in watching.done] == [f"{number}.png" for number in range(5)]
    assert watching.frames == 5


def test_every_worker_gets_some(tmp_path: Path) -> None:
    pool = MemoryPool("cuda:0", "cuda:1", perform=slowly())
    run(plan_of(tmp_path, 6), pool)
    assert sorted(len(worker.given) for worker in pool.workers) in ([3, 3], [2, 4])


def test_a_task_whose_worker_died_is_done_by_another(tmp_path: Path) -> None:
    pool = MemoryPool("bad", "good", perform=dying(lambda worker: worker.device == "bad"))
    watching = run(plan_of(tmp_path, 3), pool)
    assert {device for _, device in watching.done} == {"good"}
    assert watching.frames == 3, "what the dead ones told of was taken back"


def test_so_many_deaths_are_the_films_fault(tmp_path: Path) -> None:
    pool = MemoryPool("one", "two", perform=dying(lambda _: True))
    with pytest.raises(WorkersLostError, match="2 processes died of it"):
        run(plan_of(tmp_path, 1, worker_deaths=2), pool)
    assert [len(worker.given) for worker in pool.workers] == [1, 1]


def test_deaths_on_a_device_that_proves_sick_are_not_the_films_fault(tmp_path: Path) -> None:
    def sicken(worker: MemoryWorker) -> bool:
        pool.sick.add("bad")
        return len(worker.given) <= 4

    pool = MemoryPool("bad", perform=dying(sicken))
    watching = run(plan_of(tmp_path, 1, worker_deaths=2), pool)
    assert watching.done == [("0.png", "bad")]
    assert len(pool.workers[0].given) == 5


def test_a_device_that_fails_is_left_for_another(tmp_path: Path) -> None:
    lost = DeviceLostError("cuda:0 fails: CUDA error: an illegal memory access was encountered")
    pool = MemoryPool("bad", "good", perform=dying(lambda worker: worker.device == "bad", lost))
    watching = run(plan_of(tmp_path, 4, worker_deaths=1), pool)
    assert {device for _, device in watching.done} == {"good"}
    assert watching.frames == 4, "what the sick one told of was taken back"


def test_a_device_that_lacks_the_precision_leaves_it_to_another(tmp_path: Path) -> None:
    unfit = DeviceUnfitError("cpu lacks the precision")
    pool = MemoryPool("cpu", "cuda:0", perform=dying(lambda worker: worker.device == "cpu", unfit))
    watching = run(plan_of(tmp_path, 4), pool)
    assert {device for _, device in watching.done} == {"cuda:0"}


def test_without_another_the_job_is_put_off(tmp_path: Path) -> None:
    unfit = DeviceUnfitError("cpu lacks the precision")
    pool = MemoryPool("cpu", "cpu", perform=dying(lambda _: True, unfit))
    with pytest.raises(DeviceUnfitError):
        run(plan_of(tmp_path, 1), pool)
    assert sum(len(worker.given) for worker in pool.workers) == 1, "the same device is not tried twice"


def test_so_many_faults_of_devices_put_the_job_off(tmp_path: Path) -> None:
    pool = MemoryPool("one", "two", perform=dying(lambda _: True, DeviceLostError("CUDA error")))
    with pytest.raises(DeviceLostError):
        run(plan_of(tmp_path, 1), pool)
    assert sum(len(worker.given) for worker in pool.workers) == 3


@pytest.mark.parametrize(("stopped", "expected"), [(False, NoDeviceError), (True, Interrupted)])
def test_a_job_ends_where_no_device_is_left(
    tmp_path: Path, stopped: bool, expected: type[InvsrError]
) -> None:
    async def refuse() -> None:
        pool, plan, stopping = MemoryPool(), plan_of(tmp_path, 3), asyncio.Event()
        running = asyncio.create_task(Dispatcher(plan, pool, Watching(), stopping).run(plan.tasks))
        await asyncio.sleep(0.01)
        if stopped:
            stopping.set()
        pool.refuse()
        async with asyncio.timeout(5):
            await running

    with pytest.raises(expected):
        asyncio.run(refuse())


def test_the_first_failure_stops_what_has_not_begun(tmp_path: Path) -> None:
    async def fail(worker: MemoryWorker, task: Task, progress: Progress) -> Done:
        raise InputError("damaged")

    pool = MemoryPool("cpu", perform=fail)
    with pytest.raises(InputError, match="damaged"):
        run(plan_of(tmp_path, 4), pool)
    assert len(pool.workers[0].given) == 1


def test_a_stop_lets_what_is_under_way_finish(tmp_path: Path) -> None:
    stopping = asyncio.Event()

    async def stop(worker: MemoryWorker, task: Task, progress: Progress) -> Done:
        stopping.set()
        return await write(worker, task, progress)

    plan = plan_of(tmp_path, 4)
    with pytest.raises(Interrupted):
        run(plan, MemoryPool("cpu", perform=stop), stopping)
    assert len(plan.waiting()) == 3


def test_workers_that_come_while_a_job_runs_take_part(tmp_path: Path) -> None:
    pool: MemoryPool

    async def call_others(worker: MemoryWorker, task: Task, progress: Progress) -> Done:
        if pool.size < 4:
            pool.add(f"cuda:{pool.size}")
        return await slowly()(worker, task, progress)

    pool = MemoryPool("cuda:0", perform=call_others)
    run(plan_of(tmp_path, 20), pool)
    assert [len(worker.given) > 2 for worker in pool.workers] == [True] * 4


def test_a_job_waits_for_the_first_worker_to_come(tmp_path: Path) -> None:
    async def come_late() -> None:
        pool, plan = MemoryPool(), plan_of(tmp_path, 3)
        dispatcher = Dispatcher(plan, pool, Watching(), asyncio.Event())
        running = asyncio.create_task(dispatcher.run(plan.tasks))
        await asyncio.sleep(0.01)
        assert not running.done()
        pool.add("cuda:0")
        await running
        assert not plan.waiting()

    asyncio.run(come_late())


def test_workers_that_go_leave_the_job_to_the_others(tmp_path: Path) -> None:
    pool: MemoryPool

    async def leave(worker: MemoryWorker, task: Task, progress: Progress) -> Done:
        if worker.device == "leaving" and worker in pool.workers:
            pool.remove(worker)
        return await slowly()(worker, task, progress)

    pool = MemoryPool("leaving", "staying", perform=leave)
    watching = run(plan_of(tmp_path, 5), pool)
    assert sorted(device for _, device in watching.done) == ["leaving", *["staying"] * 4]


def test_an_urgent_job_gets_all_workers_that_come_free(tmp_path: Path) -> None:
    """Two workers come free at once; the urgent job has two tasks waiting, and gets both."""
    order: list[str] = []

    async def note(worker: MemoryWorker, task: Task, progress: Progress) -> Done:
        order.append(task.output.parent.name)
        return await slowly()(worker, task, progress)

    async def both() -> None:
        pool = MemoryPool("one", "two", perform=note)
        pool.pause()
        async with asyncio.TaskGroup() as group:
            for name, priority in (("calm", (1,)), ("urgent", (0,))):
                (tmp_path / name).mkdir()
                plan = plan_of(tmp_path / name, 3)
                plan = replace(plan, job=replace(plan.job, priority=priority))
                group.create_task(Dispatcher(plan, pool, Watching(), asyncio.Event()).run(plan.tasks))
            for _ in range(20):
                await asyncio.sleep(0)
            pool.resume()

    asyncio.run(both())
    assert order == ["urgent"] * 3 + ["calm"] * 3
