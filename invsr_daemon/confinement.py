"""What a process that reads strangers' files takes from itself before it does.

Landlock (landlock(7)) leaves it the folders and files that it is given, no TCP, and signals to its own like
only. Limits of resources hold where the kernel has no Landlock, too. What is given up cannot be had back.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .errors import InternalError

NO_LANDLOCK = (
    "this kernel has no Landlock: what a damaged or hostile file does to the process that reads it,"
    " file permissions alone hold back (Linux 5.13 or newer has it, if `lsm=` at boot names landlock)"
)
# How a killed process ranks among those that the kernel may kill when memory ends: before the daemon.
OOM_SCORE = 500

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture
_ASK_VERSION = 1
_PATH_BENEATH = 1
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38

# seccomp(2): where a call's number and architecture lie, and instructions of classic BPF.
_CALL_AT, _ARCHITECTURE_AT = 0, 4
_LOAD, _JUMP_IF_EQUAL, _JUMP_IF_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_BY_FILTER, _ERRNO, _ALLOW = 2, 0x00050000, 0x7FFF0000
_OTHER_NUMBERS = 0x40000000  # x86-64's calls under other numbers (x32)
# Each machine's architecture, and its numbers of socket and io_uring_setup, which makes sockets too.
_SOCKET_CALLS = {"x86_64": (0xC000003E, (41, 425)), "aarch64": (0xC00000B7, (198, 425))}

# LANDLOCK_ACCESS_FS_*
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = (1 << bit for bit in range(4))
_REMOVE_DIR, _REMOVE_FILE, _MAKE_DIR, _MAKE_REG = 1 << 4, 1 << 5, 1 << 7, 1 << 8
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_READ = _READ_FILE | _READ_DIR
_CHANGE = _READ | _WRITE_FILE | _TRUNCATE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG
_DEVICE = _READ | _WRITE_FILE | _IOCTL_DEV
# How many rights of the file system each version knows.
_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_TCP = 0b11  # bind and connect, from version 4 on
_SCOPES = 0b11  # abstract sockets and signals, from version 6 on

# Where systems keep libraries, drivers' ones too.
_SYSTEM = (
    *("/usr", "/lib", "/lib32", "/lib64", "/nix/store", "/etc/ld.so.cache", "/etc/localtime"),
    *("/opt/rocm", "/opt/amdgpu", "/opt/cuda", "/run/opengl-driver"),
)
SWITCH = "INVSR_DAEMON_UNCONFINED"  # set in the environment: for drivers that need more than is known here
_HARMLESS = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")
_MACHINE = ("/proc/cpuinfo", "/proc/meminfo", "/sys/devices/system")


@dataclass(frozen=True)
class Allowed:
    """What may be opened from now on, beside libraries: a folder stands for all that is below it.

    `changes` may be written to, and names made and removed in them. `files`: descriptors whose files may be
    opened again, for writing too. `devices`: also by their controls (ioctl).
    """

    reads: tuple[Path, ...] = ()
    changes: tuple[Path, ...] = ()
    devices: tuple[Path, ...] = ()
    files: tuple[int, ...] = ()

    def line(self) -> str:
        """All but the descriptors, as an argument of a command."""
        return json.dumps({name: list(map(str, getattr(self, name))) for name in _PATHS})

    @classmethod
    def of_line(cls, line: str) -> Allowed:
        """The inverse of `line`."""
        given = json.loads(line)
        reads, changes, devices = (tuple(map(Path, given[name])) for name in _PATHS)
        return cls(reads, changes, devices)


_PATHS = ("reads", "changes", "devices")


@dataclass(frozen=True)
class Limits:
    """The most that a process may have: further address space, and a file, in bytes; seconds on a core."""

    memory: int
    file_size: int
    cpu_seconds: int
    open_files: int = 256


def confinement_problem() -> str | None:
    """Why processes are not confined, if so."""
    if os.environ.get(SWITCH):
        return f"confinement is switched off by {SWITCH}: see docs/confinement.md"
    return None if landlock_version() else NO_LANDLOCK


def landlock_version() -> int:
    """The kernel's version of Landlock; 0 if it has none, or has it switched off."""
    asked = _libc().syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_ASK_VERSION))
    return max(0, int(asked))


