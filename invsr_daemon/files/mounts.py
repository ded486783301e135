"""What is mounted where, and with which file system."""

from __future__ import annotations

import os
import re
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")


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


# On these, other machines' or processes' changes send no events here; and every `fuse.*`.
# fmt: off
REMOTE_FILE_SYSTEMS = frozenset({
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse", "fuseblk", "9p", "virtiofs", "ceph", "afs", "lustre",
    "gpfs", "beegfs", "ocfs2", "gfs2", "orangefs", "vboxsf", "prl_fs", "vmhgfs",
})


def is_remote(mountinfo: str, path: str) -> bool:
    """Whether a path without symbolic links lies where events cannot be relied on.

    `mountinfo` is the text of /proc/self/mountinfo: see proc_pid_mountinfo(5).
    """
    deepest, file_system = "", ""
    for line in mountinfo.strip("\n").split("\n"):
        fields, _, rest = line.partition(" - ")
        mount_point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields.split(" ")[4])
        # Of mounts on the same folder the last one hides the others.
        if len(mount_point) >= len(deepest) and f"{path}/".startswith(mount_point.rstrip("/") + "/"):
            deepest, file_system = mount_point, rest.split(" ")[0]
    return file_system in REMOTE_FILE_SYSTEMS or file_system.startswith("fuse.")


def read_mountinfo() -> str:
    return os.fsdecode(Path("/proc/self/mountinfo").read_bytes())


def mount_of(folder: Path) -> Path:
    """Where the file system begins that a folder lies on, or would lie on if it is not there."""
    there = next(each for each in (folder, *folder.parents) if os.path.lexists(each))
    device = os.stat(there).st_dev
    for parent in there.parents:
        if os.stat(parent).st_dev != device:
            return there
        there = parent
    return there
