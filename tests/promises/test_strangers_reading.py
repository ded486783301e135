"""Who may drop files cannot have the service's own pictures restored: names flip, what was opened stays."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.daemons import Site
from tests.support.strangers import SERVICE, SHARED, Exchange, as_service, stranger

pytestmark = pytest.mark.slow  # starts processes, or computes for long

# Longer by hand: INVSR_ATTACK_SECONDS=60.
SECONDS = float(os.environ.get("INVSR_ATTACK_SECONDS", "5"))
RED, BLUE = (200, 20, 20), (20, 20, 200)
FLIPS = 2000  # between two new files


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that every user may pass, unlike pytest's own."""
    path = Path(tempfile.mkdtemp(prefix="strangers-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def _site(folder: Path) -> Site:
    """Inbox and outbox belong to the service and the shared group; a private picture to the service alone."""
    site = Site.make(folder / "site", settle_seconds=0, watch={"rescan_seconds": 0.2})
    site.outbox.mkdir()
    (site.path / "state").mkdir()
    private = site.path / "private"
    private.mkdir()
    _picture(BLUE, private / "a.png")
    for path in (site.path, site.config, private, private / "a.png", site.path / "state"):
        os.chown(path, SERVICE, SERVICE)
    for path in (site.inbox, site.outbox):
        os.chown(path, SERVICE, SHARED)
        path.chmod(0o2770)
    site.path.chmod(0o755)
    private.chmod(0o700)
    (private / "a.png").chmod(0o600)
    return site


def _picture(colour: tuple[int, int, int], path: Path) -> None:
    Image.fromarray(np.full((12, 16, 3), colour, np.uint8)).save(path)


def _is_blue(path: Path) -> bool:
    with Image.open(path) as image:
        red, _, blue = np.asarray(image.convert("RGB")).reshape(-1, 3).mean(0)
    return bool(blue > red)


class _Attack:
    """Drops red pictures, again and again, whose name or folder leads to the private one half of the time."""

    def __init__(self, site: Site, red: bytes) -> None:
        self._inbox = site.inbox
        self._red = red
        self._private = site.path / "private"
        self._flip_file = Exchange(site.inbox / "a.png", site.inbox / ".a")
        self._flip_folder = Exchange(site.inbox / "sub", site.inbox / ".sub")
        self._round = 0

    def prepare(self) -> None:
        (self._inbox / ".a").symlink_to(self._private / "a.png")
        (self._inbox / ".sub").symlink_to(self._private)
        (self._inbox / "sub").mkdir()
        self._drop(self._inbox / "a.png")
        self._drop(self._inbox / "sub/a.png")

    def __call__(self) -> None:
        for _ in range(FLIPS):
            self._flip_file()
            self._flip_folder()
        self._flip_until_files()
        time.sleep(0.1)  # they are found while nothing moves
        self._round += 1
        if self._round % 10 == 0:
            self._drop(self._inbox / "a.png")
            self._drop(self._inbox / "sub/a.png")

    def _flip_until_files(self) -> None:
        if (self._inbox / "a.png").is_symlink():
            self._flip_file()
        if (self._inbox / "sub").is_symlink():
            self._flip_folder()

    def _drop(self, path: Path) -> None:
        hidden = path.with_name(".new")
        hidden.write_bytes(self._red)
        hidden.replace(path)


def test_no_private_picture_is_ever_published(folder: Path) -> None:
    site = _site(folder)
    _picture(RED, folder / "red.png")
    attack = _Attack(site, (folder / "red.png").read_bytes())
    with site.daemon(*as_service()):
        site.drop(folder / "red.png", "warm.png")
        site.wait_for("warm.png", "done")
        ready: list[None] = []

        def attacking() -> None:
            if not ready:
                attack.prepare()
                ready.append(None)
            attack()

        with stranger(attacking):
            time.sleep(SECONDS)
    results = [path for path in site.outbox.rglob("*.png") if not path.name.startswith(".")]
    assert site.jobs_of("a.png"), "the service saw what was dropped"
    assert not [path for path in results if _is_blue(path)]