def confine(allowed: Allowed) -> None:
    """Give up everything else, for this thread and those that it starts, for good.

    So it is called before there are others. Without Landlock, or switched off, only new rights are given up.
    """
    libc = _libc()
    _check(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    if confinement_problem() is None:
        _restrict(libc, landlock_version(), allowed)


def forbid_sockets() -> None:
    """No new sockets of any kind, for good: Landlock knows of TCP alone. For processes without threads.

    By seccomp, after `confine`; nothing happens on machines other than x86-64 and ARM64.
    """
    machine = _SOCKET_CALLS.get(os.uname().machine)
    if machine is None:
        return
    architecture, calls = machine
    refuse, allow = _Filter(_RETURN, 0, 0, _ERRNO | errno.EPERM), _Filter(_RETURN, 0, 0, _ALLOW)
    compared = [_Filter(_JUMP_IF_EQUAL, len(calls) - place, 0, call) for place, call in enumerate(calls)]
    program = [
        _Filter(_LOAD, 0, 0, _ARCHITECTURE_AT),
        _Filter(_JUMP_IF_EQUAL, 0, len(calls) + 2, architecture),
        _Filter(_LOAD, 0, 0, _CALL_AT),
        _Filter(_JUMP_IF_AT_LEAST, len(calls) + 1, 0, _OTHER_NUMBERS),
        *compared,
        allow,
        refuse,
    ]
    filters = (_Filter * len(program))(*program)
    set_up = _libc().prctl(
        _PR_SET_SECCOMP, _BY_FILTER, ctypes.byref(_Program(len(program), ctypes.addressof(filters))), 0, 0
    )
    _check(set_up, "seccomp's filter")


def limit(limits: Limits) -> None:
    """Lower this process's limits of resources, for good."""
    for kind, most in (
        (resource.RLIMIT_AS, _address_space() + limits.memory),
        (resource.RLIMIT_FSIZE, limits.file_size),
        (resource.RLIMIT_CPU, limits.cpu_seconds),
        (resource.RLIMIT_NOFILE, limits.open_files),
    ):
        _lower(kind, most)
    leave_no_core()


def _address_space() -> int:
    """Bytes that this process has already: libraries take more, the more cores there are."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


def leave_no_core() -> None:
    """A crash leaves no core: it would hold what strangers sent."""
    _lower(resource.RLIMIT_CORE, 0)


def die_before_others() -> None:
    """When memory ends, the kernel takes this process before those that did not ask for it."""
    Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))


def die_with(parent: int) -> None:
    """End at once when the process that started this one does."""
    import signal

    _check(_libc().prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL)), "the signal at the parent's death")
    if os.getppid() != parent:  # it died before that was said
        os._exit(0)


def code() -> tuple[Path, ...]:
    """Where Python, this package and the libraries lie."""
    places = (*_SYSTEM, sys.prefix, sys.base_prefix, *_site_packages())
    return (*map(Path, places), *_library_path(), Path(__file__).parent)


def _library_path() -> tuple[Path, ...]:
    return tuple(Path(each) for each in os.environ.get("LD_LIBRARY_PATH", "").split(":") if each)


def _site_packages() -> list[str]:
    return [each for each in sys.path if Path(each).name in ("site-packages", "dist-packages")]


def _lower(kind: int, most: int) -> None:
    """Never raise it."""
    _, hard = resource.getrlimit(kind)
    least = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(kind, (least, least))


class _Filter(ctypes.Structure):
    _fields_ = (
        *(("code", ctypes.c_uint16), ("if_true", ctypes.c_uint8), ("if_false", ctypes.c_uint8)),
        ("operand", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("filters", ctypes.c_void_p))


class _Ruleset(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("access", ctypes.c_uint64), ("parent", ctypes.c_int32))


def _restrict(libc: ctypes.CDLL, version: int, allowed: Allowed) -> None:
    handled = (1 << _RIGHTS.get(version, max(_RIGHTS.values()))) - 1
    ruleset = _Ruleset(handled, _TCP if version >= 4 else 0, _SCOPES if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    known = libc.syscall(_CREATE_RULESET, ctypes.byref(ruleset), ctypes.c_size_t(size), ctypes.c_uint32(0))
    _check(known, "Landlock's ruleset")
    try:
        for descriptor, access in _rules(allowed):
            rule = _PathBeneath(access & handled, descriptor)
            _check(
                libc.syscall(_ADD_RULE, known, _PATH_BENEATH, ctypes.byref(rule), ctypes.c_uint32(0)),
                "a rule of Landlock's",
            )
        _check(libc.syscall(_RESTRICT_SELF, known, ctypes.c_uint32(0)), "Landlock")
    finally:
        os.close(known)


def _rules(allowed: Allowed) -> Iterator[tuple[int, int]]:
    """Descriptors with what is allowed below them."""
    yield from _by_path((*code(), *map(Path, _MACHINE), *allowed.reads), _READ)
    yield from _by_path(map(Path, _HARMLESS), _READ | _WRITE_FILE)
    yield from _by_path(allowed.devices, _DEVICE)
    yield from _by_path(allowed.changes, _CHANGE)
    yield from ((file, (_READ_FILE | _WRITE_FILE | _TRUNCATE)) for file in allowed.files)


def _by_path(paths: Iterable[Path], access: int) -> Iterator[tuple[int, int]]:
    for path in paths:
        try:
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:  # not there: nothing to allow
            continue
        try:
            yield descriptor, access if path.is_dir() else access & _OF_FILES
        finally:
            os.close(descriptor)


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    return libc


def _check(result: int, what: str) -> None:
    if result < 0:
        error = os.strerror(ctypes.get_errno())
        raise InternalError(f"{what} cannot be set: {error}")
