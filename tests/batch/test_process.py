"""The command as people run it: real files, real worker processes, the embedded model."""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
import sys
import termios
import time
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from invsr_daemon.jobs.clock import Sighting
from tests.support.command import PATIENCE_SECONDS, Finished, Home
from tests.support.daemons import picture
from tests.support.processing import FRAMES, SETTINGS, listing, sound, times

pytestmark = pytest.mark.slow  # starts processes, or computes for long


def test_a_film_keeps_its_times_and_its_sound(home: Home, film: Path) -> None:
    finished = home.run("process", film, "-o", "out/", "-c", SETTINGS)
    assert finished.code == 0, finished.err
    result = home.path / "out" / "film.mp4"
    assert times(result) == times(film)
    assert sound(result) == sound(film)
    with av.open(str(result)) as container:
        assert (container.streams.video[0].width, container.streams.video[0].height) == (192, 128)
    assert listing(home.path / "out") == ["film.mp4"]
    assert home.chunks() == []


def test_a_place_that_takes_no_results_is_told_before_anything_is_computed(home: Home, film: Path) -> None:
    finished = home.run("process", film, "-o", "/proc/not-here/", "-c", SETTINGS, "--json")
    assert finished.code == 1
    assert "/proc/not-here cannot be written to" in finished.err
    assert finished.events("progress") == []
    (home.path / "file").touch()
    too_long = "long-" * 60 + ".mp4"
    for output in ("file/out/", f"out/{too_long}"):
        assert home.run("process", film, "-o", output, "--json").events("progress") == []
    assert listing(home.path / "out") == []


def test_bad_inputs_fail_alone_with_one_line_each(home: Home, film: Path) -> None:
    bad = home.path / "bad"
    bad.mkdir()
    (bad / "empty.mp4").touch()
    (bad / "text.mp4").write_text("This is no film.\n" * 100)
    (bad / "cut.mp4").write_bytes(film.read_bytes()[: film.stat().st_size // 2])
    (bad / "noise.png").write_bytes(bytes(range(256)) * 8)
    os.mkfifo(bad / "pipe.mp4")
    shutil.copy(film, bad / "vanishing.mp4")
    (bad / "vanishing.mp4").unlink()
    Image.new("RGB", (16, 16), "red").save(home.path / "good.png")
    names = ["empty.mp4", "text.mp4", "cut.mp4", "noise.png", "pipe.mp4", "vanishing.mp4"]
    finished = home.run("process", *(bad / name for name in names), "good.png", "-o", "out/")
    assert finished.code == 1
    assert "Traceback" not in finished.err
    for name in names:
        at_once, in_the_end = [line for line in finished.err.splitlines() if f"/{name}: " in line]
        assert at_once.startswith("invsr-daemon: ")
        assert in_the_end == at_once.replace("invsr-daemon: ", "failed: ")
    assert finished.err.splitlines()[-1] == "1 restored, 6 failed, 0 were there"
    assert listing(home.path / "out") == ["good.png"]


def test_a_name_cannot_steer_a_terminal(home: Home) -> None:
    (home.path / "\x1b[2J\n.png").write_text("no picture")
    finished = home.run("process", "\x1b[2J\n.png", "-o", "out/")
    assert finished.code == 1
    assert r"invsr-daemon: \x1b[2J\n.png: it is not a film or picture" in finished.err
    assert "\x1b" not in finished.err


def test_too_large_is_refused_before_anything_is_computed(home: Home) -> None:
    (home.path / "limits.yaml").write_text("limits: {max_input_pixels: 33000, max_output_pixels: 525000}\n")
    Image.new("RGB", (200, 200)).save(home.path / "input.png")
    Image.new("RGB", (183, 180)).save(home.path / "result.png")
    Image.new("RGB", (4100, 8)).save(home.path / "long.webp")
    inputs = ("input.png", "result.png", "long.webp")
    finished = home.run("process", *inputs, "-o", "out/", "-c", "limits.yaml")
    assert finished.code == 1
    assert "long.webp: the result of 16400x32 is too long for WEBP" in finished.err
    assert "limits.max_input_pixels" in finished.err
    assert "limits.max_output_pixels" in finished.err
    assert listing(home.path / "out") == []


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".bmp"])
def test_pictures_keep_their_format(home: Home, suffix: str) -> None:
    source = home.path / f"picture{suffix}"
    Image.fromarray(np.tile(np.arange(21, dtype=np.uint8)[:, None, None] * 10, (1, 33, 3))).save(source)
    finished = home.run("process", source)
    assert finished.code == 0, finished.err
    with Image.open(source) as before, Image.open(home.path / f"picture_restored{suffix}") as after:
        assert after.format == before.format
        assert after.size == (132, 84)
        assert abs(np.asarray(after).astype(int).mean() - np.asarray(before).astype(int).mean()) < 4


