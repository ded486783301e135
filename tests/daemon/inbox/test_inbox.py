"""Every file that lies still in the inbox is told of once; nothing else ever is."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from watchdog.observers.inotify import InotifyObserver
from watchdog.utils import BaseThread

from invsr_daemon.daemon.inbox import inbox, observing
from invsr_daemon.daemon.inbox.arrivals import Arrival, InboxStatus, Watching
from invsr_daemon.daemon.inbox.inbox import Inbox
from invsr_daemon.daemon.inbox.settling import LONGEST_QUIET_SECONDS, Settling
from invsr_daemon.files.mounts import is_remote
from invsr_daemon.records import Identity
from invsr_daemon.settings.sections import DEFAULT_IGNORE
from tests.support.identities import identity_at

PATIENCE = 20.0
SETTLE = 0.2
NEVER = 3600.0


@dataclass
class Watched:
    """An inbox at work on an event loop in a thread of its own, and what it has told of."""

    root: Path
    inbox: Inbox
    arrivals: list[Arrival] = field(default_factory=list)

    def names(self) -> list[str]:
        return sorted(str(arrival.relative) for arrival in self.arrivals)

    def status(self) -> InboxStatus:
        return self.inbox.status

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, (
                f"waited in vain; told of: {self.names()[:20]}; {self.status()}"
            )
            time.sleep(0.01)

    def until_names(self, *names: str) -> None:
        self.until(lambda: self.names() == sorted(names))

    def until_scanned_again(self) -> None:
        """Until a scan has ended that began after now."""
        for _ in range(2):
            before = self.status().scanned
            self.until(lambda before=before: self.status().scanned != before)  # type: ignore[misc]

    def until_watching(self) -> None:
        self.until(lambda: self.status().scanned is not None)

    async def listen(self) -> None:
        async with self.inbox as entered:
            async for batch in entered.arrivals():
                self.arrivals += batch


def nothing(_: Arrival) -> bool:
    return False


@contextmanager
def watched(
    root: Path,
    *,
    settle: float = SETTLE,
    rescan: float = NEVER,
    polling: bool | None = False,
    ignore: tuple[str, ...] = DEFAULT_IGNORE,
    excluded: tuple[Path, ...] = (),
    known: Callable[[Arrival], bool] = nothing,
) -> Iterator[Watched]:
    watching = Watching(root, settle, rescan, polling, ignore, excluded)
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        probe = Watched(root, Inbox(watching, known))
        task = loop.create_task(probe.listen())
        thread = threading.Thread(target=lambda: loop.run_until_complete(asyncio.wait([task])))
        thread.start()
        try:
            yield probe
        finally:
            loop.call_soon_threadsafe(task.cancel)
            thread.join()
        if not task.cancelled():
            task.result()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "inbox"
    folder.mkdir()
    return folder


def put(path: Path, content: bytes = b"film") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def nested(folder: Path) -> list[str]:
    """A tree of files; their names relative to it."""
    names = [f"{a}/{b}/{c}.mp4" for a in "ab" for b in "cd" for c in "efg"] + ["top.mp4"]
    for name in names:
        put(folder / name)
    return names


# ---- what arrives


@pytest.mark.parametrize("polling", [False, True])
def test_what_is_there_at_the_start_settles_first(root: Path, polling: bool) -> None:
    names = nested(root)
    began = time.monotonic()
    with watched(root, settle=0.5, polling=polling) as probe:
        probe.until_names(*names)
    assert time.monotonic() - began >= 0.5


def test_an_arrival_says_what_it_is(root: Path) -> None:
    identity = identity_at(put(root / "a" / "x.mp4", b"12345"))
    with watched(root) as probe:
        probe.until_names("a/x.mp4")
    assert probe.arrivals == [Arrival(root / "a" / "x.mp4", Path("a/x.mp4"), identity)]


def test_events_alone_tell_of_a_file_renamed_into_the_folder(root: Path, tmp_path: Path) -> None:
    with watched(root) as probe:
        probe.until_watching()
        put(tmp_path / "x").rename(root / "x.mp4")
        probe.until_names("x.mp4")


def test_and_of_a_folder_renamed_into_it(root: Path, tmp_path: Path) -> None:
    names = nested(tmp_path / "tree")
    with watched(root) as probe:
        probe.until_watching()
        (tmp_path / "tree").rename(root / "tree")
        probe.until_names(*(f"tree/{name}" for name in names))


@pytest.mark.parametrize("polling", [False, True])
def test_a_nested_tree_copied_in(root: Path, tmp_path: Path, polling: bool) -> None:
    names = nested(tmp_path / "tree")
    with watched(root, rescan=0.5, polling=polling) as probe:
        probe.until_watching()
        shutil.copytree(tmp_path / "tree", root / "tree")
        probe.until_names(*(f"tree/{name}" for name in names))


def test_zero_bytes_and_strange_times_are_as_good_as_any(root: Path) -> None:
    put(root / "empty.mp4", b"")
    os.utime(put(root / "future.mp4"), (4e9, 4e9))
    os.utime(put(root / "past.mp4"), (0, 0))
    with watched(root) as probe:
        probe.until_names("empty.mp4", "future.mp4", "past.mp4")


def test_a_slow_writer_is_waited_for(root: Path) -> None:
    with watched(root, settle=0.8, rescan=0.3) as probe:
        with (root / "x.mp4").open("wb", buffering=0) as file:
            until = time.monotonic() + 1.8
            while time.monotonic() < until:
                file.write(b"x" * 1000)
                time.sleep(0.05)
            assert probe.arrivals == []
            size = file.tell()
        probe.until_names("x.mp4")
        assert probe.arrivals[0].identity.size == size


@pytest.mark.parametrize("polling", [False, True])
def test_a_writer_that_pauses_is_waited_for(
    root: Path, polling: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """However long it pauses; and once it is done the file need not lie still once more."""
    caplog.set_level("INFO")
    with watched(root, settle=SETTLE, rescan=0.3, polling=polling) as probe:
        with (root / "x.mp4").open("wb", buffering=0) as file:
            file.write(b"half")
            probe.until(lambda: probe.status().written == {"x.mp4"})
            put(root / "whole.mp4")
            probe.until_names("whole.mp4")
            file.write(b"the other half")
            probe.until_scanned_again()
            probe.until(lambda: probe.status().written == {"x.mp4"})
        probe.until_names("whole.mp4", "x.mp4")
        assert probe.arrivals[-1].identity.size == 18
        assert probe.status().written == set()
    assert caplog.text.count("x.mp4 waits: someone is writing to it") == 1


def test_who_only_reads_is_not_waited_for(root: Path) -> None:
    put(root / "x.mp4")
    with watched(root) as probe, (root / "x.mp4").open("rb"):
        probe.until_names("x.mp4")


def test_a_file_is_told_of_once(root: Path) -> None:
    put(root / "x.mp4")
    with watched(root, rescan=0.1) as probe:
        probe.until_names("x.mp4")
        probe.until_scanned_again()
        put(root / "y.mp4")
        probe.until_names("x.mp4", "y.mp4")


def test_and_again_if_it_is_replaced_or_written_to(root: Path, tmp_path: Path) -> None:
    with watched(root) as probe:
        put(root / "x.mp4", b"first")
        probe.until_names("x.mp4")
        put(tmp_path / "y", b"other").replace(root / "x.mp4")
        probe.until_names("x.mp4", "x.mp4")
        put(root / "x.mp4", b"longer than before")
        probe.until_names("x.mp4", "x.mp4", "x.mp4")
    assert [arrival.identity.size for arrival in probe.arrivals] == [5, 5, 18]


def test_a_file_that_goes_before_it_settles_is_none(root: Path) -> None:
    with watched(root, settle=0.5) as probe:
        put(root / "x.mp4")
        probe.until(lambda: probe.status().settling == 1)
        (root / "x.mp4").unlink()
        probe.until(lambda: probe.status().settling == 0)
    assert probe.arrivals == []


def test_what_is_known_is_not_told_of_after_a_restart(root: Path) -> None:
    names = nested(root)
    with watched(root) as probe:
        probe.until_names(*names)
    seen = {arrival.relative: arrival.identity for arrival in probe.arrivals}
    put(root / "new.mp4")
    put(root / "top.mp4", b"changed meanwhile")
    with watched(root, known=lambda arrival: seen.get(arrival.relative) == arrival.identity) as probe:
        probe.until_names("new.mp4", "top.mp4")


@pytest.mark.parametrize("polling", [False, True])
def test_ten_thousand_files_at_once(root: Path, tmp_path: Path, polling: bool) -> None:
    empty = put(tmp_path / "empty", b"")
    with watched(root, rescan=2.0, polling=polling) as probe:
        probe.until_watching()
        for number in range(10_000):
            os.link(empty, root / f"{number}.mp4")  # as many names and events; five times faster than files
        scanned = {probe.status().scanned}

        def complete() -> bool:
            scanned.add(probe.status().scanned)
            return len(probe.arrivals) >= 10_000

        probe.until(complete)
        assert len(scanned) <= 3, "one scan may have been under way; the next finds all"
        assert len(set(probe.names())) == len(probe.arrivals) == 10_000


def test_an_error_of_the_caller_reaches_the_caller(root: Path) -> None:
    def broken(_: Arrival) -> bool:
        raise LookupError("no such table")

    put(root / "x.mp4")
    with pytest.raises(LookupError, match="no such table"), watched(root, known=broken) as probe:  # noqa: PT012
        probe.until_watching()
        time.sleep(0.05)


def test_it_may_end_at_once(root: Path) -> None:
    nested(root)
    for pause in (0.0, 0.01, 0.05):
        with watched(root):
            time.sleep(pause)


def test_it_ends_properly_even_if_cancelled_twice(root: Path) -> None:
    async def main() -> None:
        listening = asyncio.create_task(Watched(root, Inbox(Watching(root, SETTLE, NEVER))).listen())
        await asyncio.sleep(0.3)
        listening.cancel()
        await asyncio.sleep(0)
        listening.cancel()
        await asyncio.wait([listening])
        assert watchdog_threads() == []

    asyncio.run(main())


# ---- what does not


def make_socket(path: Path) -> None:
    """A path may be too long for a socket: by way of its folder's descriptor it is short."""
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)


