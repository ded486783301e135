"""What is mounted where, and with which kind of file system: the one reader of the table of mounts."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

MOUNT_TABLE = Path("/proc/self/mountinfo")

# On these, other machines' or processes' changes send no events here; and every `fuse.*`.
# fmt: off
REMOTE_FILE_SYSTEMS = frozenset({
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse", "fuseblk", "9p", "virtiofs", "ceph", "afs", "lustre",
    "gpfs", "beegfs", "ocfs2", "gfs2", "orangefs", "vboxsf", "prl_fs", "vmhgfs",
})
# fmt: on


@dataclass(frozen=True)
class Mount:
    """A folder on which a file system is mounted, and the kind of that, such as ext4."""

    folder: str
    file_system: str

    @property
    def is_remote(self) -> bool:
        """Whether events cannot be relied on there."""
        return self.file_system in REMOTE_FILE_SYSTEMS or self.file_system.startswith("fuse.")

    def holds(self, path: str) -> bool:
        """Whether a path lies below its folder, or is it."""
        return f"{path}/".startswith(self.folder.rstrip("/") + "/")


def parse_mounts(table: str) -> list[Mount]:
    """The mounts of a text like /proc/self/mountinfo, in its order: see proc_pid_mountinfo(5)."""
    return [_parse_line(line) for line in table.split("\n") if line]


def _parse_line(line: str) -> Mount:
    fields, _, rest = line.partition(" - ")
    folder = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields.split(" ")[4])
    return Mount(folder, rest.split(" ")[0])


def mount_holding(path: str, mounts: Iterable[Mount]) -> Mount | None:
    """The mount that a path without symbolic links lies on; None if none of these holds it."""
    # Of mounts on the same folder the last one hides the others, as max() takes the first of the reversed.
    holding = [mount for mount in mounts if mount.holds(path)]
    return max(reversed(holding), key=lambda mount: len(mount.folder), default=None)


def file_system_of(path: Path) -> str:
    """The kind of file system that a path lies on, such as ext4. Raises OSError."""
    mount = _mount_of(path)
    return "an unknown file system" if mount is None else mount.file_system


def is_remote(path: Path) -> bool:
    """Whether a path lies where events cannot be relied on. Raises OSError."""
    mount = _mount_of(path)
    return mount is not None and mount.is_remote


def _mount_of(path: Path) -> Mount | None:
    return mount_holding(str(path.resolve()), parse_mounts(os.fsdecode(MOUNT_TABLE.read_bytes())))


def mount_point_of(folder: Path) -> Path:
    """Where the file system begins that a folder lies on, or would lie on if it is not there.

    That is asked of the folders themselves: the table of mounts hides what is mounted inside one file
    system, such as subvolumes. Raises OSError.
    """
    there = next(each for each in (folder, *folder.parents) if os.path.lexists(each))
    device = os.stat(there).st_dev
    for parent in there.parents:
        if os.stat(parent).st_dev != device:
            return there
        there = parent
    return there
