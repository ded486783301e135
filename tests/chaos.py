"""Kills the daemon and its workers at random moments, again and again, and sees what comes of it.

    python -m tests.chaos --kills 30 --seed 1

Files arrive all the while. In the end every file has exactly one end state, results are those of a run
that nothing disturbed, byte by byte, no chunk was computed again after it was recorded, and neither
outbox nor work folder holds litter.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from invsr_daemon.store import STORE_FILE, Store

from .daemons import Site, contents, film, kill, picture, stop

FILMS, PICTURES = 3, 12
BAD = {
    "empty.mp4": b"",
    "text.mkv": b"This is no film.\n" * 50,
    "noise.png": bytes(range(256)) * 8,
    "playlist.mp4": b"#EXTM3U\n#EXTINF:1,\nfilm-0.mp4\n",
    "cut.jpg": b"\xff\xd8\xff\xe0\x00\x10JFIF\x00",
}
# What is killed so often must not be given up for it.
SETTINGS = {"limits": {"worker_deaths": 100}, "failures": {"attempts": 100}}
DAEMON_SHARE = 0.7

Recorded = dict[tuple[int, int], float]


@dataclass
class Chaos:
    """One site and all that was seen of it."""

    site: Site
    chance: random.Random
    span: float
    daemons_killed: int = 0
    workers_killed: int = 0
    recorded: Recorded = field(default_factory=dict)

    def run(self, files: list[Path], kills: int) -> None:
        """Drop the files, a few between any two kills; then leave it in peace."""
        waiting = list(files)
        while self.daemons_killed + self.workers_killed < kills:
            with self.site.started() as process:
                while process.poll() is None and self.daemons_killed + self.workers_killed < kills:
                    for _ in range(1 + len(files) // kills):
                        if waiting:
                            self.site.drop(waiting.pop())
                    time.sleep(self.chance.uniform(0, self.span))  # the moment is what chance decides here
                    self._kill_something(process)
            self._look()
        for path in waiting:
            self.site.drop(path)
        with self.site.daemon() as process:
            self.site.wait_until_all_ended(len(files))
            assert stop(process) == 0
        self._look()

    def _kill_something(self, process: subprocess.Popen[bytes]) -> None:
        workers = sorted(self.site.workers())
        if workers and self.chance.random() > DAEMON_SHARE:
            os.kill(self.chance.choice(workers), signal.SIGKILL)
            self.workers_killed += 1
        else:
            kill(process)
            self.daemons_killed += 1

    def _look(self) -> None:
        """What was recorded as finished stays so: computed again it would have another time."""
        now = recorded(self.site)
        assert self.recorded.items() <= now.items(), "a chunk that was recorded was computed again"
        self.recorded = now


def recorded(site: Site) -> Recorded:
    """When each finished chunk was written down, by job and index."""
    path = site.state / STORE_FILE
    if not path.exists():
        return {}
    with Store.open(path) as store:
        rows = [row for job in store.jobs() for row in store.chunks(job.id)]
    return {(row.job, row.index): row.finished for row in rows if row.finished is not None}


def make_files(folder: Path) -> list[Path]:
    """Films, pictures and files that are neither."""
    folder.mkdir()
    made = [film(folder / f"film-{number}.mp4", 24, seed=number) for number in range(FILMS)]
    made += [picture(folder / f"picture-{number}.png", seed=number) for number in range(PICTURES)]
    for name, content in BAD.items():
        (folder / name).write_bytes(content)
        made.append(folder / name)
    return made


def undisturbed(site: Site, files: list[Path]) -> float:
    """The same files without kills; how long that took."""
    began = time.monotonic()
    for path in files:
        site.drop(path)
    with site.daemon() as process:
        site.wait_until_all_ended(len(files))
        seconds = time.monotonic() - began
        assert stop(process) == 0
    return seconds


def assert_whole(site: Site, expected: dict[str, bytes]) -> None:
    """Every file has one end state, and the results are the expected ones, without litter."""
    rows = site.jobs()
    assert len(rows) == FILMS + PICTURES + len(BAD)
    assert {row.relative.name for row in rows if row.state == "failed"} == set(BAD)
    assert all(row.state in ("done", "failed") for row in rows)
    assert contents(site.outbox) == expected
    assert site.litter() == []
    with Store.open(site.state / STORE_FILE) as store:
        for row in rows:
            moves = store.transitions(row.id)
            assert [each.before for each in moves] == [None, *(each.after for each in moves[:-1])]
            assert moves[-1].after == row.state
            ended = [each for each in moves if each.after in ("done", "failed")]
            assert len(ended) == 1, "it ended once"


def run(folder: Path, kills: int, seed: int, say: Callable[[str], None]) -> Chaos:
    """All of it, in an empty folder. AssertionError if a promise is broken."""
    files = make_files(folder / "files")
    calm = Site.make(folder / "calm", **SETTINGS)
    seconds = undisturbed(calm, files)
    expected = contents(calm.outbox)
    assert_whole(calm, expected)
    say(f"undisturbed: {seconds:.1f} s, {len(expected)} results")
    chance = random.Random(seed)
    chance.shuffle(files)
    # Some kills hit the start, some the work: on average so much of it is done between two.
    chaos = Chaos(Site.make(folder / "chaos", **SETTINGS), chance, span=0.6 * seconds)
    chaos.run(files, kills)
    assert_whole(chaos.site, expected)
    say(f"killed: {chaos.daemons_killed} daemons, {chaos.workers_killed} workers; every promise was kept")
    return chaos


def _places(given: Path | None, stack: ExitStack) -> Path:
    return given or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="invsr-chaos-")))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="an empty folder to keep; default: a temporary one")
    return parser.parse_args()


def main() -> None:
    arguments = _arguments()
    with ExitStack() as stack:
        run(_places(arguments.folder, stack), arguments.kills, arguments.seed, print)


if __name__ == "__main__":
    main()