def test_only_regular_files_without_links(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path / "elsewhere" / "film.mp4")
    (root / "link.mp4").symlink_to(tmp_path / "elsewhere" / "film.mp4")
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "dangling.mp4").symlink_to("nowhere")
    os.mkfifo(root / "fifo.mp4")
    make_socket(root / "socket.mp4")
    put(root / "folder.mp4" / "inner.mp4")
    with watched(root, rescan=0.1) as probe:
        probe.until_names("folder.mp4/inner.mp4")
        (root / "late.mp4").symlink_to("nowhere")
        for _ in range(3):
            probe.until_scanned_again()
        put(root / "last.mp4")
        probe.until_names("folder.mp4/inner.mp4", "last.mp4")
    for name in ("link.mp4", "linked", "dangling.mp4", "fifo.mp4", "socket.mp4", "late.mp4"):
        assert caplog.text.count(f"'{name}' is skipped") == 1
    assert "it is a FIFO, not a regular file" in caplog.text


def test_a_folder_that_becomes_a_link_while_a_file_in_it_settles(root: Path, tmp_path: Path) -> None:
    put(root / "a" / "x.mp4")
    with watched(root, settle=0.5) as probe:
        probe.until(lambda: probe.status().settling == 1)
        (root / "a").rename(tmp_path / "a")
        (root / "a").symlink_to(tmp_path / "a")
        probe.until(lambda: probe.status().settling == 0)
    assert probe.arrivals == []


