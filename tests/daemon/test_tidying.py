"""What is done once a job has ended, and what is left undone when the original is not the same any more.

Every step may be cut off by a crash and is then done again: the tests do part of it by hand first.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from invsr_daemon.daemon.intake import freeze
from invsr_daemon.daemon.tidying import copy_to, still_the_same, tidy, tidy_up
from invsr_daemon.errors import InUseError
from invsr_daemon.files.folders import Place
from invsr_daemon.settings.settings import Settings
from invsr_daemon.store.rows import JobRow, State
from tests.support.daemons import contents
from tests.support.identities import identity_at, replace_alike

NOW = Settings()


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    (tmp_path / "inbox").mkdir()
    return tmp_path / "inbox"


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A folder on another file system."""
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system to write to")
    with TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


def row(source: Path, state: State, **settings: Any) -> JobRow:
    """A job that ended, about a file as it is now."""
    return JobRow(
        source=source,
        relative=Path("sub") / source.name,
        identity=identity_at(source),
        kind="film",
        preset=None,
        priority=0,
        settings=freeze(Settings.model_validate(settings)),
        id=4,
        state=state,
        attempts=1,
        not_before=None,
        cancel_wanted=False,
        reason="it is no film" if state == "failed" else None,
        output=source.parents[1] / "outbox" / source.name,
        frames=3,
        frames_done=3,
        created=1.0,
        started=2.0,
        ended=4.5,
    )


def source_in(inbox: Path, name: str = "film.mp4") -> Path:
    (inbox / name).write_bytes(b"the original")
    return inbox / name


def change(source: Path) -> None:
    source.write_bytes(b"another one, longer")


def archiving(folder: Path) -> dict[str, Any]:
    return {"originals": {"after": "archive", "archive": str(folder)}}


def test_originals_are_kept_unless_asked(inbox: Path) -> None:
    source = source_in(inbox)
    tidy(row(source, "done"), NOW)
    assert contents(inbox.parent) == {"inbox/film.mp4": b"the original"}


def test_an_original_is_deleted(inbox: Path) -> None:
    tidy(row(source_in(inbox), "done", originals={"after": "delete"}), NOW)
    assert contents(inbox.parent) == {}


