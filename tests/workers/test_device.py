"""A worker's restorer: the precision it computes in, and what it does where memory is short."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from invsr_daemon.errors import ResourceError
from invsr_daemon.media.image import probe_image
from invsr_daemon.records import ImageSettings, ImageTask, ModelSettings, Precision, TemporalSettings
from invsr_daemon.restorers.film.pipeline import Pixels
from invsr_daemon.restorers.noise import CanvasNoise
from invsr_daemon.workers.device import DeviceRestorer, memory_share
from invsr_daemon.workers.restore import restore_image


def too_little_device_memory() -> None:
    raise torch.OutOfMemoryError("no memory left in this test")


def too_little_main_memory() -> None:
    torch.empty(2**55)


@contextmanager
def little_memory(
    network: nn.Module, largest_side: int, run_out: Callable[[], None] = too_little_device_memory
) -> Iterator[list[int]]:
    """The network runs out of memory above a side of its input; the sides that it was given."""
    sides: list[int] = []

    def check(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        sides.append(inputs[0].shape[-1])
        if inputs[0].shape[-1] > largest_side:
            run_out()

    hook = network.register_forward_pre_hook(check)
    try:
        yield sides
    finally:
        hook.remove()


def settings(model: Path) -> ModelSettings:
    temporal = TemporalSettings("full", 12, 2.0)
    return ModelSettings(str(model), (200,), 4.0, 0, 64, 1, 1, "none", 1.0, "fp32", temporal)


@pytest.fixture
def any_tile(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """The tiny model, as one that takes tiles of any size."""
    model = shutil.copytree(tiny_model_dir, tmp_path / "any-tile")
    own = {"tile": 128, "overlap": 32, "multiple": 16, "fill_tile": False}
    (model / "invsr.json").write_text(json.dumps(own))
    return model


@pytest.mark.slow
@pytest.mark.parametrize("run_out", [too_little_device_memory, too_little_main_memory])
def test_out_of_memory_means_smaller_tiles_to_the_end_of_a_task(
    any_tile: Path, caplog: pytest.LogCaptureFixture, run_out: Callable[[], None]
) -> None:
    restorer, asked = DeviceRestorer("cpu"), settings(any_tile)
    pixels: Pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    unet = restorer.model(asked).restorer.parts.unet
    with little_memory(unet, 16, run_out) as sides:  # latents of a tile of 32
        first = restorer.image(pixels, asked, (256, 256), lambda: None)
        assert sides[:2] == [32, 32], "first it tries again without garbage"
        assert set(sides[2:]) == {16}
        sides.clear()
        second = restorer.image(pixels, asked, (256, 256), lambda: None)
        assert set(sides) == {16}, "what did not fit is not tried again"
        sides.clear()
        assert list(restorer.notes) == ["the memory of cpu was short: made with tiles of 32"]
        restorer.begin()
        assert not restorer.notes
        restorer.image(pixels, asked, (256, 256), lambda: None)
        assert sides[0] == 32, "the next task has its own try"
    assert first.shape == (256, 256, 3)
    assert np.array_equal(first, second)
    assert caplog.messages == ["out of memory on cpu: going on with tiles of 32"] * 2


def test_a_model_that_is_bound_to_its_tile_never_gets_a_smaller_one(tiny_model_dir: Path) -> None:
    restorer, asked = DeviceRestorer("cpu"), settings(tiny_model_dir)
    pixels: Pixels = np.zeros((64, 64, 3), dtype=np.uint8)
    with (
        little_memory(restorer.model(asked).restorer.parts.unet, largest_side=16),
        pytest.raises(ResourceError, match="does not suffice for one tile"),
    ):
        restorer.image(pixels, asked, (256, 256), lambda: None)


def test_memory_that_was_short_for_a_moment_changes_nothing(
    any_tile: Path, caplog: pytest.LogCaptureFixture
) -> None:
    restorer, asked = DeviceRestorer("cpu"), settings(any_tile)
    pixels: Pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    expected = restorer.image(pixels, asked, (256, 256), lambda: None)
    short = iter([True])

    def for_a_moment() -> None:
        if next(short, False):
            too_little_device_memory()

    unet = restorer.model(asked).restorer.parts.unet
    with little_memory(unet, 0, for_a_moment):
        assert np.array_equal(restorer.image(pixels, asked, (256, 256), lambda: None), expected)
    assert not restorer.notes
    assert caplog.messages == []


def test_a_gpu_that_is_too_small_gives_up_canvases_before_tiles(
    tiny_model_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    restorer, asked = DeviceRestorer("cuda:0"), settings(tiny_model_dir)
    assert restorer._options(asked, (256, 256)).canvas_device is None
    for _ in range(2):  # the first time only garbage goes
        restorer.spare_memory(asked, MemoryError())
    options = restorer._options(asked, (256, 256))
    assert (options.canvas_device, options.tile) == (torch.device("cpu"), 64)
    assert caplog.messages == ["out of memory on cuda:0: going on with canvases in main memory"]
    assert list(restorer.notes) == ["the memory of cuda:0 was short: made with canvases in main memory"]


def test_fewer_tiles_at_once_are_told_of(any_tile: Path) -> None:
    restorer, asked = DeviceRestorer("cpu"), replace(settings(any_tile), tile=32)
    restorer.begin()
    model = restorer.model(asked)
    short = iter([True])

    def for_a_moment() -> None:
        if next(short, False):
            too_little_device_memory()

    options = replace(restorer._options(asked, (256, 256)), tile_batch=4)
    with little_memory(model.restorer.parts.unet, 0, for_a_moment):
        model.restored(torch.zeros(1, 3, 64, 64), [CanvasNoise(0)], options)
    assert list(restorer.notes) == ["the memory of cpu was short: made with fewer tiles at once"]
    restorer.begin()
    assert not restorer.notes


def test_signs_of_life_from_a_picture(tiny_model_dir: Path) -> None:
    signs: list[int] = []
    pixels: Pixels = np.zeros((64, 96, 3), dtype=np.uint8)
    DeviceRestorer("cpu").image(pixels, settings(tiny_model_dir), (384, 256), lambda: signs.append(1))
    assert len(signs) == 2


def test_no_memory_for_the_smallest_tile_is_a_failure_that_may_pass(tiny_model_dir: Path) -> None:
    restorer, asked = DeviceRestorer("cpu"), settings(tiny_model_dir)
    pixels: Pixels = np.zeros((64, 64, 3), dtype=np.uint8)
    with (
        little_memory(restorer.model(asked).restorer.parts.unet, largest_side=0),
        pytest.raises(ResourceError, match="does not suffice") as caught,
    ):
        restorer.image(pixels, asked, (256, 256), lambda: None)
    assert caught.value.retryable


@pytest.mark.parametrize(
    ("precision", "chosen"),
    [("fp32", torch.float32), ("fp16", torch.float16), ("bf16", torch.bfloat16)],
)
def test_a_worker_computes_in_the_precision_that_the_task_names(
    tiny_model_dir: Path, precision: Precision, chosen: torch.dtype
) -> None:
    model = DeviceRestorer("cpu").model(replace(settings(tiny_model_dir), precision=precision))
    assert model.dtype == chosen
    assert next(model.restorer.parts.unet.parameters()).dtype == chosen


@pytest.mark.parametrize("sharers", [2, 3, 8])
def test_workers_on_one_device_leave_room_for_each_other(sharers: int) -> None:
    card = 8 * 2**30
    left = card * (1 - sharers * memory_share(sharers))
    assert left >= 450 * 2**20, "the contexts lie there"


def test_what_nobody_sees_changes_nothing_of_what_is_seen(tiny_model_dir: Path, tmp_path: Path) -> None:
    """Two pictures that differ where they are fully transparent alone."""
    alpha = np.zeros((48, 64), np.uint8)
    alpha[12:36, 16:48] = 255
    colours = np.full((48, 64, 3), (250, 240, 60), np.uint8)
    results = []
    for unseen in (0, 255):
        colours[alpha == 0] = unseen
        source = tmp_path / f"{unseen}.png"
        Image.fromarray(np.dstack([colours, alpha])).save(source)
        found = probe_image(source, 10**6)
        assert found is not None
        task = ImageTask(
            found, settings(tiny_model_dir), ImageSettings("same", 95), tmp_path / f"{unseen}.out"
        )
        restore_image(task, DeviceRestorer("cpu"), lambda frames: None)
        results.append(Image.open(task.output).convert("RGB").tobytes())
    assert results[0] == results[1]
