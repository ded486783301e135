"""Which file is which: a new file is never taken for an older one, nor an unchanged one for a new one."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from invsr_daemon.files.identities import born_ns, identity_in
from invsr_daemon.records import Identity
from tests.support.identities import identity_at, replace_alike


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "film.mp4"
    path.write_bytes(b"one film")
    return path


def test_it_is_what_the_file_system_says(file: Path) -> None:
    found = file.stat()
    identity = identity_at(file)
    assert replace(identity, born_ns=None) == Identity(found.st_ino, 8, found.st_mtime_ns)
    folder = os.open(file.parent, os.O_PATH)
    try:
        assert identity_in(folder, file.name, found) == identity
        assert born_ns(folder, "nothing") is None
    finally:
        os.close(folder)


def test_another_file_of_the_same_inode_size_and_time_is_another_one(file: Path) -> None:
    before = identity_at(file)
    replace_alike(file, b"two film")
    after = identity_at(file)
    assert replace(after, born_ns=None) == replace(before, born_ns=None)
    assert after != before
    assert not after.matches(before)


@pytest.mark.parametrize(
    "change",
    [
        lambda file: file.chmod(0o600),
        lambda file: file.with_name("link").hardlink_to(file),
        lambda file: file.rename(file.with_name("moved")).rename(file),
        lambda file: os.setxattr(file, "user.mark", b"seen"),
    ],
    ids=["chmod", "link", "rename", "attribute"],
)
def test_what_leaves_the_content_alone_leaves_the_identity(
    file: Path, change: Callable[[Path], object]
) -> None:
    before, changed = identity_at(file), file.stat().st_ctime_ns
    while file.stat().st_ctime_ns == changed:
        change(file)
        file.with_name("link").unlink(missing_ok=True)
    assert identity_at(file) == before


@pytest.mark.parametrize("born", [None, 0, 5, -5])
def test_it_is_read_as_it_was_written(born: int | None) -> None:
    identity = Identity(1, 2, -3, born)
    assert Identity.parse(str(identity)) == identity


def test_a_birth_that_one_of_both_does_not_know_is_no_difference() -> None:
    known, other, unknown = Identity(1, 2, 3, 4), Identity(1, 2, 3, 5), Identity(1, 2, 3)
    assert known.matches(unknown)
    assert unknown.matches(known)
    assert not known.matches(other)
    assert not replace(known, size=9).matches(unknown)
