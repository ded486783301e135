"""Kills the daemon, its workers and media processes at random moments, and sees what comes of it.

    python -m tests.promises.chaos --kills 30 --seed 1

Files arrive all the while, so that there is work at every kill. In the end every file has exactly one end
state, results are those of a run that nothing disturbed, byte by byte, no chunk was computed again after
it was recorded, and neither outbox nor work folder holds litter.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

from invsr_daemon.store.rows import ENDED
from invsr_daemon.store.store import STORE_FILE, Store
from tests.support.command import wait_until
from tests.support.daemons import Site, contents, film, kill, picture, stop

BAD = {
    "empty.mp4": b"",
    "text.mkv": b"This is no film.\n" * 50,
    "noise.png": bytes(range(256)) * 8,
    "playlist.mp4": b"#EXTM3U\n#EXTINF:1,\nfilm-0.mp4\n",
    "cut.jpg": b"\xff\xd8\xff\xe0\x00\x10JFIF\x00",
}
# What is killed so often must not be given up for it.
SETTINGS = {"limits": {"worker_deaths": 100}, "failures": {"attempts": 100}}
DAEMON_SHARE = 0.5
# Most kills hit a daemon that starts, looks at files and plans; some come later, when workers are at it. In
# units of the time that a daemon took to its first result.
DEEP_SHARE, DEEP, SHALLOW = 0.25, 2.0, 0.3
FILMS, PICTURES = 4, 6
# Files that wait or are worked on whenever something is killed.
BUSY = 3
REPORT_EVERY = 50
PATIENCE = 3600.0

Recorded = dict[tuple[int, int], float]
Dropped = dict[Path, str]  # which file lies where in the inbox


@dataclass
class Chaos:
    """One site and all that was seen of it. `files` come again and again, each time into another folder."""

    site: Site
    files: Iterator[Path]
    chance: random.Random
    unit: float
    say: Callable[[str], None]
    dropped: Dropped = field(default_factory=dict)
    killed: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("daemons", "workers", "media"), 0))
    recorded: Recorded = field(default_factory=dict)

    @property
    def kills(self) -> int:
        return sum(self.killed.values())

    def run(self, kills: int) -> None:
        """Kill as often while there is work; then leave it in peace."""
        while self.kills < kills:
            with self.site.started() as process:
                while process.poll() is None and self.kills < kills:
                    self._feed()
                    longest = DEEP if self.chance.random() < DEEP_SHARE else SHALLOW
                    time.sleep(self.chance.uniform(0, longest * self.unit))  # chance decides the moment
                    self._kill_something(process)
            self._look()
        with self.site.daemon() as process:
            self.site.wait_until_all_ended(len(self.dropped), PATIENCE)
            assert stop(process) == 0
        self._look()

    def _feed(self) -> None:
        ended = sum(row.state in ENDED for row in self.site.jobs())
        for _ in range(ended + BUSY - len(self.dropped)):
            _drop(self.site, next(self.files), self.dropped)

    def _kill_something(self, process: subprocess.Popen[bytes]) -> None:
        children = [("workers", pid) for pid in sorted(self.site.workers())]
        children += [("media", pid) for pid in sorted(self.site.media_processes())]
        if children and self.chance.random() > DAEMON_SHARE:
            what, pid = self.chance.choice(children)
            with suppress(ProcessLookupError):  # it has just gone by itself
                os.kill(pid, signal.SIGKILL)
        else:
            what = "daemons"
            kill(process)
        self.killed[what] += 1
        if self.kills % REPORT_EVERY == 0:
            self.say(f"{self.kills} kills, {len(self.recorded)} chunks recorded")

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
    folder.mkdir(parents=True)
    made = [film(folder / f"film-{number}.mp4", 24, seed=number) for number in range(FILMS)]
    made += [picture(folder / f"picture-{number}.png", seed=number) for number in range(PICTURES)]
    for name, content in BAD.items():
        (folder / name).write_bytes(content)
        made.append(folder / name)
    return made


def undisturbed(site: Site, files: list[Path]) -> tuple[float, Dropped]:
    """The same files without kills; how long it took to the first result."""
    dropped: Dropped = {}
    for path in files:
        _drop(site, path, dropped)
    began = time.monotonic()
    with site.daemon() as process:
        wait_until(lambda: any(row.state == "done" for row in site.jobs()), "a first result")
        seconds = time.monotonic() - began
        site.wait_until_all_ended(len(files), PATIENCE)
        assert stop(process) == 0
    return seconds, dropped


def results(site: Site, dropped: Dropped) -> dict[Path, dict[str, bytes]]:
    """What the outbox holds for each dropped file; results lie in folders as their files do."""
    found = {path: contents(site.outbox / path.parent) for path in dropped}
    assert sum(map(len, found.values())) == len(contents(site.outbox))
    return found


def assert_whole(site: Site, dropped: Dropped) -> None:
    """Every file has one end state, a result if it is a good one, and there is no litter."""
    rows = site.jobs()
    assert len(rows) == len(dropped)
    assert {row.relative: row.state for row in rows} == {
        path: "failed" if name in BAD else "done" for path, name in dropped.items()
    }
    assert {path for path, found in results(site, dropped).items() if not found} == {
        path for path, name in dropped.items() if name in BAD
    }
    assert site.litter() == []
    with Store.open(site.state / STORE_FILE) as store:
        for row in rows:
            moves = store.transitions(row.id)
            assert [each.before for each in moves] == [None, *(each.after for each in moves[:-1])]
            assert moves[-1].after == row.state
            ended = [each for each in moves if each.after in ("done", "failed")]
            assert len(ended) == 1, "it ended once"


def run(folder: Path, kills: int, seed: int, say: Callable[[str], None], unit: float | None = None) -> Chaos:
    """All of it, in an empty folder. AssertionError if a promise is broken."""
    files = make_files(folder / "files")
    calm = Site.make(folder / "calm", **SETTINGS)
    took, dropped = undisturbed(calm, files)
    assert_whole(calm, dropped)
    expected = {dropped[path]: found for path, found in results(calm, dropped).items()}
    say(f"undisturbed: the first result after {took:.1f} s, {len(files)} files")
    chance = random.Random(seed)
    chance.shuffle(files)
    began = time.monotonic()
    chaos = Chaos(Site.make(folder / "chaos", **SETTINGS), cycle(files), chance, unit or took, say)
    chaos.run(kills)
    assert_whole(chaos.site, chaos.dropped)
    for path, found in results(chaos.site, chaos.dropped).items():
        assert found == expected[chaos.dropped[path]], path
    killed = ", ".join(f"{number} {what}" for what, number in chaos.killed.items())
    say(
        f"killed in {time.monotonic() - began:.0f} s: {killed}; {len(chaos.dropped)} files,"
        f" {len(chaos.recorded)} chunks recorded; every promise was kept"
    )
    return chaos


def _drop(site: Site, file: Path, dropped: Dropped) -> None:
    place = Path(str(len(dropped)), file.name)
    site.drop(file, str(place))
    dropped[place] = file.name


def _places(given: Path | None, stack: ExitStack) -> Path:
    return given or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="invsr-chaos-")))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.promises.chaos", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--unit", type=float, help="seconds that a first result takes; default: as measured")
    parser.add_argument("--folder", type=Path, help="an empty folder to keep; default: a temporary one")
    return parser.parse_args()


def main() -> None:
    arguments = _arguments()
    with ExitStack() as stack:
        run(_places(arguments.folder, stack), arguments.kills, arguments.seed, print, arguments.unit)


if __name__ == "__main__":
    main()
