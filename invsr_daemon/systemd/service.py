"""The systemd service: its files with the right paths in them, put in place and taken away again.

The templates in `systemd/` are valid as they stand; single lines of them are given other values. Every
file that is written begins with a checksum of the rest, which tells later whether it was edited by hand.
"""

from __future__ import annotations

import grp
import hashlib
import os
import pwd
import re
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from ..errors import ConfigError, InternalError, InvsrError, OutputError
from ..files.durable import sync, sync_rename
from ..settings.reading import load
from ..settings.settings import Settings

NAME = "invsr-daemon"
USER = NAME
CONFIG = Path("/etc/invsr-daemon/config.yaml")
INBOX, OUTBOX = Path("/srv/invsr/inbox"), Path("/srv/invsr/outbox")
STATE = Path("/var/lib/invsr-daemon")  # StateDirectory= in the unit

UNIT = Path("/etc/systemd/system/invsr-daemon.service")
SYSUSERS = Path("/etc/sysusers.d/invsr-daemon.conf")
TMPFILES = Path("/etc/tmpfiles.d/invsr-daemon.conf")

STAMP = "# Written by `invsr-daemon service install`. Checksum of what follows: "
PACKAGE = Path(__file__).parents[1]
HOMES = (Path("/home"), Path("/root"), Path("/run/user"))  # hidden by ProtectHome=
SHUT = (*HOMES, Path("/tmp"), Path("/var/tmp"))  # and by PrivateTmp=
CODE = (Path(sys.prefix), Path(sys.base_prefix), PACKAGE.parent)

Say = Callable[[str], None]


