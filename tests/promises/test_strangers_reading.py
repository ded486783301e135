"""Who may drop files cannot have the service's own pictures restored: names flip, what was opened stays."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.daemons import Site
from tests.support.two_users import SERVICE, SHARED, Exchange, as_service, stranger

pytestmark = pytest.mark.slow  # starts processes, or computes for long

# Longer by hand: INVSR_ATTACK_SECONDS=60.
SECONDS = float(os.environ.get("INVSR_ATTACK_SECONDS", "5"))
RED, BLUE = (200, 20, 20), (20, 20, 200)
NAMES = 4  # of files, and of folders, that flip


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
        self._names = [f"{number}.png" for number in range(NAMES)]
        self._folders = [f"sub{number}" for number in range(NAMES)]
        self._flips = [
            Exchange(site.inbox / name, site.inbox / f".{name}") for name in (*self._names, *self._folders)
        ]
        self._turned = False

    def begin(self) -> None:
        """Lay out links beside what they will be exchanged for."""
        for name in self._names:
            (self._inbox / f".{name}").symlink_to(self._private / "a.png")
        for name in self._folders:
            (self._inbox / f".{name}").symlink_to(self._private)
            (self._inbox / name).mkdir()

    def __call__(self) -> None:
        for name in (*self._names, *(f"{folder}/a.png" for folder in self._folders)):
            self._drop(self._inbox / name)
        ends = time.monotonic() + 2.5
        while time.monotonic() < ends:
            time.sleep(random.uniform(0.01, 0.06))  # between a look and the next one, and back
            self._turn()
        if self._turned:  # into the private folder nothing can be dropped
            self._turn()

    def _turn(self) -> None:
        for flip in self._flips:
            flip()
        self._turned = not self._turned

    def _drop(self, path: Path) -> None:
        hidden = self._inbox / ".new"
        hidden.write_bytes(self._red)
        hidden.replace(path)


def test_no_private_picture_is_ever_published(folder: Path) -> None:
    site = _site(folder)
    _picture(RED, folder / "red.png")
    attack = _Attack(site, (folder / "red.png").read_bytes())
    with site.daemon(*as_service()):
        site.drop(folder / "red.png", "warm.png")
        site.wait_for("warm.png", "done")
        with stranger(attack, attack.begin):
            time.sleep(SECONDS)
    results = [path for path in site.outbox.rglob("*.png") if not path.name.startswith(".")]
    assert len(site.jobs()) > NAMES, "the service saw what was dropped"
    assert not [path for path in results if _is_blue(path)]
