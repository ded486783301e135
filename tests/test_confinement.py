"""What processes give up before they read strangers' files, tried by processes that misbehave on purpose."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from invsr_daemon.confinement import (
    OOM_SCORE,
    SWITCH,
    Allowed,
    Limits,
    confine,
    confinement_problem,
    landlock_version,
    limit,
)
from invsr_daemon.errors import InputError
from invsr_daemon.files.publishing import PublishPolicy
from invsr_daemon.pool.child import Child
from invsr_daemon.pool.reach import Reach, allowed_to_workers
from invsr_daemon.settings.settings import Settings
from invsr_daemon.wire.plans import Job, Target
from invsr_daemon.wire.requests import Look, dump_request
from tests.support.misbehaving import attempts

pytestmark = pytest.mark.slow  # starts processes

REFUSED = "PermissionError"
CHECKOUT = Path(__file__).parents[1]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Folders as a daemon has them."""
    for name in ("inbox", "outbox", "state/work"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("state/jobs.sqlite", "inbox/a.png", "inbox/other.png", "outbox/old.png"):
        (tmp_path / name).write_bytes(b"something")
    return tmp_path


@pytest.fixture
def port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


class Misbehaving(Child):
    """A process that tries what it should not."""

    def __init__(self, kind: str, site: Path, port: int, allowed: Allowed | None) -> None:
        super().__init__("the misbehaving one", "tests.support.misbehaving", (kind,), None)
        self._site, self._port, self._allowed = site, port, allowed

    @property
    def environment(self) -> dict[str, str]:
        return {
            "MISBEHAVE_IN": str(self._site),
            "MISBEHAVE_AT": str(self._port),
            "MISBEHAVE_AGAINST": str(os.getpid()),
        }

    @property
    def allowed(self) -> Allowed | None:
        return self._allowed


def told(child: Child, line: str, source: Path) -> dict[str, str]:
    """What came of its attempts."""

    async def ask() -> str:
        with source.open("rb") as file:
            try:
                await child.ask(line, lambda frames: None, file.fileno())
            except InputError as error:
                return str(error)
            finally:
                await child.stop()
        raise AssertionError("it told nothing")

    outcomes: dict[str, str] = json.loads(asyncio.run(ask()))
    return outcomes


def test_unconfined_all_of_it_can_be_done(site: Path, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """So the attempts are real ones."""
    monkeypatch.setenv("MISBEHAVE_AGAINST", str(os.getpid()))
    outcomes = attempts(site, port)
    assert set(outcomes.values()) <= {"done", "OSError"}, outcomes
    assert outcomes["read the store"] == outcomes["connect"] == outcomes["run a program"] == "done"
    Path("/tmp/misbehaving").unlink()


def test_a_media_process_reaches_its_source_only(site: Path, port: int) -> None:
    settings = Settings(state_dir=site / "state")
    target, model = Target(site / "outbox", "a"), settings.model_settings(Path("/model"))
    job = Job(site / "inbox/a.png", target, settings, model, "name", PublishPolicy())
    child = Misbehaving("media", site, port, None)
    outcomes = told(child, dump_request(Look(job)), job.source)
    assert landlock_version() >= 6, "this machine's kernel proves less"
    assert set(outcomes.values()) == {REFUSED}, outcomes


def test_a_worker_reaches_its_model_and_its_work_only(site: Path, port: int) -> None:
    allowed = allowed_to_workers([CHECKOUT], Reach(site / "state/work"))
    child = Misbehaving("worker", site, port, allowed)
    outcomes = told(child, "anything\n", site / "inbox/a.png")
    assert set(outcomes.values()) == {REFUSED}, outcomes


def in_a_process(work: Callable[[], None]) -> int:
    """Do something in a fork; its exit code, or minus a signal."""
    process = os.fork()
    if process == 0:
        try:
            work()
        except MemoryError:
            os._exit(3)
        except OSError as error:
            os._exit(error.errno or 1)
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def test_what_is_allowed_can_be_done(site: Path) -> None:
    def work() -> None:
        with (site / "outbox/old.png").open("r+b") as mine:
            confine(Allowed(reads=(site / "inbox",), changes=(site / "state/work",), files=(mine.fileno(),)))
            assert (site / "inbox/a.png").read_bytes() == b"something"
            (site / "state/work/piece").write_bytes(b"piece")
            (site / "state/work/piece").rename(site / "state/work/whole")
            Path(f"/proc/self/fd/{mine.fileno()}").write_bytes(b"mine")
            assert (site / "outbox/old.png").read_bytes() == b"mine"
            import wave  # noqa: F401

    assert in_a_process(work) == 0
    assert (site / "state/work/whole").read_bytes() == b"piece"


def test_links_in_a_models_folder_may_be_followed(site: Path) -> None:
    (site / "model").mkdir()
    (site / "model/weights").symlink_to(site / "outbox/old.png")

    def work() -> None:
        confine(allowed_to_workers([site / "model"], Reach(site / "state/work")))
        assert (site / "model/weights").read_bytes() == b"something"

    assert in_a_process(work) == 0


def test_it_can_be_switched_off_and_that_is_told(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert confinement_problem() is None
    monkeypatch.setenv(SWITCH, "1")

    def work() -> None:
        confine(Allowed())
        assert (site / "outbox/old.png").read_bytes() == b"something"

    assert in_a_process(work) == 0
    assert SWITCH in (confinement_problem() or "")


def test_limits_hold(tmp_path: Path) -> None:
    limits = Limits(memory=2**30, file_size=1000, cpu_seconds=100, open_files=32)

    def take_memory() -> None:
        limit(limits)
        bytearray(2**32)  # what the process gives back meanwhile is far less

    def write_much() -> None:
        limit(limits)
        (tmp_path / "much").write_bytes(bytes(2000))

    def crash() -> None:
        limit(limits)
        assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)
        assert resource.getrlimit(resource.RLIMIT_CPU) == (100, 100)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (32, 32)

    assert in_a_process(take_memory) == 3
    assert in_a_process(write_much) == 27, "EFBIG"
    assert in_a_process(crash) == 0


def test_a_process_that_serves_is_killed_before_others_when_memory_ends() -> None:
    child = Child("the teller", "tests.support.telling", (), None)

    async def look() -> int:
        try:
            await child.ask("one\n", lambda frames: None)
            return int(Path(f"/proc/{child.pid}/oom_score_adj").read_text())
        finally:
            await child.stop()

    assert asyncio.run(look()) == OOM_SCORE
