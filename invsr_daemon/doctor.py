"""`invsr-daemon doctor`: what is wrong with machine, models, folders and limits, and how to mend it.

Each check is a function from the settings to findings. Nothing is changed, but for files that are made
and removed at once to see whether a folder can be written to.
"""

from __future__ import annotations

import json
import os
import platform
import pwd
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, Literal

from pydantic import ByteSize

from . import __version__, status
from .config import Settings
from .devices import ACCELERATOR_NODES, choose_devices
from .inbox import is_remote
from .model import hub
from .outbox import obstacle
from .records import ConfigError, ModelError, VideoSettings
from .service import NAME

Level = Literal["OK", "INFO", "WARN", "FAIL"]
Say = Callable[[str], None]

# With the pixel format that each takes; a server without a GPU does well without most of them.
ENCODERS = {
    "libx264": "yuv420p",
    "libx265": "yuv420p",
    "libsvtav1": "yuv420p",
    "ffv1": "yuv420p",
    "h264_nvenc": "yuv420p",
    "hevc_nvenc": "yuv420p",
    "av1_nvenc": "yuv420p",
    "h264_vaapi": "nv12",
    "hevc_vaapi": "nv12",
    "av1_vaapi": "nv12",
    "h264_qsv": "nv12",
    "hevc_qsv": "nv12",
    "av1_qsv": "nv12",
}
PROBE_SECONDS = 300
ENOUGH_OPEN_FILES = 1024
MOUNTS = Path("/proc/self/mountinfo")
INOTIFY = Path("/proc/sys/fs/inotify")
SYSTEMD = Path("/run/systemd/system")
AS_SERVICE = f"`sudo -u USER {NAME} doctor -c FILE` looks as the service's user"
POLLED = "for inboxes on NFS let settle_seconds be longer than attributes are cached (acregmax, 60 s)"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `mend` says what to do about it, if anything."""

    level: Level
    name: str
    text: str
    mend: str | None = None


Check = Callable[[], Iterable[Finding]]


@dataclass(frozen=True)
class Folder:
    """A folder of the daemon's, by the setting that names it. `needed`: it has to be written to."""

    name: str
    path: Path
    needed: bool = True


@dataclass(frozen=True)
class Answers:
    """What a probe said before it ended; `problem` tells why it ended, if not in peace."""

    lines: tuple[dict[str, Any], ...]
    problem: str | None


def examine(settings: Settings, say: Say, *, as_json: bool) -> bool:
    """Make every check and tell each finding as soon as it is known; whether nothing failed."""
    well = True
    for name, check in checks(settings).items():
        for finding in _examined(name, check):
            say(json.dumps(asdict(finding)) if as_json else _lines(finding))
            well = well and finding.level != "FAIL"
    return well


def checks(settings: Settings) -> dict[str, Check]:
    """Every check by its name, in the order in which a person reads them."""
    of_settings = {
        "devices": check_devices,
        "models": check_models,
        "encoders": check_encoders,
        "folders": check_folders,
        "moves": check_moves,
        "hard links": check_hard_links,
        "free space": check_free_space,
        "inotify": check_inotify,
        "daemon": check_daemon,
    }
    return {
        "python": check_python,
        "torch": check_torch,
        **{name: partial(check, settings) for name, check in of_settings.items()},
        "open files": check_open_files,
        "service": check_service,
    }


def _examined(name: str, check: Check) -> Iterator[Finding]:
    """What a check finds. One that breaks is itself a finding: it must not hide the others."""
    try:
        yield from check()
    except Exception as error:  # whatever it is, it is told
        text = f"this could not be checked: {type(error).__name__}: {error}"
        yield Finding("FAIL", name, text, f"{AS_SERVICE}; if that says the same, report it")


def _lines(finding: Finding) -> str:
    line = f"{finding.level:4}  {finding.name}: {finding.text}"
    return f"{line}\n      → {finding.mend}" if finding.mend else line


