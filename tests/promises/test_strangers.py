"""Whoever may drop a file may do no more: the real daemon against another user of its group.

He exchanges names under the service's hands, as fast as he can, for INVSR_STRANGERS_SECONDS in each test.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest

from tests.support.command import wait_until
from tests.support.daemons import contents, film, picture, stop
from tests.support.strangers import (
    AS_SERVICE,
    SERVICE,
    SHARED,
    Exchange,
    SharedSite,
    drop,
    relink,
    seconds_of,
    shared_site,
    stranger,
    tools_are_missing,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(tools_are_missing(), reason="another user needs root and setpriv; faults need strace"),
]

SECONDS = float(os.environ.get("INVSR_STRANGERS_SECONDS", "5"))
SECRET = b"nobody else's"
JUNK = b"no film"


@pytest.fixture
def pixels(tmp_path: Path) -> bytes:
    return picture(tmp_path / "a.png").read_bytes()


def attacked(
    site: SharedSite, pixels: bytes, attack: Callable[[], None], success: Callable[[], bool], *prefix: str
) -> bool:
    """Whether an attack on the running daemon had success in its time. Afterwards the daemon still works."""
    with site.daemon(*prefix, *AS_SERVICE) as process:
        drop(pixels, site.inbox / "first.png")
        site.wait_for("first.png", "done")  # the processes that jobs need run by now
        with stranger(attack):
            succeeded = _comes_true(success)
        if not succeeded:
            drop(JUNK, site.inbox / "last.mp4")
            site.wait_for("last.mp4", "failed")
            assert stop(process) == 0
    return succeeded


def _comes_true(success: Callable[[], bool]) -> bool:
    end = time.monotonic() + SECONDS
    while not success() and time.monotonic() < end:
        time.sleep(0.05)
    return success()


def hidden_name(place: Path) -> str:
    """How the hidden file of a note at a place is called: everybody can work it out."""
    return f".{place.stem[:48]}.{hashlib.sha256(os.fsencode(place)).hexdigest()[:16]}.part"


def test_a_failures_note_overwrites_no_other_file(pixels: bytes) -> None:
    with shared_site() as site:
        victim = site.keep("victim", SECRET)

        def attack() -> None:
            for number in count():
                note = site.inbox / f"junk\x1b-{number}.mp4.error.txt"
                hidden = note.with_name(hidden_name(note))
                drop(JUNK, note.with_name(note.name.removesuffix(".error.txt")))
                for _ in seconds_of(1.0):
                    with suppress(FileExistsError):
                        os.symlink(victim, hidden)
                    if os.path.lexists(note):
                        break

        assert not attacked(site, pixels, attack, lambda: victim.read_bytes() != SECRET)
        assert (victim.stat().st_mode & 0o777, victim.stat().st_uid) == (0o600, SERVICE)


def test_a_result_overwrites_no_other_file_and_is_no_link(pixels: bytes) -> None:
    with shared_site(results={"mode": "0640"}) as site:
        victim = site.keep("victim", SECRET)

        def attack() -> None:
            for number in count():
                seen: list[str] = []
                drop(pixels, site.inbox / f"{number}.png")
                for _ in seconds_of(3.0):
                    seen = seen or [name for name in os.listdir(site.outbox) if name.endswith(".part")]
                    if seen:
                        relink(site.outbox / seen[0], victim)
                    if os.path.lexists(site.outbox / f"{number}.png"):
                        break

        def success() -> bool:
            return victim.read_bytes() != SECRET or victim.stat().st_mode & 0o777 != 0o600

        assert not attacked(site, pixels, attack, success)
        results = [path.lstat() for path in site.outbox.glob("*.png")]
        assert all(stat.S_ISREG(each.st_mode) and each.st_uid == SERVICE for each in results)


AT_ONCE = 6  # folders that are attacked together
DEEP = "/".join(["deep" * 10] * 40)  # the longer a path, the longer between its first name and the next call


def exchanging_folders(
    site: SharedSite, name: str, content: bytes, is_time: Callable[[Path], bool]
) -> Callable[[], None]:
    """Drops files into folders; exchanges each folder for a link, many times, when it is time."""

    def attack() -> None:
        for first in count(0, AT_ONCE):
            folders = [_dropped_in(site, f"sub-{first + number}", name, content) for number in range(AT_ONCE)]
            for _ in seconds_of(5.0):
                for folder in [each for each in folders if is_time(each / name)]:
                    folders.remove(folder)
                    _exchange_while_there(folder, name)
                if not folders:
                    break

    return attack


def _exchange_while_there(folder: Path, name: str) -> None:
    """Exchange a folder for its link until its file is gone, or for a while."""
    file = os.open(folder / name, os.O_RDONLY)
    exchange = Exchange(folder, folder.with_name(f".{folder.name}"))
    for _ in seconds_of(0.4):
        for _ in range(20):
            exchange()
        if not os.fstat(file).st_nlink:
            break
    os.close(file)


def _dropped_in(site: SharedSite, folder: str, name: str, content: bytes) -> Path:
    """A new folder of the inbox with a file, and a hidden link to exchange it for."""
    path = site.inbox / folder
    (path / name).parent.mkdir(parents=True)
    path.with_name(f".{folder}").symlink_to(site.secret)
    drop(content, path / name)
    os.utime(path / name, (0, time.time()))  # reading it will show
    return path


@pytest.mark.parametrize("after", ["archive", "delete"])
def test_originals_go_from_their_folder_only(pixels: bytes, after: str) -> None:
    with shared_site() as site:
        archive = site.path / "archive"
        site.configure(originals={"after": after, "archive": str(archive)})
        victim = site.keep(f"{DEEP}/a.png", SECRET)

        def has_its_result(file: Path) -> bool:
            return os.path.lexists(site.outbox / file.relative_to(site.inbox))

        def success() -> bool:
            return not victim.exists() or SECRET in contents(archive).values()

        attack = exchanging_folders(site, f"{DEEP}/a.png", pixels, has_its_result)
        assert not attacked(site, pixels, attack, success)


def test_failures_are_moved_from_their_folder_only(pixels: bytes) -> None:
    with shared_site() as site:
        failed = site.path / "failed"
        site.configure(failures={"move_to": str(failed)})
        victim = site.keep("a.mp4", SECRET)

        def was_read(file: Path) -> bool:
            with suppress(FileNotFoundError):
                return file.lstat().st_atime > 0
            return False

        def success() -> bool:
            return not victim.exists() or SECRET in contents(failed).values()

        attack = exchanging_folders(site, "a.mp4", JUNK, was_read)
        assert not attacked(site, pixels, attack, success)


def test_a_linked_folder_of_the_outbox_is_not_followed(pixels: bytes) -> None:
    with shared_site() as site:
        sub, link = site.outbox / "sub", site.outbox / ".link"

        def attack() -> None:
            (site.inbox / "sub").mkdir()
            (site.inbox / "sub").chmod(SHARED)
            sub.mkdir()
            sub.chmod(SHARED)
            link.symlink_to(site.secret)
            exchange = Exchange(sub, link)
            exchange()
            for number in count():
                drop(pixels, site.inbox / "sub" / f"{number}.png")
                if number == 0:
                    time.sleep(1.5)  # to follow a link that stays is a mistake, too
                for _ in seconds_of(1.0):
                    exchange()

        assert not attacked(site, pixels, attack, lambda: bool(os.listdir(site.secret)))


def test_a_link_in_the_outbox_is_told(pixels: bytes) -> None:
    with shared_site(failures={"attempts": 1}) as site:
        (site.outbox / "sub").symlink_to(site.secret)
        (site.inbox / "sub").mkdir()
        with site.daemon(*AS_SERVICE) as process:
            drop(pixels, site.inbox / "sub" / "a.png")
            row = site.wait_for("sub/a.png", "failed", "done")
            assert stop(process) == 0
        assert "sub is a symbolic link, which is not followed" in (row.reason or "")
        assert os.listdir(site.secret) == []


def injecting(*faults: str) -> tuple[str, ...]:
    """A prefix of the daemon's command: system calls that fail, as file systems have it that lack them."""
    injected = [word for fault in faults for word in ("-e", f"inject={fault}")]
    traced = ",".join(fault.partition(":")[0] for fault in faults)
    return (
        "strace",
        "-D",
        "-f",
        "--seccomp-bpf",
        "-qq",
        "-o",
        "/dev/null",
        "-e",
        f"trace={traced}",
        *injected,
    )