def test_folders_are_searched_and_mirrored(home: Home) -> None:
    for name in ("album/a.png", "album/deep/er/b.jpg", "album/.hidden/c.png", "album/notes.txt"):
        path = home.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".txt":
            path.write_text("not a picture")
        else:
            Image.new("RGB", (16, 12), "teal").save(path)
    finished = home.run("process", "album")
    assert finished.code == 0, finished.err
    assert listing(home.path / "album_restored") == ["a.png", "deep/er/b.jpg"]


@pytest.mark.parametrize(
    ("folder", "output", "results"),
    [
        ("album", ".", ["a.png"]),
        ("album", "album/out", ["album/out/a.png"]),
        (".", None, ["../{home}_restored/album/a.png"]),
        ("album/.", "out", ["out/a.png"]),
    ],
)
def test_results_of_a_folder_may_go_around_and_into_it(
    home: Home, folder: str, output: str | None, results: list[str]
) -> None:
    (home.path / "album").mkdir()
    Image.new("RGB", (16, 12), "teal").save(home.path / "album/a.png")
    finished = home.run("process", folder, *(("-o", output) if output else ()))
    assert finished.code == 0, finished.err
    for result in results:
        assert (home.path / result.format(home=home.path.name)).is_file()


def test_what_a_folder_holds_besides_is_counted(home: Home) -> None:
    (home.path / "album").mkdir()
    Image.new("RGB", (16, 12)).save(home.path / "album/a.png")
    for name in ("b.dpx", "c.DPX", "README", ".hidden"):
        (home.path / "album" / name).touch()
    (home.path / "album/link.png").symlink_to("a.png")
    finished = home.run("process", "album")
    assert "left out: 4 files (.dpx, no suffix, symbolic link)" in finished.err
    (begin,) = home.run("process", "album", "--json").events("begin")
    assert begin["left_out"] == {".dpx": 2, "no suffix": 1, "symbolic link": 1}


def test_a_full_disk_is_told_before_anything_is_computed(home: Home) -> None:
    (home.path / "config.yaml").write_text("limits: {min_free_space: 1000000TiB}\n")
    Image.new("RGB", (16, 12)).save(home.path / "a.png")
    finished = home.run("process", "a.png", "-c", "config.yaml")
    assert finished.code == 1
    assert "less than limits.min_free_space" in finished.err


def test_what_was_kept_and_not_used_for_long_is_removed(home: Home) -> None:
    Image.new("RGB", (16, 12)).save(home.path / "a.png")
    old, young = ("0" * 32, "1" * 32)
    for name in (old, young, "job-1"):
        (home.state / "work" / name).mkdir(parents=True)
    (home.state / "done").mkdir()
    for name in (old, young):
        (home.state / f"done/{name}.json").touch()
    then = time.time() - 91 * 86_400
    for path in (f"work/{old}", f"done/{old}.json", "work/job-1"):
        os.utime(home.state / path, (then, then))
    now = time.time()
    Sighting(now - 365 * 86_400, now - 365 * 86_400).write(home.state)
    finished = home.run("process", "a.png")
    assert finished.code == 0
    assert "nothing is forgotten until it has gone on for a day" in finished.err
    assert (home.state / "work" / old).exists(), "the clock may be a year ahead"
    Sighting(now, now).write(home.state)
    assert home.run("process", "a.png").code == 0
    assert {path.name for path in (home.state / "work").iterdir()} == {young, "job-1"}
    notes = {path.name for path in (home.state / "done").iterdir()}
    assert f"{old}.json" not in notes
    assert f"{young}.json" in notes


def test_nothing_is_overwritten_unasked(home: Home) -> None:
    Image.new("RGB", (16, 16), "red").save(home.path / "a.png")
    (home.path / "taken.png").write_text("mine")
    finished = home.run("process", "a.png", "-o", "taken.png")
    assert finished.code == 1
    assert "already there" in finished.err
    assert (home.path / "taken.png").read_text() == "mine"
    assert home.run("process", "a.png", "-o", "taken.png", "--overwrite").code == 0
    with Image.open(home.path / "taken.png") as image:
        assert image.size == (64, 64)


