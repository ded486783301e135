"""The table of mounts, and folders whose file system went away."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from invsr_daemon.files.mounts import mount_holding, mount_point_of, parse_mounts
from invsr_daemon.files.remembered_mounts import REMEMBERED_FILE, RememberedMounts

MOUNTS = r"""22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 27 0:40 / /mnt/nas rw,relatime shared:2 master:3 - nfs4 server:/films rw,vers=4.2
31 27 0:41 / /mnt/two\040words rw - cifs //server/films rw
32 30 0:42 / /mnt/nas/local rw - xfs /dev/sdb rw
33 27 0:43 / /mnt/ssh rw - fuse.sshfs me@host: rw
34 27 0:44 / /mnt/hidden rw - nfs server:/a rw
35 34 0:45 / /mnt/hidden rw - tmpfs tmpfs rw
36 27 0:46 / /mnt/auto rw - autofs systemd-1 rw
37 36 0:47 / /mnt/auto rw - nfs server:/b rw
38 27 0:48 / /mnt/ctl rw - fusectl fusectl rw
"""


@pytest.mark.parametrize(
    ("path", "remote"),
    [
        ("/srv/inbox", False),
        ("/mnt/nas", True),
        ("/mnt/nas/inbox", True),
        ("/mnt/nas2/inbox", False),
        ("/mnt/nas/local/inbox", False),
        ("/mnt/two words/inbox", True),
        ("/mnt/ssh/inbox", True),
        ("/mnt/hidden/inbox", False),
        ("/mnt/auto/inbox", True),
        ("/mnt/ctl", False),
        ("/", False),
    ],
)
def test_remote_file_systems(path: str, remote: bool) -> None:
    mount = mount_holding(path, parse_mounts(MOUNTS))
    assert mount is not None
    assert mount.is_remote is remote


def test_the_last_mount_on_a_folder_hides_the_others() -> None:
    mount = mount_holding("/mnt/hidden/x", parse_mounts(MOUNTS))
    assert mount is not None
    assert mount.file_system == "tmpfs"


def test_a_path_that_no_mount_holds() -> None:
    assert mount_holding("/srv", parse_mounts("")) is None


def test_a_mount_that_went_away_is_told_also_after_a_restart(tmp_path: Path) -> None:
    folder = tmp_path / "nas" / "outbox"
    folder.mkdir(parents=True)
    assert RememberedMounts(tmp_path).problem(folder) is None
    known = json.loads((tmp_path / REMEMBERED_FILE).read_text())
    assert known == {str(folder): str(mount_point_of(folder))}
    (tmp_path / REMEMBERED_FILE).write_text(json.dumps({str(folder): str(tmp_path / "nas")}))
    assert f"{tmp_path / 'nas'} is not mounted" in (RememberedMounts(tmp_path).problem(folder) or "")


def test_a_state_folder_that_takes_nothing_is_no_trouble_of_the_folders(tmp_path: Path) -> None:
    """As with a disk that is full: it is remembered as soon as it can be."""
    folder, state = tmp_path / "inbox", tmp_path / "state"
    folder.mkdir()
    mounts = RememberedMounts(state)
    assert mounts.problem(folder) is None
    state.mkdir()
    assert mounts.problem(folder) is None
    assert str(folder) in (state / REMEMBERED_FILE).read_text()
