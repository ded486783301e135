"""Inputs are opened once; whoever may not read one is told apart from a file that is damaged."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from invsr_daemon.errors import UnreadableError
from invsr_daemon.files.inputs import opened

STRANGER = 54321


@contextmanager
def a_stranger() -> Iterator[None]:
    """Another user than root, for whom rights count."""
    if os.getuid() == 0:
        os.seteuid(STRANGER)
    try:
        yield
    finally:
        os.seteuid(os.getuid())


def test_one_that_this_user_may_not_read_is_another_matter(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"a picture")
    path.chmod(0)
    with a_stranger(), pytest.raises(UnreadableError, match="may not read it") as raised, opened(path):
        pass
    assert raised.value.retryable
