"""Kills the daemon, its workers and media processes, troubles its machine, and sees what comes of it.

    unshare -m python -m tests.promises.chaos --full-disk --kills 30 --seed 1

Files arrive all the while, so that there is work at every kill. Meanwhile cards are sick, the model is away,
the outbox is full, and files are written by somebody who pauses. In the end every file has exactly one end
state, results are those of a run that nothing disturbed, byte by byte, no chunk was computed again after
it was recorded, and neither outbox nor work folder holds litter.

The last line on stdout is JSON: what was killed, in which phases the daemon was when it was killed, and how
often each trouble came.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import cycle
from pathlib import Path

from invsr_daemon.files.durable import ATTEMPT_SUFFIX
from invsr_daemon.hub.installed import PACKAGED_MODELS
from invsr_daemon.jobs.workfolders import subfolder_of
from invsr_daemon.store.rows import ENDED, JobRow
from invsr_daemon.store.store import STORE_FILE, Store
from tests.promises.troubles import Cards, FullOutbox, ModelAway, Trouble
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
CARDS = ("cuda:0", "cuda:1")
OUTBOX_SIZE = "64m"
DAEMON_SHARE = 0.7
# Kills wait for a phase to begin, and then for a moment of it; in units of the time to a first result.
PHASES = ("start", "plan", "chunk", "join", "publish", "tidy")
WEIGHTS = (4, 4, 1, 1, 2, 2)  # the last ones are often missed
LONGEST_WAIT, LONGEST_MOMENT = 2.0, 0.1
TROUBLE_SHARE, LONGEST_TROUBLE = 0.2, 1.0
PAUSING_SHARE, LONGEST_PAUSE = 0.2, 1.5  # the latter in seconds
POLL_SECONDS = 0.003  # some phases last for some milliseconds; the daemon needs the processor, too
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
    troubles: tuple[Trouble, ...]
    chance: random.Random
    unit: float
    say: Callable[[str], None]
    dropped: Dropped = field(default_factory=dict)
    killed: Counter[str] = field(default_factory=Counter)
    phases: Counter[str] = field(default_factory=Counter)
    troubled: Counter[str] = field(default_factory=Counter)
    recorded: Recorded = field(default_factory=dict)
    _writers: list[threading.Thread] = field(default_factory=list)
    _trouble: Trouble | None = None
    _relief: float = 0.0  # when the trouble ends

    def run(self, kills: int) -> None:
        """Kill as often while there is work; then leave it in peace."""
        while self.killed.total() < kills:
            with self.site.started() as process:
                said = len(self.site.log)
                while process.poll() is None and self.killed.total() < kills:
                    self._feed()
                    self._trouble_or_relieve()
                    self._kill_something(process, said)
            self._look()
        self._relieve()
        for writer in self._writers:
            writer.join()
        with self.site.daemon() as process:
            self.site.wait_until_all_ended(len(self.dropped), PATIENCE)
            assert stop(process) == 0
        self._look()

    def _feed(self) -> None:
        ended = sum(row.state in ENDED for row in self.site.jobs())
        for _ in range(ended + BUSY - len(self.dropped)):
            file = next(self.files)
            if self.chance.random() < PAUSING_SHARE:
                self._write_with_a_pause(file)
            else:
                _drop(self.site, file, self.dropped)

    def _write_with_a_pause(self, file: Path) -> None:
        """As a slow copy does it: under the final name, in two halves, and open all the while."""
        place = _place(file, self.dropped)
        target = self.site.inbox / place
        target.parent.mkdir()
        pause, content = self.chance.uniform(0, LONGEST_PAUSE), file.read_bytes()
        half = len(content) // 2

        def write() -> None:
            with target.open("wb", buffering=0) as opened:
                opened.write(content[:half])
                time.sleep(pause)
                opened.write(content[half:])

        self.troubled["writers that pause"] += 1
        self._writers.append(threading.Thread(target=write))
        self._writers[-1].start()

    def _trouble_or_relieve(self) -> None:
        if self._trouble is not None and time.monotonic() > self._relief:
            self._relieve()
        if self._trouble is None and self.chance.random() < TROUBLE_SHARE:
            trouble = self.chance.choice(self.troubles)
            trouble.begin(self.chance)
            self.troubled[trouble.name] += 1
            self._trouble = trouble
            self._relief = time.monotonic() + self.chance.uniform(0, LONGEST_TROUBLE * self.unit)

    def _relieve(self) -> None:
        if self._trouble is not None:
            self._trouble.end()
        self._trouble = None

    def _kill_something(self, process: subprocess.Popen[bytes], said: int) -> None:
        """Wait for a phase, or until it is clear that it does not come; then kill at a moment of it."""
        (wanted,) = self.chance.choices(PHASES, WEIGHTS)
        deadline = time.monotonic() + LONGEST_WAIT * self.unit
        while wanted not in self._phases(said) and time.monotonic() < deadline and process.poll() is None:
            time.sleep(POLL_SECONDS)
        if wanted not in ("publish", "tidy"):
            time.sleep(self.chance.uniform(0, LONGEST_MOMENT * self.unit))  # chance decides the moment
        children = [("workers", pid) for pid in sorted(self.site.workers())]
        children += [("media", pid) for pid in sorted(self.site.media_processes())]
        if children and self.chance.random() > DAEMON_SHARE:
            what, pid = self.chance.choice(children)
            self.phases.update(self._phases(said))
            with suppress(ProcessLookupError):  # it has just gone by itself
                os.kill(pid, signal.SIGKILL)
        else:
            what = "daemons"
            kill(process)
            self.phases.update(self._phases(said))
        self.killed[what] += 1
        if self.killed.total() % REPORT_EVERY == 0:
            self.say(f"{self.killed.total()} kills, in {dict(self.phases)}, {dict(self.troubled)}")

    def _phases(self, said: int) -> set[str]:
        """What the daemon is at, as its files tell; of a daemon that was killed: what it was at."""
        if "watching" not in self.site.log[said:]:
            return {"start"}
        with Store.open(self.site.state / STORE_FILE) as store:
            running = [row for row in store.jobs() if row.state == "running"]
            untidy = store.untidy()
        return {self._phase(row) for row in running} | ({"tidy"} if untidy else set())

    def _phase(self, row: JobRow) -> str:
        folder = self.site.outbox / row.relative.parent
        names = os.listdir(folder) if folder.exists() else []
        if any(not name.startswith(".") for name in names):
            return "publish"
        if names:
            return "join"
        work = self.site.state / "work" / subfolder_of(row.id)
        return "chunk" if any(work.rglob(f"*{ATTEMPT_SUFFIX}")) else "plan"

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
    assert Counter(row.relative for row in rows) == Counter(dropped.keys())
    expected = {path: "failed" if name in BAD else "done" for path, name in dropped.items()}
    wrong = [row for row in rows if row.state != expected[row.relative]]
    assert not wrong, wrong
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


def run(
    folder: Path,
    kills: int,
    seed: int,
    say: Callable[[str], None],
    unit: float | None = None,
    *,
    full_disk: bool = False,
) -> Chaos:
    """All of it, in an empty folder. AssertionError if a promise is broken."""
    files = make_files(folder / "files")
    model = shutil.copytree(PACKAGED_MODELS / "default", folder / "model")
    cards = Cards(folder / "sick.json", CARDS)
    cards.end()
    calm = site(folder / "calm", model)
    took, dropped = undisturbed(calm, files)
    assert_whole(calm, dropped)
    expected = {dropped[path]: found for path, found in results(calm, dropped).items()}
    say(f"undisturbed: the first result after {took:.1f} s, {len(files)} files")
    chance = random.Random(seed)
    chance.shuffle(files)
    began = time.monotonic()
    disturbed = site(folder / "chaos", model)
    troubles: tuple[Trouble, ...] = (cards, ModelAway(model))
    with ExitStack() as stack:
        if full_disk:
            stack.enter_context(small_disk(disturbed.outbox))
            troubles = (*troubles, FullOutbox(disturbed.outbox))
        chaos = Chaos(disturbed, cycle(files), troubles, chance, unit or took, say)
        chaos.run(kills)
        assert_whole(chaos.site, chaos.dropped)
        for path, found in results(chaos.site, chaos.dropped).items():
            assert found == expected[chaos.dropped[path]], path
        say(
            f"killed in {time.monotonic() - began:.0f} s; {len(chaos.dropped)} files,"
            f" {len(chaos.recorded)} chunks recorded; every promise was kept"
        )
    return chaos


def site(path: Path, model: Path) -> Site:
    made = Site.make(path, model=str(model), **SETTINGS)
    made.outbox.mkdir()
    return replace(made, program="tests.support.sick_devices")


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Mounted there for the while of it."""
    subprocess.run(("mount", "-t", "tmpfs", "-o", f"size={OUTBOX_SIZE}", "none", str(folder)), check=True)
    try:
        yield
    finally:
        subprocess.run(("umount", "--lazy", str(folder)), check=True)


def _place(file: Path, dropped: Dropped) -> Path:
    place = Path(str(len(dropped)), file.name)
    dropped[place] = file.name
    return place


def _drop(site: Site, file: Path, dropped: Dropped) -> None:
    site.drop(file, str(_place(file, dropped)))


def _places(given: Path | None, stack: ExitStack) -> Path:
    return given or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="invsr-chaos-")))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.promises.chaos", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--unit", type=float, help="seconds that a first result takes; default: as measured")
    parser.add_argument("--full-disk", action="store_true", help="mount an outbox that can be full")
    parser.add_argument("--folder", type=Path, help="an empty folder to keep; default: a temporary one")
    return parser.parse_args()


def main() -> None:
    arguments = _arguments()
    with ExitStack() as stack:
        folder = _places(arguments.folder, stack)
        os.environ |= {"SICK_DEVICES": str(folder / "sick.json"), "CARDS": ",".join(CARDS)}
        os.environ["PYTHONPATH"] = os.getcwd()
        chaos = run(
            folder, arguments.kills, arguments.seed, print, arguments.unit, full_disk=arguments.full_disk
        )
    print(json.dumps({"killed": chaos.killed, "phases": chaos.phases, "troubles": chaos.troubled}))


if __name__ == "__main__":
    main()