def test_ignored_names_of_files_and_folders(root: Path) -> None:
    ignored = [".hidden.mp4", ".stversions/x.mp4", "x.mp4.part", "x.partial", "x.tmp", "x.mp4.crdownload"]
    ignored += [".syncthing.x.mp4.tmp", "~x.mp4", "x.mp4.error.txt", "a/b/.c/d/e.mp4"]
    with watched(root, rescan=0.1) as probe:
        for name in ignored:
            put(root / name)
        put(root / "x.part").rename(root / "x.mp4")
        put(root / "a" / "b" / "y.mp4")
        probe.until_names("x.mp4", "a/b/y.mp4")
        probe.until_scanned_again()
        assert probe.status().settling == 0


def test_a_pattern_may_be_a_path(root: Path) -> None:
    put(root / "proxies" / "x.mp4")
    put(root / "a" / "proxies" / "x.mp4")
    with watched(root, ignore=("proxies/*",)) as probe:
        probe.until_names("a/proxies/x.mp4")
        assert probe.status().settling == 0


@pytest.mark.parametrize("polling", [False, True])
def test_an_outbox_inside_the_inbox(root: Path, polling: bool) -> None:
    outbox = root / "out"
    put(outbox / "old.mp4")
    spelled_otherwise = root / "a" / ".." / "out"
    with watched(root, rescan=0.2, polling=polling, excluded=(spelled_otherwise, root / "none")) as probe:
        put(root / "a" / "x.mp4")
        probe.until_names("a/x.mp4")
        put(outbox / "new.mp4")
        put(outbox / "deep" / "new.mp4")
        put(root / "y.mp4")
        probe.until_names("a/x.mp4", "y.mp4")
        probe.until_scanned_again()
        assert probe.status().settling == 0


