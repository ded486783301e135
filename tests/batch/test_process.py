"""The command as people run it: real files, real worker processes, the embedded model."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import termios
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.packet import Packet
from PIL import Image

from tests.conftest import DATA
from tests.support.command import Finished, Home, wait_until

FRAMES = 40


@pytest.fixture
def home(tmp_path: Path) -> Home:
    (tmp_path / "small-chunks.yaml").write_text("video: {chunk_frames: 8, preset: ultrafast}\n")
    return Home(tmp_path)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48x32, VFR, B-frames, with sound."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    rng = np.random.default_rng(1)
    backdrop = rng.integers(0, 255, (32, 48 + FRAMES, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        video = container.add_stream(
            "libx264", rate=25, options={"bf": "2", "preset": "ultrafast", "g": "16"}
        )
        video.width, video.height, video.pix_fmt = 48, 32, "yuv420p"
        video.codec_context.time_base = Fraction(1, 1000)
        audio = container.add_stream("aac", rate=16000)
        audio.layout = "mono"
        for index in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(backdrop[:, index : index + 48]))
            frame.pts, frame.time_base = index * 40 + (index % 3) * 7, Fraction(1, 1000)
            container.mux(video.encode(frame))
        for start in range(0, 16000, 1024):
            tone = np.sin(np.arange(start, start + 1024) / 16000 * 2765).astype(np.float32)[None]
            sound = av.AudioFrame.from_ndarray(tone, "fltp", "mono")
            sound.rate, sound.pts = 16000, start
            container.mux(audio.encode(sound))
        container.mux(video.encode(None))
        container.mux(audio.encode(None))
    return path


def times(path: Path) -> list[Fraction]:
    with av.open(str(path)) as container:
        return [exact(frame) for frame in container.decode(video=0)]


def exact(timed: av.VideoFrame | Packet[Any]) -> Fraction:
    assert timed.pts is not None
    assert timed.time_base is not None
    return timed.pts * timed.time_base


def sound(path: Path) -> list[tuple[Fraction, bytes]]:
    with av.open(str(path)) as container:
        packets = container.demux(container.streams.audio[0])
        return [(exact(packet), bytes(packet)) for packet in packets if packet.size]


def listing(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_film_keeps_its_times_and_its_sound(home: Home, film: Path) -> None:
    finished = home.run("process", film, "-o", "out/", "-c", "small-chunks.yaml")
    assert finished.code == 0, finished.err
    result = home.path / "out" / "film.mp4"
    assert times(result) == times(film)
    assert sound(result) == sound(film)
    with av.open(str(result)) as container:
        assert (container.streams.video[0].width, container.streams.video[0].height) == (192, 128)
    assert listing(home.path / "out") == ["film.mp4"]
    assert home.chunks() == []


def test_two_workers_give_the_bytes_of_one(home: Home, film: Path) -> None:
    for name, workers in (("one", "1"), ("two", "2")):
        assert (
            home.run("process", film, "-o", f"{name}/", "--workers", workers, "-c", "small-chunks.yaml").code
            == 0
        )
    assert (home.path / "one/film.mp4").read_bytes() == (home.path / "two/film.mp4").read_bytes()


def test_after_kill_9_only_unfinished_chunks_are_computed(home: Home, film: Path) -> None:
    undisturbed = home.run("process", film, "-o", "undisturbed/", "-c", "small-chunks.yaml")
    assert undisturbed.code == 0, undisturbed.err
    command = ("process", film, "-o", "out/", "-c", "small-chunks.yaml", "--json")
    with home.start(*command) as process:
        wait_until(lambda: len(home.chunks()) >= 2, "two finished chunks")
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    finished_chunks = len(home.chunks())
    home.wait_for_children()
    assert listing(home.path / "out") == []

    resumed = home.run(*command)
    assert resumed.code == 0, resumed.err
    (done,) = resumed.events("done")
    assert done["frames"] == FRAMES
    assert done["computed"] == FRAMES - 8 * finished_chunks
    assert (home.path / "out/film.mp4").read_bytes() == (home.path / "undisturbed/film.mp4").read_bytes()


def test_a_killed_worker_is_replaced(home: Home, film: Path) -> None:
    with home.start("process", film, "-o", "out/", "-c", "small-chunks.yaml") as process:
        wait_until(lambda: len(home.chunks()) >= 1, "a finished chunk")
        for pid in home.workers():
            os.kill(pid, signal.SIGKILL)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "attempt 1 of 3: the worker on cpu was killed by SIGKILL" in err
    assert times(home.path / "out/film.mp4") == times(film)


def test_one_interrupt_stops_cleanly_and_the_same_command_resumes(home: Home, film: Path) -> None:
    command = ("process", film, "-o", "out/", "-c", "small-chunks.yaml", "--json")
    with home.start(*command) as process:
        wait_until(lambda: len(home.chunks()) >= 1, "a finished chunk")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "run the same command again" in err
    assert "Traceback" not in err
    events = [json.loads(line) for line in out.splitlines()]
    assert [event["event"] for event in events].count("interrupted") == 1
    summary = events[-1]
    assert (summary["event"], summary["unfinished"], summary["exit_code"]) == ("summary", 1, 130)
    before = 8 * len(home.chunks())
    resumed = home.run(*command)
    assert resumed.code == 0, resumed.err
    assert resumed.events("planned")[0]["done"] == before
    assert resumed.events("progress")[0]["done"] == before
    assert resumed.events("done")[0]["computed"] == FRAMES - before


def test_a_place_that_takes_no_results_is_told_before_anything_is_computed(home: Home, film: Path) -> None:
    finished = home.run("process", film, "-o", "/proc/not-here/", "-c", "small-chunks.yaml", "--json")
    assert finished.code == 1
    assert "/proc/not-here cannot be written to" in finished.err
    assert finished.events("progress") == []
    (home.path / "file").touch()
    too_long = "long-" * 60 + ".mp4"
    for output in ("file/out/", f"out/{too_long}"):
        assert home.run("process", film, "-o", output, "--json").events("progress") == []
    assert listing(home.path / "out") == []


def test_finished_chunks_serve_another_place(home: Home, film: Path) -> None:
    command = ("process", film, "-c", "small-chunks.yaml", "--json")
    with home.start(*command, "-o", "out/") as process:
        wait_until(lambda: len(home.chunks()) >= 1, "a finished chunk")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=120)
    left = len(home.chunks())
    resumed = home.run(*command, "-o", "elsewhere/")
    assert resumed.code == 0, resumed.err
    assert resumed.events("done")[0]["computed"] == FRAMES - 8 * left
    again = home.run(*command, "-o", "out/")
    assert again.events("done")[0]["computed"] == FRAMES, (
        "that the other place has it says nothing of this one"
    )
    for folder in ("out", "elsewhere"):
        assert home.run(*command, "-o", f"{folder}/").events("done")[0]["computed"] == 0


def test_a_result_that_is_there_costs_another_place_no_chunks(home: Home, film: Path) -> None:
    command = ("process", film, "-c", "small-chunks.yaml", "--json")
    assert home.run(*command, "-o", "out/").code == 0
    with home.start(*command, "-o", "elsewhere/") as process:
        wait_until(lambda: len(home.chunks()) >= 1, "a finished chunk")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=120)
    left = len(home.chunks())
    assert left
    assert home.run(*command, "-o", "out/").events("done")[0]["was_there"]
    assert len(home.chunks()) == left


def test_two_interrupts_stop_at_once(home: Home, film: Path) -> None:
    slow_model = DATA / "tiny-random"
    with home.start("process", film, "-o", "out/", "--model", slow_model, "--json") as process:
        assert process.stdout is not None
        while '"progress"' not in process.stdout.readline():
            pass
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert time.monotonic() - began < 8
    assert "Traceback" not in err
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


def test_seed_and_steps_decide_the_result(home: Home) -> None:
    pixels = np.random.default_rng(3).integers(0, 255, (24, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(home.path / "a.png")
    variants = {"first": (), "again": (), "seeded": ("--seed", "1"), "stepped": ("--timesteps", "200,100")}
    results = {}
    for name, options in variants.items():
        assert home.run("process", "a.png", "-o", f"{name}.png", *options).code == 0
        with Image.open(home.path / f"{name}.png") as image:
            results[name] = np.asarray(image).tobytes()
    assert results["first"] == results["again"]
    assert len(set(results.values())) == 3


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
