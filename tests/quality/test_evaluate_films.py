"""`invsr-daemon evaluate --video` on small films, with filters and the tiny model."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from skimage import data

from invsr_daemon import InvSR
from invsr_daemon.cli.main import main
from invsr_daemon.errors import ConfigError, InputError
from invsr_daemon.quality.evaluate_films import parsed_size, watch
from invsr_daemon.quality.film_methods import EachFrame, VideoSpec, open_video_methods, parse_video_methods
from invsr_daemon.quality.picture_methods import MethodSpec, Resampling
from invsr_daemon.quality.plot import FINE, HEIGHT, INK, LEGEND, WIDTH, Curve, Panel, draw_panels
from invsr_daemon.quality.samples.clips import Pixels
from invsr_daemon.quality.samples.films import Filmed, estimated_motion
from invsr_daemon.quality.samples.generated import Studio, generated
from invsr_daemon.quality.tiles import TileCounter, Tiles, Work
from invsr_daemon.settings.settings import Settings

SIZE = (64, 96)
SMALL = ("--size", "96x64", "--frames", 6, "--chunk-frames", 4)
PHOTOGRAPHS = tuple(getattr(data, name)()[:200, :300] for name in ("astronaut", "coffee"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    photographs = tmp_path / "sharp"
    photographs.mkdir()
    for number, picture in enumerate(PHOTOGRAPHS):
        Image.fromarray(picture).save(photographs / f"{number}.png")
    return photographs


def film_of(path: Path, frames: Iterable[Pixels]) -> Path:
    with av.open(path, "w") as container:
        stream = container.add_stream("ffv1", rate=Fraction(25))
        stream.pix_fmt = "bgr0"
        for number, pixels in enumerate(frames):
            if not number:
                stream.height, stream.width = pixels.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24")))
        container.mux(stream.encode())
    return path


def moving(frames: int, step: int = 3) -> list[Pixels]:
    return [data.astronaut()[100:164, 100 + step * t : 196 + step * t] for t in range(frames)]


def run(*words: object) -> Result:
    return CliRunner().invoke(main, ["evaluate", "--video", *map(str, words)])


def measured(*words: object, into: Path) -> dict[str, Any]:
    result = run(*words, "--json", into)
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(into.read_text(encoding="utf-8"))
    return found


def test_table_json_and_plot(folder: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    spec = f"{tiny_model_dir}:tile=32:temporal=off:color=none"
    plot, out = tmp_path / "plot.png", tmp_path / "out.json"
    given = ("--clips", "static,pan", *SMALL, "--methods", f"bicubic,{spec},truth")
    result = run(folder, *given, "--json", out, "--plot", plot)
    assert result.exit_code == 0, result.output

    report = json.loads(out.read_text())
    assert [film["name"] for film in report["films"]] == ["static", "pan"]
    assert report["methods"][1]["temporal"] == "off"
    static, pan = report["films"]
    assert (static["size"], static["frames"], static["chunk_starts"]) == ([64, 96], 6, [0, 4])
    assert list(static["scores"]) == ["bicubic", spec, "truth"]
    bicubic, tiny, truth = static["scores"].values()
    assert bicubic["values"]["std"] == truth["values"]["std"] == truth["values"]["E_warp"] == 0
    assert tiny["values"]["std"] > 0
    assert tiny["values"]["E_warp"] > 0
    assert (truth["values"]["PSNR"], truth["values"]["SSIM"]) == (None, pytest.approx(1))
    assert bicubic["changes"] == [None, 0, 0, 0, 0, 0]
    assert list(bicubic["seams"]) == ["4"]
    assert pan["scores"]["truth"]["values"]["std"] is None
    assert 0 < pan["scores"]["truth"]["values"]["E_warp"] < pan["scores"]["bicubic"]["values"]["E_warp"]
    assert bicubic["tiles"] is truth["tiles"] is None
    works = tiny["tiles"]
    assert {work["tiles"] for work in works.values()} == {works["unet"]["tiles"]}
    assert works["unet"]["tiles"] % 6 == 0

    lines = result.stdout.splitlines()
    assert lines[0] == "2 films; chunks of 4 frames; seed 0; cpu"
    assert len({len(line) for line in lines[2:]}) == 1
    assert [line.split("|")[2].strip() for line in lines[4:]] == ["bicubic", spec, "truth"] * 2
    with Image.open(plot) as picture:
        assert picture.size == (2 * WIDTH // FINE, (LEGEND + HEIGHT) // FINE)


@pytest.mark.slow
def test_the_same_command_gives_the_same_numbers(folder: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    given = (folder, "--clips", "object", *SMALL, "--methods", f"{tiny_model_dir}:tile=32:temporal=off")

    def numbers(name: str, *more: object) -> list[Any]:
        films = measured(*given, *more, into=tmp_path / name)["films"]
        for score in films[0]["scores"].values():
            del score["seconds"]
        return list(films)

    first = numbers("1.json")
    assert numbers("2.json") == first
    assert numbers("3.json", "--seed", 1) != first


def test_noise_of_its_own_or_the_same_for_all(folder: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    methods = ",".join(f"{tiny_model_dir}:tile=32:temporal={mode}" for mode in ("off", "static"))
    report = measured(folder, "--clips", "static", *SMALL, "--methods", methods, into=tmp_path / "out.json")
    off, static, _ = report["films"][0]["scores"].values()
    assert off["values"]["E_warp"] > 0
    assert static["values"]["E_warp"] == static["values"]["std"] == 0


@pytest.mark.slow
def test_a_phase_begins_anchors_and_chunks_at_other_frames(tiny_model_dir: Path) -> None:
    texts = [f"{tiny_model_dir}:tile=32:temporal=full{phase}" for phase in ("", ":phase=4")]
    settings = Settings()
    methods = open_video_methods(
        parse_video_methods(",".join(texts), settings), settings, torch.device("cpu")
    )
    (clip,) = generated(["static-noise"], Studio(PHOTOGRAPHS, SIZE, frames=16))
    own, moved, _ = watch(clip, methods, chunk_frames=15).scores.values()
    assert [method.anchors for method in methods] == [(12,), (8,)]
    assert list(own.seams) == [12, 15]
    assert list(moved.seams) == [8, 15]
    assert own.changes[0] is moved.changes[0] is None
    assert own.changes[9:] != moved.changes[9:]


def test_a_real_film(tmp_path: Path) -> None:
    """Motion by 3 pixels a frame, a cut, and a crop that is no multiple of four."""
    film = film_of(tmp_path / "film.mkv", [*moving(4), *(frame[:, ::-1] for frame in moving(3, step=0))])
    report = measured(film, "--methods", "bicubic", "--crop", 91, into=tmp_path / "out.json")
    (found,) = report["films"]
    assert (found["name"], found["size"], found["frames"]) == ("film.mkv", [64, 88], 7)
    score = found["scores"]["bicubic"]
    assert [change is None for change in score["changes"]] == [t in (0, 4) for t in range(7)]
    assert score["values"]["std"] is None
    assert found["scores"]["truth"]["values"]["E_warp"] < 5
    assert score["changes"][5:] == [0, 0]


def test_estimated_motion_is_right_where_it_is_trusted() -> None:
    earlier, later = moving(2)
    motion = estimated_motion(np.ascontiguousarray(earlier), np.ascontiguousarray(later))
    assert motion is not None
    assert motion.forward.valid.float().mean() > 0.8
    assert not motion.forward.valid[:, :3].any()  # gone from the frame
    apart = motion.forward.vectors - torch.tensor([-3.0, 0.0]).view(2, 1, 1)
    assert apart.norm(dim=0)[motion.forward.valid].mean() < 0.2
    assert estimated_motion(np.ascontiguousarray(earlier), np.ascontiguousarray(later[::-1, ::-1])) is None


def test_a_bad_film_is_named(tmp_path: Path) -> None:
    small = film_of(tmp_path / "small.mkv", [np.zeros((24, 48, 3), np.uint8)] * 2)
    with pytest.raises(InputError, match=r"small\.mkv: 48x24 pixels are too few"):
        Filmed.open(small, "small", 2, None, 10**6)
    result = run(small, "--methods", "bicubic")
    assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1)


class LookingAhead:
    """Gives nothing before it has seen `ahead` frames more; remembers how many it held, and when."""

    def __init__(self, ahead: int) -> None:
        self.spec = VideoSpec("ahead", MethodSpec("bicubic", "bicubic"))
        self.fingerprint = None
        self.tiles: Tiles | None = None
        self.anchors = (5,)
        self.starts: Sequence[int] = ()
        self._ahead = ahead

    def restore(self, frames: Iterable[Pixels], chunk_starts: Sequence[int]) -> Iterator[Pixels]:
        self.starts = chunk_starts
        held: list[Pixels] = []
        for frame in frames:
            held.append(frame)
            if len(held) > self._ahead:
                yield held.pop(0).repeat(4, 0).repeat(4, 1)
        yield from (frame.repeat(4, 0).repeat(4, 1) for frame in held)


def test_a_method_may_look_ahead() -> None:
    (clip,) = generated(["pan"], Studio(PHOTOGRAPHS, SIZE, frames=7))
    waiting, at_once = LookingAhead(4), LookingAhead(0)
    first, second = (watch(clip, [method], chunk_frames=3).scores["ahead"] for method in (waiting, at_once))
    assert first.values == second.values
    assert list(first.seams) == [3, 5, 6]
    assert waiting.starts == (0, 3, 6)


def test_a_method_that_loses_a_frame_is_found_out() -> None:
    class Losing(LookingAhead):
        def restore(self, frames: Iterable[Pixels], chunk_starts: Sequence[int]) -> Iterator[Pixels]:
            yield from list(super().restore(frames, chunk_starts))[1:]

    (clip,) = generated(["pan"], Studio(PHOTOGRAPHS, SIZE, frames=3))
    with pytest.raises(ValueError, match="shorter"):
        watch(clip, [Losing(0)], chunk_frames=3)


@pytest.mark.slow
def test_tiles_are_counted_where_they_are_computed(tiny_model: InvSR) -> None:
    counter = TileCounter(tiny_model)
    frames = torch.rand(2, 3, 40, 56, generator=torch.Generator().manual_seed(0))
    with counter.counting():
        tiny_model.restore(frames, timesteps=(200, 100), tile=32)
    tiles = counter.counted
    tiny_model.restore(frames, tile=32)
    assert counter.counted is tiles  # not counting any more
    assert tiles.vae_encode == tiles.vae_decode == tiles.noise_predictor
    assert tiles.unet == tiles.vae_decode + tiles.vae_decode  # two steps
    assert tiles.noise_predictor.tiles >= 2 * 4
    assert tiles.noise_predictor.pixels == tiles.noise_predictor.tiles * 32 * 32


def test_work_adds_up() -> None:
    one, two = Tiles(unet=Work(1, 100)), Tiles(unet=Work(2, 50), vae_decode=Work(3, 9))
    assert one + two == Tiles(unet=Work(3, 150), vae_decode=Work(3, 9))
    assert (one + two) - two == one


def test_methods_that_share_a_model_are_counted_apart(folder: Path, tiny_model_dir: Path) -> None:
    text = f"{tiny_model_dir}:tile=32:temporal=off,{tiny_model_dir}:tile=32:timesteps=200,100:temporal=off"
    settings = Settings()
    methods = open_video_methods(parse_video_methods(text, settings), settings, torch.device("cpu"))
    (clip,) = generated(["static"], Studio(PHOTOGRAPHS, SIZE, frames=3))
    once, twice, _ = watch(clip, methods, chunk_frames=3).scores.values()
    assert once.tiles is not None
    assert twice.tiles is not None
    assert once.tiles.vae_decode == twice.tiles.vae_decode
    assert twice.tiles.unet.tiles == 2 * once.tiles.unet.tiles


def test_the_grammar_of_methods() -> None:
    specs = parse_video_methods("bicubic,truth,m:start=100:temporal=static:tile=64:phase=3,m", Settings())
    assert [(spec.label, spec.temporal and spec.temporal.mode) for spec in specs] == [
        ("bicubic", None),
        ("m:start=100:temporal=static:tile=64:phase=3", "static"),
        ("m", "full"),
    ]
    assert specs[1].picture.timesteps == (100,)
    assert specs[1].picture.tile == 64
    assert specs[1].settings()["temporal"] == "static"
    assert [spec.phase for spec in specs] == [0, 3, 0]
    assert specs[0].settings() == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--clips", "static,pna"), "there is no clip 'pna'"),
        (("--size", "96"), "--size must be WIDTHxHEIGHT in multiples of 4"),
        (("--size", "98x64"), "--size must be WIDTHxHEIGHT in multiples of 4"),
        (("--size", "16x64"), "--size must be at least 32x32"),
        (("--frames", 0), "--frames must be at least 1"),
        (("--chunk-frames", 0), "--chunk-frames must be at least 1"),
        (("--methods", "truth"), "no method was given"),
        (("--methods", "bicubic,bicubic"), "given twice"),
        (("--methods", "default:temporal=perhaps"), "temporal must be one of off"),
        (("--methods", "bicubic:temporal=off"), "bicubic has no options"),
        (("--methods", "default:phase=-1"), "phase must be a number of frames, not '-1'"),
        (("--methods", "default:speed=9"), "there is no option 'speed'"),
        (("--plot", "nowhere/plot.png"), "there is no folder"),
        (("--sheet", "sheet.png"), "--sheet does not go with --video"),
        (("--degradation", "noise"), "--degradation does not go with --video"),
        (("--limit", 3), "--limit does not go with --video"),
    ],
)
def test_wrong_options_are_one_line(folder: Path, options: tuple[object, ...], message: str) -> None:
    result = run(folder, *options)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert message in line


def test_options_for_films_need_films(folder: Path) -> None:
    result = CliRunner().invoke(main, ["evaluate", str(folder), "--chunk-frames", "9"])
    assert (result.exit_code, result.stderr.strip()) == (
        2,
        "invsr-daemon: --chunk-frames goes with --video only",
    )


def test_films_alone_need_no_photograph_and_no_clip_leaves_the_films(folder: Path, tmp_path: Path) -> None:
    film_of(folder / "film.mkv", moving(2))
    report = measured(folder, "--methods", "bicubic", "--clips", "", into=tmp_path / "out.json")
    assert [film["name"] for film in report["films"]] == ["film.mkv"]
    (folder / "film.mkv").unlink()
    result = run(folder, "--methods", "bicubic", "--clips", "")
    assert (result.exit_code, result.stderr.strip()) == (2, "invsr-daemon: there is no film to measure")


def test_sizes_are_read() -> None:
    assert parsed_size("512x384") == (384, 512)
    with pytest.raises(ConfigError, match="--size"):
        parsed_size("wide")


def test_curves_are_where_their_values_are() -> None:
    """The truth's at half the height of the scale, with a gap: ink in the middle, none in the gap."""
    values = (None, *[0.5] * 4, None, *[0.5] * 4, 1.0)
    picture = Image.open(io.BytesIO(draw_panels([Panel("title", (Curve("truth", values),), marks=(3,))])))
    assert picture.size == (WIDTH // FINE, (LEGEND + HEIGHT) // FINE)
    pixels = np.asarray(picture.convert("RGB")).astype(int)
    ink = np.abs(pixels - np.array([int(INK[i : i + 2], 16) for i in (1, 3, 5)])).sum(-1) < 150
    middle = (LEGEND + (30 + 260 - 40) * FINE // 2) // FINE
    left, right = 56, 640 - 14

    def at(frame: float) -> bool:
        column = round(left + (right - left) * frame / 10)
        return bool(ink[middle - 2 : middle + 3, column].any())

    assert at(2.5)
    assert not at(5)
    assert at(7.5)


def test_filters_work_on_each_frame() -> None:
    spec = MethodSpec("bicubic", "bicubic")
    frames = [picture[:16, :24] for picture in PHOTOGRAPHS]
    found = list(EachFrame(VideoSpec("bicubic", spec), Resampling(spec)).restore(frames, (0,)))
    for frame, one in zip(frames, found, strict=True):
        expected = Image.fromarray(frame).resize((96, 64), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(one, np.asarray(expected))
