"""Publishing is whole or nothing, and never over something unasked."""

from __future__ import annotations

import errno
import os
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from invsr_daemon.errors import OutputError, OutputExistsError, ResourceError
from invsr_daemon.files.folders import Place
from invsr_daemon.files.publishing import Collision, Imprint, PublishPolicy, check_free, names_for, publish

KEY = "0123456789abcdef0123456789abcdef"


def give(
    final: Path, content: bytes, collision: Collision = "fail", key: str = KEY, **policy: Any
) -> Imprint:
    place = Place.of(final)
    return publish(place, key, PublishPolicy(collision, **policy), lambda file: _filled(file, content))


def _filled(file: BinaryIO, content: bytes) -> None:
    file.write(content)


def hidden_in(folder: Path) -> Path:
    (found,) = folder.glob(".*.part")
    return found


def test_the_name_appears_only_when_all_is_written(tmp_path: Path) -> None:
    final = tmp_path / "film.mp4"

    def write(file: BinaryIO) -> None:
        file.write(b"who")
        file.flush()
        assert not final.exists()
        assert hidden_in(tmp_path).read_bytes() == b"who", "on the same file system, and hidden"
        file.write(b"le")

    publish(Place.of(final), KEY, PublishPolicy(), write)
    assert final.read_bytes() == b"whole"
    assert os.listdir(tmp_path) == ["film.mp4"]


def test_folders_are_made(tmp_path: Path) -> None:
    give(tmp_path / "a" / "b" / "film.mp4", b"whole")
    assert (tmp_path / "a" / "b" / "film.mp4").read_bytes() == b"whole"


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    def write(file: BinaryIO) -> None:
        file.write(b"part")
        raise RuntimeError("on the way")

    with pytest.raises(RuntimeError, match="on the way"):
        publish(Place.of(tmp_path / "f"), KEY, PublishPolicy("overwrite"), write)
    assert os.listdir(tmp_path) == []


def test_what_lies_there_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_bytes(b"older")
    with pytest.raises(OutputExistsError, match="already there"):
        give(tmp_path / "film.mp4", b"newer")
    assert (tmp_path / "film.mp4").read_bytes() == b"older"
    assert os.listdir(tmp_path) == ["film.mp4"]


def test_nor_is_what_appears_meanwhile(tmp_path: Path) -> None:
    final = tmp_path / "film.mp4"

    def write(file: BinaryIO) -> None:
        file.write(b"ours")
        final.write_bytes(b"theirs")

    with pytest.raises(OutputExistsError):
        publish(Place.of(final), KEY, PublishPolicy(), write)
    assert final.read_bytes() == b"theirs"
    assert os.listdir(tmp_path) == ["film.mp4"]


def test_a_dangling_link_has_the_name_too(tmp_path: Path) -> None:
    (tmp_path / "film.mp4").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputExistsError):
        give(tmp_path / "film.mp4", b"newer")
    with pytest.raises(OutputExistsError):
        check_free(Place.of(tmp_path / "film.mp4"), "fail")
    assert not (tmp_path / "elsewhere").exists()


def test_overwriting_on_request(tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_bytes(b"older")
    check_free(Place.of(tmp_path / "film.mp4"), "overwrite")
    give(tmp_path / "film.mp4", b"newer", "overwrite")
    assert (tmp_path / "film.mp4").read_bytes() == b"newer"
    assert os.listdir(tmp_path) == ["film.mp4"]


def test_overwriting_replaces_a_link_and_not_its_target(tmp_path: Path) -> None:
    (tmp_path / "original").write_bytes(b"original")
    (tmp_path / "film.mp4").symlink_to(tmp_path / "original")
    give(tmp_path / "film.mp4", b"newer", "overwrite")
    assert (tmp_path / "original").read_bytes() == b"original"
    assert not (tmp_path / "film.mp4").is_symlink()


def partial_name(final: Path, key: str) -> str:
    names = []

    def write(_: BinaryIO) -> None:
        names.append(hidden_in(final.parent).name)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        publish(Place.of(final), key, PublishPolicy(), write)
    return names[0]


def test_the_partial_name_depends_on_the_key_alone(tmp_path: Path) -> None:
    names = [partial_name(tmp_path / "film.mp4", KEY) for _ in range(2)]
    assert names[0] == names[1]
    assert partial_name(tmp_path / "film.mp4", "f" * 32) != names[0]


def test_litter_of_a_crash_is_taken_up(tmp_path: Path) -> None:
    final = tmp_path / "film.mp4"
    (tmp_path / partial_name(final, KEY)).write_bytes(b"a much longer litter of a run that was killed")
    give(final, b"whole")
    assert final.read_bytes() == b"whole"
    assert os.listdir(tmp_path) == ["film.mp4"]


@pytest.mark.parametrize("stem", ["x" * 251, "字" * 83, "🎬" * 62, os.fsdecode(b"\xff" * 250), "a\nb", "-rf"])
def test_names_as_long_as_they_may_be(tmp_path: Path, stem: str) -> None:
    give(tmp_path / f"{stem}.mp4", b"whole")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"whole"]