WITHOUT_LINKS = "link,linkat:error=EPERM"


@pytest.mark.parametrize("faults", [(WITHOUT_LINKS,), (WITHOUT_LINKS, "renameat2:error=EINVAL")])
def test_without_hard_links_nothing_is_replaced_unasked(pixels: bytes, faults: tuple[str, ...]) -> None:
    with shared_site() as site:
        replaced = site.inbox / ".replaced"

        def attack() -> None:
            for number in count():
                drop(JUNK, site.inbox / f"{number}.mp4")
                note = site.inbox / f"{number}.mp4.error.txt"
                for _ in seconds_of(2.0):
                    if not _written_and_kept(note):
                        replaced.touch()
                    if _is_foreign(note):
                        break

        assert not attacked(site, pixels, attack, replaced.exists, *injecting(*faults))


def _written_and_kept(path: Path) -> bool:
    """Write a file of that name, if it is free, and take it back: whether it was still the same."""
    try:
        mine = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    except FileExistsError:
        return True
    taken_back = path.with_name(".taken-back")
    os.rename(path, taken_back)
    kept = os.path.samestat(os.fstat(mine), os.stat(taken_back))
    os.close(mine)
    return kept


def _is_foreign(path: Path) -> bool:
    with suppress(FileNotFoundError):
        return path.lstat().st_size > 0
    return False


def test_of_anothers_file_half_is_not_taken_for_the_whole(tmp_path: Path, pixels: bytes) -> None:
    """The service gets no lease on it: events tell that its writer, who pauses, has not closed it yet."""
    whole = film(tmp_path / "whole.mkv").read_bytes()
    half = len(whole) // 2
    with shared_site() as site, site.daemon(*AS_SERVICE) as process:
        with (site.inbox / "film.mkv").open("wb", buffering=0) as file:
            file.write(whole[:half])
            wait_until(lambda: "film.mkv waits: someone is writing to it" in site.log, "it is told")
            drop(pixels, site.inbox / "first.png")
            site.wait_for("first.png", "done")
            assert site.jobs_of("film.mkv") == []
            file.write(whole[half:])
        assert site.wait_for("film.mkv", "done").frames == 40
        assert stop(process) == 0