@dataclass(frozen=True)
class Service:
    """An installation: who runs what, what it reads outside the system's folders, where it writes.

    `models`: folders of models that it waits to be mounted. `warnings` name what could be better.
    """

    program: Path
    config: Path
    user: str
    group: str
    reads: tuple[Path, ...]
    models: tuple[Path, ...]
    writes: tuple[Path, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class ServiceFile:
    """A file of the service and its text, checksum and all."""

    path: Path
    text: str


def plan(user: str, config: Path, inbox: Path | None, outbox: Path | None, root: Path) -> Service:
    """What an installation will look like: folders as the configuration in `root` says, if there is one.

    Raises ConfigError if it says something else than `inbox` and `outbox`, or nothing of them.
    """
    if not re.fullmatch("[a-z_][a-z0-9_-]*", user):
        raise ConfigError(f"{user!r} is not a plain user name")
    program = Path(sysconfig.get_path("scripts")) / NAME
    if not program.exists():
        raise ConfigError(f"{program} is missing: install the package with pip, in a venv")
    file = _below(root, config)
    settings = load(file, {}) if file.exists() else Settings(inbox=inbox or INBOX, outbox=outbox or OUTBOX)
    variants = list(settings.variants().values())
    models = _models(variants)
    reads = _outermost((*CODE, config.parent, *models))
    writes = (
        _agreed("inbox", settings.inbox, inbox),
        _agreed("outbox", settings.outbox, outbox),
        *settings.put_away(),
        *_state(settings),
    )
    if relative := [path for path in writes if not path.is_absolute()]:
        raise ConfigError(f"{relative[0]}: a service needs its folders' whole paths, from / on")
    return Service(
        program=program,
        config=config,
        user=user,
        group=_group(user),
        reads=reads,
        models=tuple(dict.fromkeys(models)),
        writes=tuple(dict.fromkeys(writes)),
        warnings=tuple(_warnings((*reads, *writes), variants)),
    )


def files(service: Service) -> tuple[ServiceFile, ...]:
    """The unit, the user and the folders, in the order in which they are needed."""
    texts = {SYSUSERS: _sysusers(service), TMPFILES: _tmpfiles(service), UNIT: _unit(service)}
    return tuple(ServiceFile(path, _stamped(text)) for path, text in texts.items())


def install(service: Service, root: Path, say: Say, *, force: bool) -> None:
    """Write the files, and the configuration if there is none; make user and folders; tell systemd.

    Raises ConfigError if a file was edited by hand and is not to be replaced.
    """
    _require_root(root)
    new = files(service)
    edited = [str(path) for file in new if _is_edited(path := _below(root, file.path))]
    if edited and not force:
        raise ConfigError(f"edited by hand: {', '.join(edited)}; --force replaces them")
    config = _below(root, service.config)
    if not config.exists():
        _write(config, _stamped(_config(service)))
        say(f"wrote {config}")
    for file in new:
        _write(_below(root, file.path), file.text)
        say(f"wrote {_below(root, file.path)}")
    if not _systemd_runs(root):
        say("systemd was told nothing: it does not run here, or the files are for elsewhere")
        return
    _call("systemd-sysusers", str(SYSUSERS))
    _call("systemd-tmpfiles", "--create", str(TMPFILES))
    _call("systemctl", "daemon-reload")
    say(f"Look into {service.config}, then: systemctl enable --now {NAME}")
    say(f"If it runs already: systemctl restart {NAME}")


def uninstall(config: Path, root: Path, say: Say) -> None:
    """Stop the service and remove what `install` wrote and nobody edited. No data is touched."""
    _require_root(root)
    unit = _below(root, UNIT)
    if unit.exists() and _systemd_runs(root):
        _call("systemctl", "disable", "--now", UNIT.name)
    for path in (unit, _below(root, TMPFILES), _below(root, SYSUSERS), _below(root, config)):
        if _is_edited(path):
            say(f"kept {path}: it was edited by hand")
        elif path.exists():
            _remove(path)
            say(f"removed {path}")
    if _systemd_runs(root):
        _call("systemctl", "daemon-reload")
    say("The user, the inbox, the outbox and the state are as they were.")


def _agreed(name: str, configured: Path | None, given: Path | None) -> Path:
    """A folder that the configuration must name, and an option may only repeat."""
    if configured is None:
        raise ConfigError(f"{name} is not set in the configuration, and a service needs it")
    if given is not None and given != configured:
        raise ConfigError(f"the configuration says {name}: {configured}; change it there")
    return configured


def _state(settings: Settings) -> list[Path]:
    """The state's folder, if it is given; systemd itself provides for its StateDirectory."""
    given = "state_dir" in settings.model_fields_set and not settings.state_dir.is_relative_to(STATE)
    return [settings.state_dir] if given else []


def _models(variants: Sequence[Settings]) -> list[Path]:
    """The folders that models are read from, where they are given.

    systemd itself provides for those in its StateDirectory.
    """
    named = [path for each in variants for path in (each.models_dir, Path(each.model)) if path]
    return [path for path in named if path.is_absolute() and not path.is_relative_to(STATE)]


def _warnings(paths: Iterable[Path], variants: Sequence[Settings]) -> Iterator[str]:
    for path in _hidden(paths, SHUT):
        yield f"{path} lies where services should not look; it is shown to this one, but should lie elsewhere"
    if any(each.results.owner for each in variants):
        yield "results.owner needs more rights than the service has: see docs/operations.md"


def _hidden(paths: Iterable[Path], places: Iterable[Path]) -> list[Path]:
    """Those that a service would not see, were they not bound to their place."""
    return [path for path in paths if any(path.is_relative_to(place) for place in places)]


def _outermost(paths: Iterable[Path]) -> tuple[Path, ...]:
    """Without those inside others."""
    kept: list[Path] = []
    for path in sorted(set(paths)):
        if not any(path.is_relative_to(outer) for outer in kept):
            kept.append(path)
    return tuple(kept)


def _group(user: str) -> str:
    """A user's own group; a new user's is called like him."""
    try:
        return grp.getgrgid(pwd.getpwnam(user).pw_gid).gr_name
    except KeyError:
        return user


def _unit(service: Service) -> str:
    reads, writes = _hidden(service.reads, SHUT), _hidden(service.writes, SHUT)
    seen = [path for path in service.writes if path not in writes]
    run = [str(service.program), "run", "-c", str(service.config)]
    text = _shipped("systemd/invsr-daemon.service")
    text = _with(text, "RequiresMountsFor", _words((*service.writes, *service.models)))
    text = _with(text, "ExecStart", _words(run))
    text = _with(text, "User", service.user)
    text = _with(text, "ReadWritePaths", _words(seen))
    text = _with(text, "BindPaths", _words(writes) + _after(reads))
    return _with(text, "ProtectHome", "tmpfs" if _hidden((*reads, *writes), HOMES) else "yes")


def _after(reads: Sequence[Path]) -> str:
    """The line after BindPaths=, if there is one: an empty one would undo BindPaths=."""
    return f"\nBindReadOnlyPaths={_words(reads)}" if reads else ""


def _sysusers(service: Service) -> str:
    text = _shipped("systemd/invsr-daemon.sysusers")
    return re.sub(rf"^([um]) {USER} ", rf"\1 {service.user} ", text, flags=re.MULTILINE)


def _tmpfiles(service: Service) -> str:
    comments = [line for line in _shipped("systemd/invsr-daemon.tmpfiles").splitlines() if line[0] == "#"]
    owner = f":{service.user} :{service.group}"
    shared = [f"d {_words([path])} :2770 {owner} -" for path in service.writes]
    return "\n".join([*comments, f"d {STATE} :0700 {owner} -", *shared, ""])


def _config(service: Service) -> str:
    """config.yaml with the service's folders: by hand, outside systemd, they are then the same."""
    inbox, outbox = service.writes[:2]
    folders = {"inbox": inbox, "outbox": outbox, "state_dir": STATE, "models_dir": STATE / "models"}
    text = _shipped("config.yaml")
    for name, path in folders.items():
        line = yaml.safe_dump({name: str(path)}, width=2**16, allow_unicode=True)
        text = _with_line(text, f"#?{name}:", line.rstrip("\n"))
    return text


def _with(unit: str, key: str, value: str) -> str:
    """A unit with another value of a key."""
    return _with_line(unit, f"{key}=", f"{key}={value}")


def _with_line(text: str, beginning: str, line: str) -> str:
    """A text with another line in place of the only one with this beginning, a regular expression."""
    changed, found = re.subn(rf"^{beginning}.*$", lambda _: line, text, flags=re.MULTILINE)
    if found != 1:
        raise InternalError(f"{found} lines begin with {beginning} in a template of the service")
    return changed


def _words(values: Iterable[str | Path]) -> str:
    """Words of a line that systemd reads: spaces quoted, percent signs doubled."""
    words = [str(value).replace("%", "%%") for value in values]
    for word in words:
        if re.search(r"""["'\\:$\x00-\x1f]""", word):
            raise ConfigError(f"{word!r}: systemd does not take such a name; choose a plainer one")
    return " ".join(f'"{word}"' if " " in word else word for word in words)


def _shipped(name: str) -> str:
    """A file that comes with the package, or lies beside it in a source tree."""
    packed = PACKAGE / "shipped" / name
    return (packed if packed.exists() else PACKAGE.parent / name).read_text(encoding="utf-8")


def _stamped(text: str) -> str:
    return f"{STAMP}{_checksum(text)}\n{text}"


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _is_edited(path: Path) -> bool:
    """Whether a file is there that is not as `install` wrote it."""
    if not path.exists():
        return False
    text = path.read_text(encoding="utf-8", errors="replace")
    return text != _stamped(text.partition("\n")[2])


def _below(root: Path, path: Path) -> Path:
    return root / path.relative_to("/")


def _write(path: Path, text: str) -> None:
    """Whole, durable, and readable for everyone."""
    partial = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        partial.chmod(0o644)
        sync_rename(partial, path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}") from error


def _remove(path: Path) -> None:
    try:
        path.unlink()
        sync(path.parent)
    except OSError as error:
        raise OutputError(f"{path} cannot be removed: {error.strerror}") from error


def _require_root(root: Path) -> None:
    if root == Path("/") and os.geteuid() != 0:
        raise ConfigError("this needs root: run it with sudo, or give --root DIR to write somewhere else")


def _systemd_runs(root: Path) -> bool:
    return root == Path("/") and Path("/run/systemd/system").is_dir()


def _call(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise InvsrError(f"{command[0]} cannot be run: {error.strerror}") from error
    if done.returncode:
        raise InvsrError(f"{' '.join(command)}: {done.stderr.strip() or f'exit code {done.returncode}'}")