@pytest.mark.parametrize("folder", ["/proc/nowhere", "/proc"])
def test_a_folder_that_cannot_be_written_to(folder: str) -> None:
    with pytest.raises(OutputError, match="cannot be written to") as caught:
        give(Path(folder) / "film.mp4", b"whole")
    assert not isinstance(caught.value, OutputExistsError)


def test_a_folder_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="cannot be written to"):
        give(tmp_path / "file" / "film.mp4", b"whole")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def full(_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match="full") as caught:
        give(tmp_path / "film.mp4", b"whole")
    assert caught.value.retryable
    assert os.listdir(tmp_path) == []


def test_an_owner_that_may_not_be_set_is_not_blamed_on_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: object) -> None:  # root, as whom tests may run, is allowed it
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "fchown", forbidden)
    with pytest.raises(OutputError, match=r"results\.owner") as caught:
        give(tmp_path / "film.mp4", b"whole", owner=(0, 0))
    assert not caught.value.retryable
    assert os.listdir(tmp_path) == []


def test_without_hard_links_a_taken_name_is_still_respected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", unsupported)
    give(tmp_path / "film.mp4", b"whole")
    assert (tmp_path / "film.mp4").read_bytes() == b"whole"
    with pytest.raises(OutputExistsError):
        give(tmp_path / "film.mp4", b"newer")
    assert (tmp_path / "film.mp4").read_bytes() == b"whole"


def test_a_taken_name_gets_a_number_if_asked(tmp_path: Path) -> None:
    outputs = [give(tmp_path / "film.mp4", bytes([n]), "suffix", key=f"{n}" * 16).output for n in range(3)]
    assert [Path(output).name for output in outputs] == ["film.mp4", "film (2).mp4", "film (3).mp4"]
    assert [Path(output).read_bytes() for output in outputs] == [b"\0", b"\1", b"\2"]


def test_a_result_is_recognised_by_what_was_announced(tmp_path: Path) -> None:
    announced: list[Imprint] = []
    final = tmp_path / "film.mp4"
    final.write_bytes(b"older")

    def announce(imprint: Imprint) -> None:
        assert not imprint.lies_there(), "announced before the name is given"
        announced.append(imprint)

    policy = PublishPolicy("suffix")
    given = publish(Place.of(final), KEY, policy, lambda file: _filled(file, b"new"), announce)
    assert announced[-1] == given
    assert [imprint.lies_there() for imprint in announced] == [False, True]
    Path(given.output).unlink()
    assert not given.lies_there()
    Path(given.output).write_bytes(b"new")
    assert not given.lies_there(), "another file of that name and size"


def test_a_result_gets_its_mode_and_owner(tmp_path: Path) -> None:
    give(tmp_path / "film.mp4", b"whole", mode=0o640, owner=(-1, os.getgid()))
    found = (tmp_path / "film.mp4").stat()
    assert found.st_mode & 0o777 == 0o640
    assert found.st_gid == os.getgid()


@pytest.mark.parametrize("character", ["a", "é", "影"])
def test_numbers_find_room_in_long_names(character: str) -> None:
    stem = character * (251 // len(character.encode()))
    first, second, third = islice(names_for(Path(f"{stem}.mp4"), "suffix"), 3)
    assert first == f"{stem}.mp4"
    assert second.endswith(" (2).mp4")
    assert third.endswith(" (3).mp4")
    for name in (second, third):
        assert 250 < len(os.fsencode(name)) <= 255
        assert set(name[: -len(" (2).mp4")]) == {character}