@pytest.mark.parametrize("polling", [False, True])
def test_hostile_names(root: Path, polling: bool, caplog: pytest.LogCaptureFixture) -> None:
    names = ["a\nb.mp4", os.fsdecode(b"\xff\xfe.mp4"), "-rf.mp4", " ", "%s {} \\.mp4", "字" * 80, "*[x]?.mp4"]
    names += [f"{name}/{name}" for name in ("new\nline", os.fsdecode(b"\xe9"), "\u2028")]
    with watched(root, rescan=0.2, polling=polling) as probe:
        for name in names:
            put(root / name)
        (root / os.fsdecode(b"li\nk\xff")).symlink_to("nowhere")
        probe.until_names(*names)
        probe.until_scanned_again()
    assert all(arrival.path.read_bytes() == b"film" for arrival in probe.arrivals)
    assert r"'li\nk\udcff' is skipped" in caplog.text


def test_very_deep_folders(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    deep = root.joinpath(*"d" * 80)
    put(deep / "too-deep.mp4")
    put(root.joinpath(*"d" * 64) / "x.mp4")
    with watched(root, rescan=0.2) as probe:
        probe.until(lambda: len(probe.arrivals) == 1)
        put(deep / "too.mp4")
        probe.until_scanned_again()
        assert [arrival.path.name for arrival in probe.arrivals] == ["x.mp4"]
    assert caplog.text.count("folders deep") == 1


# ---- what goes wrong with the watching


def test_an_inbox_that_is_not_there_yet(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = tmp_path / "inbox"
    with watched(root, rescan=0.1) as probe:
        probe.until(lambda: probe.status().problem is not None)
        assert "No such file" in str(probe.status().problem)
        time.sleep(0.3)
        root.mkdir()
        put(root / "x.mp4")
        probe.until_names("x.mp4")
        assert probe.status().problem is None
    assert caplog.text.count("waiting for it") == 1


def test_an_inbox_renamed_and_made_again(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "CHECK_SECONDS", 0.1)
    with watched(root) as probe:
        probe.until_watching()
        before = probe.status().scanned
        root.rename(tmp_path / "old")
        root.mkdir()
        probe.until(lambda: probe.status().scanned != before)
        put(tmp_path / "old" / "not-here.mp4")
        put(root / "x.mp4")
        probe.until_names("x.mp4")
        assert probe.status().watching == "inotify"


def test_an_inbox_removed_while_files_settle(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "CHECK_SECONDS", 0.1)
    with watched(root, settle=0.5) as probe:
        put(root / "x.mp4")
        probe.until(lambda: probe.status().settling == 1)
        shutil.rmtree(root)
        probe.until(lambda: probe.status().problem is not None)
        root.mkdir()
        put(root / "y.mp4")
        probe.until_names("y.mp4")


def test_an_inbox_behind_a_link(root: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(root)
    with watched(link) as probe:
        probe.until_watching()
        put(root / "x.mp4")
        probe.until_names("x.mp4")
    assert probe.arrivals[0].path == link / "x.mp4"


# In a process of its own: watchdog 7.1 may leave a sleeping thread behind.
FOLDERS_COME_AND_GO = """
import asyncio, sys
from pathlib import Path
from invsr_daemon.daemon.inbox.arrivals import Watching
from invsr_daemon.daemon.inbox.inbox import Inbox

async def main(top):
    root = top / "inbox"
    async with Inbox(Watching(root, 0.1, 0.2, False)) as inbox:
        names = []
        async for batch in inbox.arrivals():
            names += [str(arrival.relative) for arrival in batch]
            if "first.mp4" in names and (root / "d").exists():
                (root / "d").rename(top / "away")
                await asyncio.sleep(0.8)  # until watchdog has given up waiting for where it went
                (root / "d").mkdir()
                await asyncio.sleep(0.2)
                (root / "d").rmdir()
                (root / "second.mp4").touch()
            if "second.mp4" in names:
                break
    print("ended")

asyncio.run(asyncio.wait_for(main(Path(sys.argv[1])), 20))
"""


@pytest.mark.slow
def test_a_folder_moved_away_and_made_anew_does_not_keep_it_from_ending(root: Path, tmp_path: Path) -> None:
    (root / "d").mkdir()
    put(root / "first.mp4")
    command = [sys.executable, "-c", FOLDERS_COME_AND_GO, str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=2 * PATIENCE, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "ended\n", "")


def watchdog_threads() -> list[BaseThread]:
    threads = [t for t in threading.enumerate() if isinstance(t, BaseThread)]
    return sorted(threads, key=lambda thread: type(thread).__name__)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_whichever_of_watchdogs_threads_ends_is_replaced(
    root: Path, number: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(inbox, "CHECK_SECONDS", 0.1)
    with watched(root) as probe:
        probe.until_watching()
        before = watchdog_threads()
        before[number].stop()
        probe.until(lambda: len(watchdog_threads()) == 3 and not set(before) & set(watchdog_threads()))
        probe.until(lambda: probe.status().watching == "inotify")
        put(root / "x.mp4")
        probe.until_names("x.mp4")
    assert "the observer of the inbox died" in caplog.text


@pytest.mark.parametrize(
    ("code", "sysctl"),
    [(errno.ENOSPC, "fs.inotify.max_user_watches"), (errno.EMFILE, "fs.inotify.max_user_instances")],
)
def test_without_inotify_it_polls_and_tries_again(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: int, sysctl: str
) -> None:
    freed = threading.Event()

    class Limited(InotifyObserver):
        def start(self) -> None:
            if not freed.is_set():
                raise OSError(code, os.strerror(code))
            super().start()

    monkeypatch.setattr(observing, "InotifyObserver", Limited)
    with watched(root, rescan=0.2) as probe:
        probe.until_watching()
        put(root / "x.mp4")
        probe.until_names("x.mp4")
        assert probe.status().watching == "polling"
        assert sysctl in str(probe.status().problem)
        freed.set()
        probe.until(lambda: probe.status().watching == "inotify")
        assert probe.status().problem is None
    assert caplog.text.count(f"raise the sysctl {sysctl}") == 1


def test_polling_needs_no_threads_of_watchdogs(root: Path) -> None:
    with watched(root, polling=True) as probe:
        probe.until_watching()
        assert probe.status().watching == "polling"
        assert watchdog_threads() == []


def test_automatic_means_by_the_kind_of_file_system(root: Path) -> None:
    remote = is_remote(root)
    with watched(root, polling=None) as probe:
        probe.until_watching()
        assert probe.status().watching == ("polling" if remote else "inotify")


# ---- settling

IDENTITIES = st.builds(Identity, st.integers(1, 2), st.integers(0, 2), st.sampled_from([-1, 0, 4 * 10**18]))
# A second at a time or so: a look that takes some, a pause, and what is seen (None: nothing).
LOOKS = st.lists(
    st.tuples(st.sampled_from([0, 1, 5]), st.sampled_from([0, 1, 3]), st.none() | IDENTITIES), max_size=40
)
QUIET = 4.0


def timed(looks: list[tuple[int, int, Identity | None]]) -> Iterator[tuple[float, float, Identity | None]]:
    now = 0.0
    for pause, duration, identity in looks:
        yield now + pause, now + pause + duration, identity
        now += pause + duration


def unknown(path: str, identity: Identity) -> bool:
    return False


def replay(settling: Settling, looks: list[tuple[int, int, Identity | None]]) -> list[bool]:
    """For each look whether the file was ready."""
    ready = []
    for began, ended, identity in timed(looks):
        if identity is None:
            settling.forget("x")
        ready.append(identity is not None and settling.observe("x", identity, began, ended))
    return ready


@given(LOOKS)
def test_ready_means_the_same_in_every_look_for_that_long(
    looks: list[tuple[int, int, Identity | None]],
) -> None:
    times = list(timed(looks))
    for number, ready in enumerate(replay(Settling(QUIET, unknown), looks)):
        began, _, identity = times[number]
        recent = [seen for _, ended, seen in times[: number + 1] if ended > began - QUIET]
        before = [seen for _, ended, seen in times[:number] if ended <= began - QUIET]
        if ready:
            assert set(recent) == {identity}
            assert before[-1] == identity


@given(LOOKS, IDENTITIES)
def test_what_stays_becomes_ready_exactly_once(
    looks: list[tuple[int, int, Identity | None]], last: Identity
) -> None:
    settling = Settling(QUIET, unknown)
    quiet: list[tuple[int, int, Identity | None]] = [(1, 0, last)] * 12
    ready = replay(settling, [*looks, (1, 0, None), *quiet])
    assert sum(ready[len(looks) + 1 :]) == 1
    assert settling.moving() == set()


@given(LOOKS)
def test_nothing_is_ready_twice_unless_it_changed_or_went(
    looks: list[tuple[int, int, Identity | None]],
) -> None:
    told: Identity | None = None
    for ready, (_, _, identity) in zip(replay(Settling(QUIET, unknown), looks), looks, strict=True):
        if ready:
            assert identity != told
        told = identity if ready or identity is None else told


@given(LOOKS, st.permutations([-1, 0, 4 * 10**18]))
def test_the_wall_clock_does_not_matter(
    looks: list[tuple[int, int, Identity | None]], times: list[int]
) -> None:
    """Only whether times of change are equal counts: not their order, nor how far they are from now."""
    others = dict(zip([-1, 0, 4 * 10**18], times, strict=True))
    moved = [
        (pause, duration, i and Identity(i.inode, i.size, others[i.mtime_ns])) for pause, duration, i in looks
    ]
    assert replay(Settling(QUIET, unknown), looks) == replay(Settling(QUIET, unknown), moved)


@given(LOOKS, st.frozensets(IDENTITIES))
def test_what_is_known_is_never_ready(
    looks: list[tuple[int, int, Identity | None]], known: frozenset[Identity]
) -> None:
    ready = replay(Settling(QUIET, lambda _, identity: identity in known), looks)
    assert not any(r and look[2] in known for r, look in zip(ready, looks, strict=True))


def test_what_is_held_is_ready_at_the_next_look_unless_it_changed() -> None:
    settling, identity, changed = Settling(QUIET, unknown), Identity(1, 1, 1), Identity(1, 2, 2)
    assert not settling.observe("x", identity, 0, 0)
    assert settling.observe("x", identity, QUIET, QUIET)
    settling.hold("x", identity)
    assert settling.moving() == {"x"}
    assert settling.observe("x", identity, QUIET, QUIET)
    settling.hold("x", identity)
    assert not settling.observe("x", changed, 2 * QUIET, 2 * QUIET)
    assert settling.observe("x", changed, 3 * QUIET, 3 * QUIET)


def observed(settling: Settling, identity: Identity, times: Iterable[float]) -> list[float]:
    """When a file that is looked at then was ready."""
    return [now for now in times if settling.observe("x", identity, now, now)]


def test_what_grows_after_it_was_ready_has_to_lie_still_for_longer_each_time() -> None:
    settling = Settling(QUIET, unknown)
    for size, quiet in ((1, QUIET), (2, 2 * QUIET), (5, 4 * QUIET), (6, 8 * QUIET)):
        assert observed(settling, Identity(1, size, size), range(100)) == [quiet]
    assert observed(settling, Identity(1, 6, 7), range(100)) == [QUIET], "it did not grow"
    assert observed(settling, Identity(1, 7, 8), range(100)) == [2 * QUIET]
    assert observed(settling, Identity(2, 8, 9), range(100)) == [QUIET], "it is another file"
    settling.forget("x")
    assert observed(settling, Identity(2, 9, 9), range(100)) == [QUIET]


def test_nothing_has_to_lie_still_for_ever() -> None:
    settling = Settling(QUIET, unknown)
    for size in range(2000):
        assert len(observed(settling, Identity(1, size, size), (0, LONGEST_QUIET_SECONDS))) == 1
    patient = Settling(2 * LONGEST_QUIET_SECONDS, unknown)
    for size in range(3):
        times = (0, LONGEST_QUIET_SECONDS, 2 * LONGEST_QUIET_SECONDS)
        assert observed(patient, Identity(1, size, size), times) == [times[-1]]


def test_what_is_added_to_again_and_again_is_told_of_seldom() -> None:
    """A file that grows each second, from when it has lain still for longer than that."""
    settling, told = Settling(0.4, unknown), []
    for tick in range(600):
        size = min(tick // 10, 50)
        if settling.observe("x", Identity(1, size, size), tick / 10, tick / 10):
            told.append(size)
    assert told == [0, 1, 50]


def test_what_is_gone_is_forgotten() -> None:
    settling = Settling(QUIET, unknown)
    identity = Identity(1, 1, 1)
    for name in "ab":
        settling.observe(name, identity, 0, 0)
    settling.forget_all_but({"b"})
    assert settling.moving() == {"b"}
    assert not settling.observe("a", identity, QUIET, QUIET), "as if seen for the first time"
    assert settling.observe("b", identity, QUIET, QUIET)
    settling.forget_all_but(set())
    assert settling.moving() == set()
