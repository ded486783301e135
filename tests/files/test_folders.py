"""Folders and files are held by descriptors: names that strangers exchange lead nowhere else."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from invsr_daemon.errors import OutputExistsError, UnwritableError
from invsr_daemon.files import folders
from invsr_daemon.files.folders import Folder, HeldFile, Place
from invsr_daemon.files.publishing import HiddenFile, Imprint, PublishPolicy, publish

KEY = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "a").write_bytes(b"secret")
    return tmp_path / "root"


def no_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """As file systems have it that know no hard links."""

    def unsupported(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", unsupported)


def no_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    """As kernels and file systems have it that know no flags of a rename."""

    def unsupported(*_: object) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(folders.Folder, "_rename_no_replace", unsupported)


def announce_nothing(_: Imprint) -> None:
    pass


def test_a_link_below_the_root_is_not_followed(root: Path) -> None:
    (root / "sub").symlink_to("../secret")
    with pytest.raises(OSError, match="sub is a symbolic link, which is not followed") as caught:
        Place(root, Path("sub/a")).open_folder()
    assert caught.value.errno == errno.ELOOP
    with pytest.raises(OSError, match="symbolic link"):
        Place(root, Path("sub/new/a")).open_folder(make=True)
    assert os.listdir(root.parent / "secret") == ["a"]


def test_a_link_to_the_root_is(root: Path) -> None:
    """The administrator's own."""
    link = root.with_name("link")
    link.symlink_to(root)
    Place(link, Path("sub/a")).open_folder(make=True).close()
    assert (root / "sub").is_dir()


def test_a_file_in_the_way_is_told_as_such(root: Path) -> None:
    (root / "sub").touch()
    with pytest.raises(NotADirectoryError):
        Place(root, Path("sub/a")).open_folder()


def test_an_open_folder_stays_that_folder(root: Path) -> None:
    (root / "sub").mkdir()
    (root / "sub" / "a").write_bytes(b"theirs")
    with Place(root, Path("sub/a")).open_folder() as folder:
        (root / "sub").rename(root / "moved")
        (root / "sub").symlink_to("../secret")
        folder.remove("a")
    assert os.listdir(root / "moved") == []
    assert (root.parent / "secret" / "a").read_bytes() == b"secret"


def test_a_place_below_its_root() -> None:
    place = Place.below(Path("/inbox/sub/a.mp4"), 2)
    assert place == Place(Path("/inbox"), Path("sub/a.mp4"))
    assert (place.path, place.name) == (Path("/inbox/sub/a.mp4"), "a.mp4")
    assert place.named("b").path == Path("/inbox/sub/b")
    assert Place.of(Path("/out/a")) == Place(Path("/out"), Path("a"))


def test_a_file_is_made_anew_or_not_at_all(root: Path) -> None:
    (root / "link").symlink_to("../secret/a")
    with Folder.at(root) as folder:
        with pytest.raises(FileExistsError):
            folder.create("link")
        with pytest.raises(OSError, match="symbolic links"), folder.opened("link"):
            pass
    assert (root.parent / "secret" / "a").read_bytes() == b"secret"


@pytest.mark.parametrize("flags", [True, False])
def test_a_rename_replaces_nothing(root: Path, monkeypatch: pytest.MonkeyPatch, flags: bool) -> None:
    if not flags:
        no_flags(monkeypatch)
    (root / "a").write_bytes(b"ours")
    (root / "taken").write_bytes(b"theirs")
    with Folder.at(root) as folder:
        with pytest.raises(FileExistsError):
            folder.rename("a", "taken")
        folder.rename("a", "free")
    assert {path.name: path.read_bytes() for path in root.iterdir()} == {"taken": b"theirs", "free": b"ours"}


def test_what_is_held_is_opened_again_and_nothing_else_is(root: Path) -> None:
    with Folder.at(root) as folder:
        descriptor = folder.create(".a.part")
    held = HeldFile.of(Place.of(root / ".a.part"), descriptor)
    with held.opened() as again:
        os.write(again, b"opened again")
    assert os.pread(descriptor, 99, 0) == b"opened again"
    (root / ".a.part").rename(root / ".moved")
    (root / ".a.part").write_bytes(b"theirs")
    with pytest.raises(OSError, match="exchanged for another") as caught, held.opened():
        pass
    assert caught.value.errno == errno.ESTALE
    (root / ".a.part").unlink()
    (root / ".a.part").symlink_to("../secret/a")
    with pytest.raises(OSError, match="symbolic links"), held.opened():
        pass
    os.close(descriptor)


def hidden_of(root: Path) -> Path:
    (found,) = root.glob(".*.part")
    return found


def test_the_hidden_file_is_nobody_elses_while_it_is_written(root: Path) -> None:
    hidden = HiddenFile(Place.of(root / "a"), KEY)
    hidden.open(0o400)
    assert stat.S_IMODE(hidden_of(root).stat().st_mode) == 0o600
    hidden.discard()
    assert os.listdir(root) == []


@pytest.mark.parametrize("links", [True, False])
def test_only_the_held_file_gets_the_name(root: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    """A stranger puts a link in the hidden file's place before it is named."""
    if not links:
        no_links(monkeypatch)
    hidden = HiddenFile(Place.of(root / "a"), KEY)
    hidden.open()
    name = hidden_of(root)
    name.rename(root / "taken")
    name.symlink_to("../secret/a")
    if links:
        hidden.finish(PublishPolicy(mode=0o640), announce_nothing)
        assert (root / "a").samefile(root / "taken")
    else:
        with pytest.raises(UnwritableError, match="another file has just got the name a"):
            hidden.finish(PublishPolicy(mode=0o640), announce_nothing)
    hidden.discard()
    secret = root.parent / "secret" / "a"
    assert (secret.read_bytes(), stat.S_IMODE(secret.stat().st_mode)) == (b"secret", 0o644)


def test_a_hidden_file_that_was_removed_is_not_published(root: Path) -> None:
    hidden = HiddenFile(Place.of(root / "a"), KEY)
    hidden.open()
    hidden_of(root).unlink()
    with pytest.raises(UnwritableError):
        hidden.finish(PublishPolicy(), announce_nothing)
    hidden.discard()
    assert os.listdir(root) == []


@pytest.mark.parametrize("flags", [True, False])
def test_without_hard_links_what_appears_meanwhile_is_kept(
    root: Path, monkeypatch: pytest.MonkeyPatch, flags: bool
) -> None:
    no_links(monkeypatch)
    if not flags:
        no_flags(monkeypatch)

    def appears(imprint: Imprint) -> None:
        Path(imprint.output).write_bytes(b"theirs")

    with pytest.raises(OutputExistsError):
        publish(Place.of(root / "a"), KEY, PublishPolicy(), lambda file: None, appears)
    assert (root / "a").read_bytes() == b"theirs"
    assert os.listdir(root) == ["a"]


def test_discarding_while_it_is_finished_closes_at_the_end(root: Path) -> None:
    """The end of a job does not wait for a thread that syncs a long film."""
    hidden = HiddenFile(Place.of(root / "a"), KEY)
    hidden.open()

    def discards(_: Imprint) -> None:
        hidden.discard()
        assert os.listdir(root) == []

    with pytest.raises(UnwritableError):
        hidden.finish(PublishPolicy(), discards)
    with pytest.raises(AssertionError):
        _ = hidden.descriptor