def test_results_of_one_command_do_not_replace_each_other(home: Home) -> None:
    """Not even if overwriting was asked for; and it is told before anything is computed."""
    for folder in ("one", "two"):
        (home.path / folder).mkdir()
        Image.new("RGB", (16, 16)).save(home.path / folder / "a.png")
    finished = home.run("process", "one/a.png", "two/a.png", "-o", "out", "--overwrite")
    assert finished.code == 2
    assert f"one/a.png and two/a.png would both become {home.path}/out/a.png" in finished.err
    assert not (home.path / "out").exists()


@pytest.mark.parametrize("name", ["a.png", "deep/../a.png", "link/a.png"])
def test_the_original_is_not_overwritten_even_if_asked(home: Home, name: str) -> None:
    source = home.path / "a.png"
    Image.new("RGB", (16, 16), "red").save(source)
    (home.path / "deep").mkdir()
    (home.path / "link").symlink_to(".")
    before = source.read_bytes()
    finished = home.run("process", "a.png", "-o", name, "--overwrite")
    assert finished.code == 1
    assert "is the original itself" in finished.err
    assert source.read_bytes() == before


def test_links_to_one_file_are_no_strangers_to_each_other(home: Home) -> None:
    """Symbolic links share the file's work folder: each waits for the one before."""
    picture(home.path / "a.png")
    (home.path / "hard.png").hardlink_to(home.path / "a.png")
    for name in ("one.png", "two.png"):
        (home.path / name).symlink_to("a.png")
    names = ["a.png", "hard.png", "one.png", "two.png"]
    finished = home.run("process", *names, "-o", "out/", "--device", "cpu", "--workers", "2", "--json")
    assert finished.code == 0, finished.err
    assert listing(home.path / "out") == names


@pytest.mark.parametrize("suffix", [".gif", ".mp4"])
def test_a_picture_becomes_a_picture(home: Home, suffix: str) -> None:
    Image.new("RGB", (16, 16), "red").save(home.path / "a.png")
    finished = home.run("process", "a.png", "-o", f"x{suffix}")
    assert finished.code == 2
    assert f"a.png: a picture cannot be written as {suffix}, only as .png" in finished.err


def test_a_state_folder_that_takes_no_note_is_not_taken_for_the_results(home: Home) -> None:
    Image.new("RGB", (16, 12)).save(home.path / "a.png")
    done = home.state / "done"
    done.parent.mkdir(parents=True)
    done.write_text("a file where a folder should be")
    finished = home.run("process", "a.png", "-o", "out/")
    assert finished.code == 1
    assert f"a.png: {done} cannot be written to: File exists" in finished.err
    assert listing(home.path / "out") == []


def test_the_same_command_again_finds_its_result(home: Home) -> None:
    Image.new("RGB", (16, 16), "red").save(home.path / "a.png")
    assert home.run("process", "a.png").code == 0
    before = (home.path / "a_restored.png").stat().st_mtime_ns
    again = home.run("process", "a.png", "--json")
    assert again.code == 0
    assert again.events("done")[0]["computed"] == 0
    assert (home.path / "a_restored.png").stat().st_mtime_ns == before


def test_any_setting_can_be_given(home: Home) -> None:
    """Above those of a file, and below an option of its own."""
    Image.new("RGB", (16, 16)).save(home.path / "a.png")
    (home.path / "own.yaml").write_text("image: {format: bmp, quality: 7}\nscale: 3\n")
    changes = ("--set", "image.format=jpeg", "--set", "scale=1")
    finished = home.run("process", "a.png", "-c", "own.yaml", *changes, "--scale", "2")
    assert finished.code == 0, finished.err
    with Image.open(home.path / "a_restored.jpg") as result:
        assert result.size == (32, 32)


def test_a_terminal_shows_a_bar(home: Home, film: Path) -> None:
    controller, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 100))
    with subprocess.Popen(
        [sys.executable, "-m", "invsr_daemon", "process", str(film), "-o", "out/"],
        cwd=home.path,
        env=home.environment(),
        stdout=terminal,
        stderr=terminal,
    ) as process:
        os.close(terminal)
        shown = b""
        while piece := _read(controller):
            shown += piece
    os.close(controller)
    assert process.returncode == 0, shown
    text = shown.decode()
    assert "model default on cpu" in text
    assert f"/{FRAMES}" in text
    assert "frame" in text
    assert "film.mp4 -> " in text.replace(str(film.parent) + "/", "")