# The machine


def check_python() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0))
    text = f"{platform.python_version()}, {NAME} {__version__}, {cores} cores, {_memory()} of memory free"
    yield Finding("OK", "python", text)


def _memory() -> str:
    (kilobytes,) = re.findall(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return _size(int(kilobytes) << 10)


def check_torch() -> Iterator[Finding]:
    answers = _ask("torch")
    if not answers.lines:
        mend = f"install it again: {sys.executable} -m pip install --force-reinstall torch"
        yield Finding("FAIL", "torch", str(answers.problem), mend)
        return
    (found,) = answers.lines
    yield Finding("OK", "torch", f"{found['version']}, built for {found['built_for']}")
    for device in found["devices"]:
        free, total = device["memory"]
        yield Finding("OK", device["name"], f"{device['model']}, {_size(free)} of {_size(total)} free")
    there = [str(node) for node in ACCELERATOR_NODES if node.exists()]
    if there and not found["devices"]:
        yield Finding(
            "WARN",
            "torch",
            f"{there[0]} is there, but torch finds no GPU",
            "install the build of torch for this GPU; look at its driver (nvidia-smi, rocminfo)",
        )


def check_devices(settings: Settings) -> Iterator[Finding]:
    """What the daemon itself would choose."""
    try:
        chosen = choose_devices(settings.devices, settings.workers)
    except ConfigError as error:
        yield Finding(
            "FAIL", "devices", str(error), "change devices in the settings, or mend what torch finds"
        )
    else:
        yield Finding("OK", "devices", f"{len(chosen)} worker(s), on {', '.join(dict.fromkeys(chosen))}")


def _ask(*question: str) -> Answers:
    """Ask a process of its own, that may crash or hang."""
    command = [sys.executable, "-m", f"{__package__}.doctor_probe", *question]
    # To files: what was said before a timeout is kept.
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+", errors="replace") as err:
        try:
            code = subprocess.run(
                command, stdout=out, stderr=err, timeout=PROBE_SECONDS, check=False
            ).returncode
            problem = None if code == 0 else _last_words(code, err)
        except subprocess.TimeoutExpired:
            problem = f"no answer for {PROBE_SECONDS} s"
        out.seek(0)
        return Answers(tuple(json.loads(line) for line in out if line.endswith("\n")), problem)


def _last_words(code: int, err: IO[str]) -> str:
    err.seek(0)
    words = [line.strip() for line in err if line.strip()]
    how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
    return f"{words[-1]} ({how})" if words else how


# Models and encoders


def check_models(settings: Settings) -> Iterator[Finding]:
    used = dict.fromkeys((each.model, each.models_dir) for each in settings.variants().values())
    for model, models_dir in used:
        yield _model(model, models_dir)


def _model(model: str, models_dir: Path | None) -> Finding:
    name = f"model {model}"
    try:
        known = model in hub.KNOWN
        folder = hub.resolve(model, models_dir) if known else hub.require(model, models_dir)
        problems = hub.verify(model, models_dir) if known else []
    except ModelError as error:
        problems = [str(error)]
    if problems:
        return Finding("FAIL", name, "; ".join(problems), _mend_model(model))
    if model in hub.KNOWN:
        return Finding("OK", name, f"complete and unchanged, in {folder}")
    return Finding("OK", name, f"a directory of your own, {folder}; what is in its files was not checked")


def _mend_model(model: str) -> str:
    known = hub.KNOWN.get(model)
    if known is None:
        return f"set model to a name of `{NAME} models list`, or to a directory"
    return f"install {NAME} again" if known.sources is None else f"{NAME} models pull {model}"


def check_encoders(settings: Settings) -> Iterator[Finding]:
    """Those that the settings want, with those very settings; then the others."""
    from .media.encode import ENCODERS as ENCODER_OF

    wanted = _wanted(settings)
    theirs = {ENCODER_OF.get(video.codec, video.codec) for video in wanted}
    others = [
        VideoSettings(name, 30, "", pixel_format, "auto", 2, ())
        for name, pixel_format in ENCODERS.items()
        if name not in theirs
    ]
    tried = [*wanted, *others]
    answers = _ask("encoders", json.dumps([asdict(each) for each in tried]))
    problems = [answer["problem"] for answer in answers.lines]
    problems += [f"it could not be tried: {answers.problem}"] * (len(tried) - len(problems))
    unusable = []
    for video, problem in zip(tried, problems, strict=False):
        if problem and video not in wanted:
            unusable.append(f"{video.codec} ({problem.rpartition(': ')[2]})")
        else:
            yield _encoder(video, problem, wanted.get(video))
    if unusable:
        yield Finding("INFO", "encoders not usable here, nor asked for", ", ".join(unusable))


def _wanted(settings: Settings) -> dict[VideoSettings, str]:
    """Each way of encoding that is asked for, and where: `video`, `presets.NAME.video`."""
    found: dict[VideoSettings, str] = {}
    for place, each in settings.variants().items():
        found.setdefault(each.video_settings(), f"{place}video")
    return found


def _encoder(video: VideoSettings, problem: str | None, wanted_by: str | None) -> Finding:
    if wanted_by is not None:
        name = f"encoder {video.codec} ({wanted_by})"
        if problem:
            return Finding("FAIL", name, problem, f"change {wanted_by}: its codec, preset or options")
        return Finding("OK", name, "encodes")
    return Finding("OK", f"encoder {video.codec}", "encodes")


# Folders


def folders(settings: Settings) -> list[Folder]:
    """Every folder that the settings name, once."""
    found = {"state_dir": Folder("state_dir", settings.state_dir.absolute())}
    if settings.inbox is not None:
        found["inbox"] = Folder("inbox", settings.inbox.absolute(), _changes_inbox(settings))
    if settings.outbox is not None:
        found["outbox"] = Folder("outbox", settings.outbox.absolute())
    return [*found.values(), *_put_away(settings)]


def _put_away(settings: Settings) -> list[Folder]:
    return [Folder(name, path.absolute()) for path, name in settings.put_away().items()]


def _changes_inbox(settings: Settings) -> bool:
    return any(
        each.failures.note or each.failures.move_to or each.originals.after != "keep"
        for each in settings.variants().values()
    )


def check_folders(settings: Settings) -> Iterator[Finding]:
    from .daemon import Folders  # and with it FFmpeg's libraries: if they are broken, only here

    for folder in folders(settings):
        yield _folder(folder, polls(settings))
    if settings.inbox is None or settings.outbox is None:
        missing = "inbox" if settings.inbox is None else "outbox"
        yield Finding(
            "WARN", missing, "none is set, and the daemon needs one", f"set {missing}, or give -c FILE"
        )
        return
    try:
        Folders.of(settings)
    except ConfigError as error:
        yield Finding("FAIL", "folders", str(error), "choose folders that do not hold the inbox")


def _folder(folder: Folder, polling: bool) -> Finding:
    """Whether a folder serves its purpose, and on which kind of file system it lies."""
    path, name = folder.path, folder.name
    there = existing(path)
    where = f"{path} ({file_system(there)})"
    if there != path and name == "inbox":
        return Finding("FAIL", name, f"{path} is not there: the daemon would wait for it", f"mkdir -p {path}")
    if (problem := _use_problem(there, folder.needed)) is not None:
        return Finding(
            "FAIL", name, problem, f"let the daemon's user in: its owner, mode or ACL; {AS_SERVICE}"
        )
    if name == "inbox" and polling:
        return Finding(
            "WARN", name, f"{where} is polled: no events, so files are found up to 10 s later", POLLED
        )
    if name == "state_dir" and _is_remote(there):
        return Finding(
            "WARN", name, f"{where}: SQLite may lose jobs on such file systems", "use a local disk"
        )
    return Finding("OK", name, where if there == path else f"{where}: it will be made in {there}")


def _use_problem(folder: Path, needed: bool) -> str | None:
    """Why a folder cannot be read, or, if that is needed, written to."""
    try:
        os.listdir(folder)
        if needed:
            with trial(folder):
                pass
    except OSError as error:
        return f"{folder} cannot be used: {error.strerror}"
    return None


@contextmanager
def trial(folder: Path) -> Iterator[Path]:
    """A file in a folder, for a moment. Raises OSError if it cannot be made."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor-", suffix=".part") as file:
        yield Path(file.name)


def existing(path: Path) -> Path:
    """The path, or the innermost folder above it that is there."""
    return next(each for each in (path, *path.parents) if os.path.lexists(each))


def file_system(path: Path) -> str:
    """The kind of file system that a path lies on, such as ext4."""
    kinds = {}
    for line in MOUNTS.read_text(errors="surrogateescape").splitlines():
        mount, _, rest = line.partition(" - ")
        # Of mounts on the same folder the last one hides the others.
        kinds[re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), mount.split()[4])] = rest.split()[
            0
        ]
    real = path.resolve()
    return next(kinds[str(each)] for each in (real, *real.parents) if str(each) in kinds)


def _is_remote(path: Path) -> bool:
    return is_remote(os.fsdecode(MOUNTS.read_bytes()), str(path.resolve()))


def polls(settings: Settings) -> bool:
    """Whether the inbox is scanned, for want of events."""
    if settings.watch.polling == "auto" and settings.inbox is not None:
        return _is_remote(existing(settings.inbox.absolute()))
    return settings.watch.polling == "always"


def check_moves(settings: Settings) -> Iterator[Finding]:
    """Whether putting an input away costs a copy."""
    if settings.inbox is None:
        return
    inbox = existing(settings.inbox.absolute()).stat().st_dev
    for folder in _put_away(settings):
        same = existing(folder.path).stat().st_dev == inbox
        text = "on the inbox's file system: moving is quick" if same else "on another one: moving copies"
        yield Finding("OK", folder.name, text)


def check_hard_links(settings: Settings) -> Iterator[Finding]:
    """A link gives a result its name only if nothing has it."""
    for outbox in _usable(settings, "outbox"):
        with trial(outbox) as file:
            link = file.with_suffix(".link.part")
            try:
                os.link(file, link)
            except OSError as error:
                text = f"not in {outbox} ({error.strerror}): results get their names by renaming"
                mend = "let nothing else make files with results' names there"
                yield Finding("WARN", "hard links", text, mend)
            else:
                link.unlink()
                yield Finding("OK", "hard links", f"possible in {outbox}")


def check_free_space(settings: Settings) -> Iterator[Finding]:
    least = settings.limits.min_free_space
    for name in ("state_dir", "outbox"):
        for folder in _usable(settings, name):
            if why := obstacle(folder, least):
                mend = "make room, or lower limits.min_free_space"
                yield Finding("FAIL", f"free space, {name}", f"{why}: the daemon would pause", mend)
            else:
                text = f"{_size(shutil.disk_usage(folder).free)}; the daemon pauses below {_size(least)}"
                yield Finding("OK", f"free space, {name}", text)


def _usable(settings: Settings, name: str) -> Iterator[Path]:
    """A folder by its setting, or the one it will be made in; none if `check_folders` fails it."""
    for folder in folders(settings):
        there = existing(folder.path)
        if folder.name == name and _use_problem(there, needed=True) is None:
            yield there


# Limits, the service, the daemon


def check_inotify(settings: Settings) -> Iterator[Finding]:
    """Watches and instances are counted per user."""
    if settings.inbox is None or polls(settings):
        return
    watches, instances = _limit("max_user_watches"), _limit("max_user_instances")
    inside = sum(1 for _ in os.walk(settings.inbox))
    used = _inotify_instances()
    text = f"the inbox needs {inside} of {watches} watches; {used} of {instances} instances are in use"
    if inside >= watches:
        yield Finding(
            "WARN", "inotify", f"{text}: the inbox would be polled", _raise("max_user_watches", inside)
        )
    elif used >= instances:
        yield Finding(
            "WARN", "inotify", f"{text}: the inbox would be polled", _raise("max_user_instances", used)
        )
    else:
        yield Finding("OK", "inotify", text)


def _limit(name: str) -> int:
    return int((INOTIFY / name).read_text())


def _raise(name: str, needed: int) -> str:
    return f"sysctl fs.inotify.{name}={max(2 * needed, 512)}, and the same line in /etc/sysctl.d/"


def _inotify_instances() -> int:
    """How many this user has, as far as can be seen."""
    return sum(map(_is_inotify, Path("/proc").glob("[0-9]*/fd/*")))


def _is_inotify(descriptor: Path) -> bool:
    try:
        return (
            os.readlink(descriptor) == "anon_inode:inotify"
            and descriptor.parent.stat().st_uid == os.geteuid()
        )
    except OSError:  # closed meanwhile, or another user's
        return False


def check_open_files() -> Iterator[Finding]:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    text = f"at most {soft} for a process"
    if 0 <= soft < ENOUGH_OPEN_FILES:
        yield Finding("WARN", "open files", text, "ulimit -n 1024, or LimitNOFILE= in a unit")
    else:
        yield Finding("OK", "open files", text)


def check_daemon(settings: Settings) -> Iterator[Finding]:
    state_dir = settings.state_dir.absolute()
    if not status.is_running(state_dir):
        yield Finding("OK", "daemon", f"none is running on {state_dir}")
        return
    found = status.read(state_dir)
    if found is None:
        yield Finding("OK", "daemon", f"it has just been started on {state_dir}")
    elif found.held == "paused":
        yield Finding("WARN", "daemon", found.line(), f"{NAME} resume")
    elif found.held or found.problem:
        yield Finding("WARN", "daemon", found.line(), "see the findings above; it goes on by itself")
    else:
        yield Finding("OK", "daemon", f"process {found.pid}, {found.version}: {found.line()}")


def check_service() -> Iterator[Finding]:
    if not SYSTEMD.is_dir():
        yield Finding("OK", "service", "systemd does not run here")
        return
    unit = _unit()
    if unit["LoadState"] == "not-found":
        yield Finding("OK", "service", "not installed")
        return
    yield unit_state(unit)
    user = pwd.getpwuid(os.geteuid()).pw_name
    if unit["User"] not in ("", user):
        text = f"this command runs as {user}, the service as {unit['User']}: it may not be allowed the same"
        yield Finding("WARN", "user", text, AS_SERVICE.replace("USER", unit["User"]))


def _unit() -> dict[str, str]:
    wanted = ("LoadState", "ActiveState", "SubState", "NRestarts", "Result", "User")
    command = ["systemctl", "show", NAME, *(f"--property={name}" for name in wanted)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(line.split("=", 1) for line in shown.stdout.splitlines())


def unit_state(unit: dict[str, str]) -> Finding:
    """What systemd's properties of the unit mean."""
    text = f"{unit['ActiveState']} ({unit['SubState']}), restarted {unit['NRestarts']} times"
    journal = f"journalctl -u {NAME} -e says why"
    if unit["ActiveState"] == "failed":
        mend = f"{journal}; then systemctl restart {NAME}"
        return Finding("FAIL", "service", f"{text}: {unit['Result']}", mend)
    if unit["NRestarts"] != "0":
        return Finding("WARN", "service", text, journal)
    return Finding("OK", "service", text)


def _size(amount: int) -> str:
    return ByteSize(amount).human_readable(separator=" ")
