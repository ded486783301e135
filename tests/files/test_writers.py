"""Whether someone has a file open for writing: asked of the real kernel."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from invsr_daemon.files.writers import has_writer, writers_kept_out

OTHER_USER = 54321
WRITING = """
import sys
with open(sys.argv[1], "ab"):
    print("open", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "film.mp4"
    path.write_bytes(b"half a film")
    return path


@contextmanager
def opened(path: Path, flags: int = os.O_RDONLY) -> Iterator[int]:
    descriptor = os.open(path, flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [(os.O_RDONLY, False), (os.O_WRONLY, True), (os.O_RDWR, True), (os.O_WRONLY | os.O_APPEND, True)],
)
def test_it_is_known_of_this_process(file: Path, flags: int, expected: bool) -> None:
    with opened(file) as descriptor:
        assert has_writer(descriptor) is False
        with opened(file, flags):
            assert has_writer(descriptor) is expected
        assert has_writer(descriptor) is False


@pytest.mark.slow
def test_it_is_known_of_another_process(file: Path) -> None:
    command = [sys.executable, "-c", WRITING, str(file)]
    with (
        opened(file) as descriptor,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process,
    ):
        assert process.stdout is not None
        assert process.stdin is not None
        process.stdout.readline()
        assert has_writer(descriptor) is True
        process.stdin.close()
        process.wait()
        assert has_writer(descriptor) is False


def test_who_would_write_waits_until_he_may_and_nobody_is_hurt(file: Path) -> None:
    """The kernel tells the holder of a lease by a signal that ends a process unless it asks for another."""
    order = []

    def append() -> None:
        with file.open("ab"):
            order.append("written")

    with opened(file) as descriptor, writers_kept_out(descriptor) as kept_out:
        assert kept_out is True
        writer = threading.Thread(target=append)
        writer.start()
        writer.join(timeout=0.3)
        order.append("let in")
    writer.join()
    assert order == ["let in", "written"]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")
def test_of_others_files_nothing_is_known(file: Path) -> None:
    with opened(file) as descriptor, opened(file, os.O_WRONLY):
        os.seteuid(OTHER_USER)
        try:
            assert has_writer(descriptor) is None
            with writers_kept_out(descriptor) as kept_out:
                assert kept_out is None
        finally:
            os.seteuid(0)


def test_of_what_is_only_a_name_nothing_is_known(file: Path) -> None:
    with opened(file, os.O_PATH) as descriptor:
        assert has_writer(descriptor) is None