def _read(controller: int) -> bytes:
    try:
        return os.read(controller, 4096)
    except OSError:  # the other side is closed
        return b""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--nonsense",), "--nonsense"),
        (("--timesteps", "50,100"), "descend"),
        (("--timesteps", "a"), "whole numbers"),
        (("--steps", "1", "--timesteps", "200"), "exclude"),
        (("--scale", "9"), "invsr-daemon: --scale: Input should be less than or equal to 4"),
        (("--device", "abacus"), "invsr-daemon: --device: 'abacus'"),
        (("--device", "cuda"), "CUDA"),
        (("--model", "no-such-model"), "no-such-model"),
        (("--model", "."), "holds no model: vae/config.json is missing"),
        (("--tile", "100"), "tile must be a multiple of 8"),
        (("--set", "video.crf"), "'video.crf' is not a setting's name and value such as video.crf=16"),
        (("--set", "video.crf=sharp"), "invsr-daemon: --set video.crf: Input should be"),
        (("--set", "video.krf=16"), "invsr-daemon: --set video.krf: there is no such setting"),
        (("-c", "missing.yaml"), "missing.yaml"),
        (("/",), "-o"),
        ((".", "-o", "."), "another folder than its own"),
    ],
)
def test_wrong_usage_ends_at_once(home: Home, arguments: tuple[str, ...], said: str) -> None:
    Image.new("RGB", (16, 16)).save(home.path / "a.png")
    finished = home.run("process", "a.png", *arguments)
    assert finished.code == 2
    assert said in finished.err
    assert "Traceback" not in finished.err
    assert not (home.path / "a_restored.png").exists()


def test_the_parent_never_imports_torch(home: Home) -> None:
    Image.new("RGB", (16, 16), "red").save(home.path / "a.png")
    script = (
        "import sys\n"
        "from invsr_daemon.cli.main import main\n"
        "try:\n    main(['process', 'a.png'])\n"
        "except SystemExit as end:\n    assert end.code == 0, end.code\n"
        "heavy = {'torch', 'diffusers', 'transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=home.path,
        env=home.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_help_needs_few_modules(home: Home) -> None:
    script = (
        "import sys\n"
        "from invsr_daemon.cli.main import main\n"
        "try:\n    main(['process', '--help'])\n"
        "except SystemExit:\n    pass\n"
        "heavy = {'torch', 'av', 'numpy', 'pydantic', 'PIL', 'yaml', 'asyncio'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--timesteps" in done.stdout


def test_events_for_scripts_tell_the_whole_story(home: Home, film: Path) -> None:
    shutil.copy(film, home.path / "film.mp4")
    finished: Finished = home.run("process", "film.mp4", "missing.mp4", "-o", "out/", "--json")
    assert finished.code == 1
    assert finished.events("begin")[0]["model"] == "default"
    (planned,) = finished.events("planned")
    assert (planned["path"], planned["frames"], planned["done"]) == ("film.mp4", FRAMES, 0)
    progress = finished.events("progress")
    assert {event["path"] for event in progress} == {"film.mp4"}
    assert [event["done"] for event in progress] == list(range(1, FRAMES + 1))
    assert {event["total"] for event in progress} == {FRAMES}
    (done,) = finished.events("done")
    assert done["path"] == "film.mp4"
    assert done["output"].endswith("out/film.mp4")
    assert (done["was_there"], done["computed"]) == (False, FRAMES)
    assert finished.events("failed")[0]["path"] == "missing.mp4"
    (summary,) = finished.events("summary")
    assert summary["failed"] == [
        {"path": "missing.mp4", "error": "InputError", "reason": "there is no such file"}
    ]
    assert (summary["restored"], summary["were_there"], summary["exit_code"]) == (1, 0, 1)


def test_events_that_nobody_reads_any_more_interrupt_and_the_work_goes_on_later(
    home: Home, film: Path
) -> None:
    """As with `process --json | head -1`."""
    command = ("process", film, "-o", "out/", "-c", SETTINGS, "--json")
    with home.start(*command) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert '"begin"' in process.stdout.readline()
        process.stdout.close()
        err = process.stderr.read()
        assert process.wait(PATIENCE_SECONDS) == 130
    assert err.splitlines()[0] == "stdout cannot be written to: Broken pipe"
    assert "Traceback" not in err
    assert listing(home.path / "out") == []
    assert home.run(*command).code == 0


@pytest.mark.parametrize("command", [("--help",), ("config", "show"), ("process", "a.png", "--json")])
def test_a_stdout_that_is_full_is_told_in_a_line(home: Home, command: tuple[str, ...]) -> None:
    picture(home.path / "a.png")
    with open("/dev/full", "w") as full:
        finished = subprocess.run(
            [sys.executable, "-m", "invsr_daemon", *command],
            cwd=home.path,
            env=home.environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert finished.returncode in (1, 130)
    assert "stdout cannot be written to: No space left on device" in finished.stderr
    assert "Traceback" not in finished.stderr