def test_an_original_is_archived_and_nothing_replaced(inbox: Path, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    for number, name in enumerate(["film.mp4", "film (2).mp4", "film (3).mp4"]):
        source = source_in(inbox)
        source.write_bytes(bytes([number]))
        tidy(row(source, "done", **archiving(archive)), NOW)
        assert contents(archive)[f"sub/{name}"] == bytes([number])
    assert contents(inbox) == {}


@pytest.mark.parametrize("after", ["archive", "delete"])
def test_a_changed_original_is_left_alone(inbox: Path, tmp_path: Path, after: str) -> None:
    source = source_in(inbox)
    ended = row(source, "done", originals={"after": after, "archive": str(tmp_path / "archive")})
    change(source)
    tidy(ended, NOW)
    assert contents(tmp_path) == {"inbox/film.mp4": b"another one, longer"}


@pytest.mark.parametrize("after", ["archive", "delete"])
def test_another_file_that_looks_the_same_is_left_alone(inbox: Path, tmp_path: Path, after: str) -> None:
    source = source_in(inbox)
    ended = row(source, "done", originals={"after": after, "archive": str(tmp_path / "archive")})
    replace_alike(source, b"another one!")
    tidy(ended, NOW)
    assert contents(tmp_path) == {"inbox/film.mp4": b"another one!"}


@pytest.mark.parametrize(
    ("state", "settings"),
    [
        ("done", {"originals": {"after": "delete"}}),
        ("done", {"originals": {"after": "archive", "archive": "/dev/shm/none"}}),
        ("failed", {"failures": {"move_to": "/dev/shm/none"}}),
    ],
    ids=["delete", "archive", "move"],
)
def test_an_original_that_someone_has_open_for_writing_stays(
    inbox: Path, state: State, settings: dict[str, Any]
) -> None:
    source = source_in(inbox)
    ended = row(source, state, **settings)
    with source.open("ab"), pytest.raises(InUseError, match="stays as long as someone has it open"):
        tidy(ended, NOW)
    assert contents(inbox) == {"film.mp4": b"the original"}
    assert not Path("/dev/shm/none").exists()


def test_an_original_goes_once_nobody_writes_to_it(inbox: Path) -> None:
    source = source_in(inbox)
    ended = row(source, "done", originals={"after": "delete"})
    with source.open("ab"), pytest.raises(InUseError):
        tidy_up(ended, NOW)
    with source.open("rb"):
        assert tidy_up(ended, NOW) is None
    assert contents(inbox) == {}


@pytest.mark.parametrize("state", ["done", "failed"])
def test_what_arrives_under_the_name_during_a_long_copy_stays(
    inbox: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch, state: State
) -> None:
    source, copy = source_in(inbox), shutil.copyfileobj

    def slow(*files: Any) -> None:
        copy(*files)
        (inbox / ".new").write_bytes(b"a newer film")
        (inbox / ".new").rename(source)

    monkeypatch.setattr(shutil, "copyfileobj", slow)
    tidy(row(source, state, **archiving(elsewhere), failures={"move_to": str(elsewhere), "note": False}), NOW)
    assert contents(inbox) == {"film.mp4": b"a newer film"}
    assert contents(elsewhere) == {"sub/film.mp4": b"the original"}


def test_cut_off_between_link_and_unlink(inbox: Path, tmp_path: Path) -> None:
    source = source_in(inbox)
    ended = row(source, "done", **archiving(tmp_path / "archive"))
    (tmp_path / "archive" / "sub").mkdir(parents=True)
    os.link(source, tmp_path / "archive" / "sub" / "film.mp4")
    tidy(ended, NOW)
    tidy(ended, NOW)
    assert contents(tmp_path) == {"archive/sub/film.mp4": b"the original"}


def test_an_archive_on_another_file_system(inbox: Path, elsewhere: Path) -> None:
    source = source_in(inbox)
    os.utime(source, ns=(10**18, 10**18 + 7))
    ended = row(source, "done", **archiving(elsewhere))
    tidy(ended, NOW)
    assert contents(elsewhere) == {"sub/film.mp4": b"the original"}
    assert (elsewhere / "sub/film.mp4").stat().st_mtime_ns == 10**18 + 7
    assert contents(inbox) == {}


def test_a_copy_gives_nobody_a_right_to_run_as_the_service(inbox: Path, elsewhere: Path) -> None:
    source = source_in(inbox)
    source.chmod(0o6755)
    tidy(row(source, "done", **archiving(elsewhere)), NOW)
    assert (elsewhere / "sub/film.mp4").stat().st_mode & 0o7777 == 0o755


@pytest.mark.parametrize("state", ["done", "failed"])
def test_a_folder_that_became_a_link_leads_to_no_other_file(
    tmp_path: Path, state: State, caplog: pytest.LogCaptureFixture
) -> None:
    """Even to the very same file."""
    (tmp_path / "inbox" / "sub").mkdir(parents=True)
    source = source_in(tmp_path / "inbox" / "sub")
    settings = {
        "originals": {"after": "delete"},
        "results": {"sidecar": True},
        "failures": {"move_to": str(tmp_path / "failed")},
    }
    ended = row(source, state, **settings)
    source.parent.rename(tmp_path / "elsewhere")
    source.parent.symlink_to(tmp_path / "elsewhere")
    assert not still_the_same(ended)
    tidy(ended, NOW)
    assert contents(tmp_path) == {"elsewhere/film.mp4": b"the original"}


def test_cut_off_between_copy_and_unlink(inbox: Path, elsewhere: Path) -> None:
    source = source_in(inbox)
    (elsewhere / "sub").mkdir()
    shutil.copy2(source, elsewhere / "sub" / "film.mp4")
    tidy(row(source, "done", **archiving(elsewhere)), NOW)
    assert contents(elsewhere) == {"sub/film.mp4": b"the original"}
    assert contents(inbox) == {}


def test_another_file_of_that_size_and_time_is_no_copy(inbox: Path, tmp_path: Path) -> None:
    source = source_in(inbox)
    target = tmp_path / "archive" / "film.mp4"
    target.parent.mkdir()
    target.write_bytes(b"THE ORIGINAL")
    shutil.copystat(source, target)
    with Place.of(source).opened() as descriptor:
        assert copy_to(descriptor, source, Place.of(target)).name == "film (2).mp4"


def test_what_failed_gets_a_note_beside_it(inbox: Path) -> None:
    tidy(row(source_in(inbox), "failed"), NOW)
    note = (inbox / "film.mp4.error.txt").read_text()
    assert note.startswith("film.mp4 could not be restored.\n\nit is no film\n")
    assert "`invsr-daemon retry 4` tries again" in note
    assert contents(inbox).keys() == {"film.mp4", "film.mp4.error.txt"}


def test_no_note_holds_what_steers_a_terminal(inbox: Path) -> None:
    source = source_in(inbox, "a\n\x1b[2J.mp4")
    ended = dataclasses.replace(row(source, "failed"), reason=f"{source} is no film")
    tidy(ended, NOW)
    note = (inbox / f"{source.name}.error.txt").read_text()
    assert note.startswith("a\\n\\x1b[2J.mp4 could not be restored.\n\n")
    assert note.count("\n") == 6
    assert "\x1b" not in note
    tidy(row(source, "done"), NOW)
    assert contents(inbox).keys() == {source.name}, "it is known for a note"


def test_no_note_if_not_asked(inbox: Path) -> None:
    tidy(row(source_in(inbox), "failed", failures={"note": False}), NOW)
    assert contents(inbox).keys() == {"film.mp4"}


def test_what_failed_is_laid_aside(inbox: Path, tmp_path: Path) -> None:
    source = source_in(inbox)
    tidy(row(source, "failed", failures={"move_to": str(tmp_path / "failed")}), NOW)
    assert contents(tmp_path).keys() == {"failed/sub/film.mp4", "failed/sub/film.mp4.error.txt"}
    assert f"once it is back at {source}" in (tmp_path / "failed/sub/film.mp4.error.txt").read_text()


@pytest.mark.parametrize("noted", [False, True])
def test_cut_off_while_it_is_laid_aside(inbox: Path, tmp_path: Path, noted: bool) -> None:
    source = source_in(inbox)
    folder = tmp_path / "failed" / "sub"
    folder.mkdir(parents=True)
    os.link(source, folder / "film.mp4")
    if noted:
        (folder / "film.mp4.error.txt").write_text("film.mp4 could not be restored.\n\nearlier\n")
    tidy(row(source, "failed", failures={"move_to": str(tmp_path / "failed")}), NOW)
    assert contents(tmp_path).keys() == {"failed/sub/film.mp4", "failed/sub/film.mp4.error.txt"}
    assert "it is no film" in (folder / "film.mp4.error.txt").read_text()


def test_a_changed_failure_is_left_alone(inbox: Path, tmp_path: Path) -> None:
    source = source_in(inbox)
    ended = row(source, "failed", failures={"move_to": str(tmp_path / "failed")})
    change(source)
    tidy(ended, NOW)
    assert contents(tmp_path).keys() == {"inbox/film.mp4"}


def test_a_note_goes_when_a_later_attempt_succeeds(inbox: Path) -> None:
    source = source_in(inbox)
    tidy(row(source, "failed"), NOW)
    assert len(contents(inbox)) == 2
    tidy(row(source, "done"), NOW)
    assert contents(inbox).keys() == {"film.mp4"}


def test_but_not_a_file_of_that_name_that_is_no_note(inbox: Path) -> None:
    source = source_in(inbox)
    (inbox / "film.mp4.error.txt").write_text("my own notes")
    tidy(row(source, "done"), NOW)
    assert contents(inbox)["film.mp4.error.txt"] == b"my own notes"


def test_a_sidecar_tells_what_was_done(inbox: Path, tmp_path: Path) -> None:
    source = source_in(inbox)
    settings = {"results": {"sidecar": True, "mode": "0600"}, "originals": {"after": "delete"}, "seed": 9}
    ended = dataclasses.replace(row(source, "done", **settings), reason="sound: left out")
    tidy(ended, NOW)
    path = tmp_path / "outbox" / "film.mp4.json"
    told = json.loads(path.read_text())
    assert told["source"]["size"] == len(b"the original")
    assert len(told["source"]["sha256"]) == 64
    assert (told["seed"], told["seconds"], told["notes"]) == (9, 2.5, ["sound: left out"])
    assert told["settings"]["results"]["sidecar"] is True
    assert path.stat().st_mode & 0o777 == 0o600
    before = path.read_bytes()
    tidy(ended, NOW)  # again, after a crash: the original is gone by now
    assert contents(tmp_path) == {"outbox/film.mp4.json": before}


def foreign(name: str, path: Path) -> None:
    """Something that a note or sidecar must not replace, as its name says."""
    if name == "fifo":
        os.mkfifo(path)
    elif name == "folder":
        path.mkdir()
    elif name == "link":
        path.symlink_to("nowhere")
    else:
        path.write_text(name)


FOREIGN = [
    "my own notes",
    '{"mine": true}',
    '{"result": "mine"}',
    "[1]",
    "[" * 10**5,
    "fifo",
    "link",
    "folder",
]


def unchanged(path: Path) -> tuple[int, ...]:
    """What of a file stays the same when it is only read: not its time of access."""
    found = path.lstat()
    return found.st_mode, found.st_ino, found.st_size, found.st_mtime_ns


@pytest.mark.parametrize("what", FOREIGN, ids=lambda what: what[:20])
def test_what_has_a_sidecars_or_a_notes_name_is_left_alone(
    inbox: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    (tmp_path / "outbox").mkdir()
    sidecar, note = tmp_path / "outbox" / "film.mp4.json", inbox / "film.mp4.error.txt"
    for path in (sidecar, note):
        foreign(what, path)
    before = [unchanged(path) for path in (sidecar, note)]
    source = source_in(inbox)
    for ended in (row(source, "failed"), row(source, "done", results={"sidecar": True})):
        assert tidy_up(ended, NOW) is None
    assert [unchanged(path) for path in (sidecar, note)] == before
    assert "film.mp4.json is not written: another file has that name" in caplog.text
    assert "film.mp4.error.txt is not written: another file has that name" in caplog.text
    assert list(tmp_path.rglob("*.part")) == []


def test_an_earlier_results_sidecar_is_replaced(inbox: Path, tmp_path: Path) -> None:
    ended = row(source_in(inbox), "done", results={"sidecar": True})
    tidy(ended, NOW)
    tidy(dataclasses.replace(ended, id=5), NOW)
    assert json.loads((tmp_path / "outbox" / "film.mp4.json").read_text())["job"] == 5


def test_no_sidecar_for_another_original(inbox: Path, tmp_path: Path) -> None:
    source = source_in(inbox)
    ended = row(source, "done", results={"sidecar": True})
    change(source)
    tidy(ended, NOW)
    assert contents(tmp_path).keys() == {"inbox/film.mp4"}


def test_a_name_that_is_no_text(inbox: Path, tmp_path: Path) -> None:
    source = source_in(inbox, os.fsdecode(b"caf\xe9\n.mp4"))
    tidy(row(source, "failed", failures={"move_to": str(tmp_path / "failed")}), NOW)
    note = source.name + ".error.txt"
    told = (tmp_path / "failed" / "sub" / note).read_text()
    assert told.startswith("caf\\udce9\\n.mp4 could not be restored.\n"), "no name breaks a line"


def test_what_cannot_be_done_is_told(inbox: Path, tmp_path: Path) -> None:
    source = source_in(inbox)
    (tmp_path / "file").touch()
    problem = tidy_up(row(source, "done", **archiving(tmp_path / "file" / "archive")), NOW)
    assert problem is not None
    assert os.strerror(errno.ENOTDIR) in problem
    assert source.exists()


def test_a_file_is_the_same_until_it_is_touched(inbox: Path) -> None:
    source = source_in(inbox)
    ended = row(source, "done")
    assert still_the_same(ended)
    os.utime(source, ns=(1, 1))
    assert not still_the_same(ended)
    source.unlink()
    assert not still_the_same(ended)
