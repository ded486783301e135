"""InvSR as a whole, on a small random model in tiles of 32."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from invsr_daemon import InvSR
from invsr_daemon.errors import ModelError
from invsr_daemon.restorers import color_fix
from invsr_daemon.restorers.color_fix import ColorFix
from invsr_daemon.restorers.invsr.model import InvSRNetworks
from invsr_daemon.restorers.noise import CanvasNoise, ZeroNoise
from invsr_daemon.restorers.tiling import plan_tiles


def assert_close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


def pictures(height: int, width: int, batch: int = 1) -> Tensor:
    """Smooth waves and a little grain, different in every picture."""
    generator = torch.Generator().manual_seed(height * 1000 + width)
    rows = torch.linspace(0, 3, height)[:, None]
    columns = torch.linspace(0, 4, width)
    phases = 6 * torch.rand(batch, 3, 1, 1, generator=generator)
    grain = 0.1 * torch.rand(batch, 3, height, width, generator=generator)
    return (0.45 + 0.4 * torch.sin(rows + columns + phases) + grain).clamp(0, 1)


class Calls:
    """Batch sizes that each network was called with."""

    def __init__(self) -> None:
        self.batches: dict[str, list[int]] = {"encoder": [], "noise_predictor": [], "unet": [], "decoder": []}

    def tiles(self) -> dict[str, int]:
        return {name: sum(batches) for name, batches in self.batches.items()}


@contextmanager
def counted(model: InvSR) -> Iterator[Calls]:
    calls = Calls()
    parts = model.restorer.parts
    networks = {
        "encoder": parts.vae.encoder,
        "noise_predictor": parts.noise_predictor,
        "unet": parts.unet,
        "decoder": parts.vae.decoder,
    }

    def recorder(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, inputs: calls.batches[name].append(inputs[0].shape[0])

    hooks = [network.register_forward_pre_hook(recorder(name)) for name, network in networks.items()]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def little_memory(network: nn.Module, largest_batch: int) -> Iterator[None]:
    """The network runs out of memory above a batch size, as it would on a small device."""

    def check(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if inputs[0].shape[0] > largest_batch:
            raise torch.OutOfMemoryError("no memory left in this test")

    hook = network.register_forward_pre_hook(check)
    try:
        yield
    finally:
        hook.remove()


def unburdened(model: InvSR) -> InvSR:
    """The same networks, without what a model remembers of memory that did not suffice."""
    return InvSR(InvSRNetworks(model.restorer.parts, model.device, model.dtype))


@pytest.fixture
def model_copy(tiny_model_dir: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_model_dir, tmp_path / "model")


def change_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


# Shapes and values


@pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 33), (32, 32), (50, 71)])
def test_any_size_becomes_four_times_as_large(tiny_model: InvSR, height: int, width: int) -> None:
    restored = tiny_model.restore(pictures(height, width), tile=32)
    assert restored.shape == (1, 3, 4 * height, 4 * width)
    assert restored.dtype == torch.float32
    assert restored.min() >= 0
    assert restored.max() <= 1
    assert restored.std() > 0.05


@pytest.mark.slow
def test_the_models_own_tile_is_the_default(tiny_model: InvSR) -> None:
    sizes = []
    hook = tiny_model.restorer.parts.noise_predictor.register_forward_pre_hook(
        lambda _, inputs: sizes.append(tuple(inputs[0].shape[-2:]))
    )
    try:
        tiny_model.restore(pictures(20, 20))
    finally:
        hook.remove()
    assert tiny_model.tiling.tile == 128
    assert sizes == [(128, 128)], "small pictures are padded up to a tile"


@pytest.mark.parametrize("size", [(32, 48), (16, 24), (56, 84), (17, 31), (100, 200)])
def test_the_result_can_have_another_size(tiny_model: InvSR, size: tuple[int, int]) -> None:
    assert tiny_model.restore(pictures(16, 24), tile=32, size=size).shape[-2:] == size


def test_the_size_it_has_anyway_changes_nothing(tiny_model: InvSR) -> None:
    x = pictures(16, 24)
    assert torch.equal(tiny_model.restore(x, tile=32, size=(64, 96)), tiny_model.restore(x, tile=32))


def test_a_smaller_result_is_the_same_picture(tiny_model: InvSR) -> None:
    x = pictures(16, 24)
    full, small = tiny_model.restore(x, tile=32), tiny_model.restore(x, tile=32, size=(16, 24))
    assert (nn.functional.avg_pool2d(full, 4) - small).abs().mean() < 0.05


def test_half_precision_input_is_welcome(tiny_model: InvSR) -> None:
    x = pictures(16, 16).half()
    torch.testing.assert_close(tiny_model.restore(x, tile=32), tiny_model.restore(x.float(), tile=32))


def test_the_input_is_left_alone(tiny_model: InvSR) -> None:
    x = pictures(24, 40)
    before = x.clone()
    tiny_model.restore(x, tile=32, color_fix="wavelet")
    assert torch.equal(x, before)


def test_color_fixes_bring_the_colour_of_the_input(tiny_model: InvSR) -> None:
    x = pictures(24, 40)
    means = {fix: tiny_model.restore(x, tile=32, color_fix=fix).mean((-2, -1)) for fix in ("none", "wavelet")}
    wanted = x.mean((-2, -1))
    assert (means["wavelet"] - wanted).abs().max() < 0.5 * (means["none"] - wanted).abs().max()


@pytest.mark.parametrize(("name", "fix"), [("wavelet", color_fix.wavelet), ("ycbcr", color_fix.ycbcr)])
def test_a_color_fix_in_pieces_is_that_of_the_whole(
    tiny_model: InvSR, name: ColorFix, fix: Callable[[Tensor, Tensor], Tensor]
) -> None:
    x = pictures(24, 40, batch=2)
    bare = tiny_model.restore(x, tile=32)
    reference = nn.functional.interpolate(x, (96, 160), mode="bicubic", antialias=True)
    assert torch.equal(tiny_model.restore(x, tile=32, color_fix=name), fix(bare, reference).clamp(0, 1))


# Batches, seeds, guidance


def test_a_batch_equals_its_pictures_one_by_one(tiny_model: InvSR) -> None:
    x = pictures(24, 40, batch=3)
    together = tiny_model.restore(x, tile=32, color_fix="ycbcr")
    alone = torch.cat([tiny_model.restore(one[None], tile=32, color_fix="ycbcr") for one in x])
    assert_close(together, alone)


def test_equal_frames_get_equal_results(tiny_model: InvSR) -> None:
    one, other = tiny_model.restore(pictures(16, 16).repeat(2, 1, 1, 1), tile=32)
    assert_close(one, other)


def test_the_number_of_tiles_at_once_does_not_matter(tiny_model: InvSR) -> None:
    x = pictures(40, 56)
    one, eight = (tiny_model.restore(x, tile=32, tile_batch=batch) for batch in (1, 8))
    assert_close(one, eight)


def test_same_seed_same_bytes(tiny_model: InvSR) -> None:
    x = pictures(24, 40)
    one = tiny_model.restore(x, tile=32, noise=CanvasNoise(7))
    torch.randn(3)
    assert torch.equal(tiny_model.restore(x, tile=32, noise=CanvasNoise(7)), one)


def test_the_default_seed_is_zero(tiny_model: InvSR) -> None:
    x = pictures(16, 16)
    assert torch.equal(tiny_model.restore(x, tile=32), tiny_model.restore(x, tile=32, noise=CanvasNoise(0)))


def test_other_seeds_and_no_noise_differ(tiny_model: InvSR) -> None:
    x = pictures(16, 16)
    results = [
        tiny_model.restore(x, tile=32, noise=noise) for noise in (CanvasNoise(0), CanvasNoise(1), ZeroNoise())
    ]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert (results[i] - results[j]).abs().max() > 1e-3


def test_timesteps_matter(tiny_model: InvSR) -> None:
    x = pictures(16, 16)
    one, other = (tiny_model.restore(x, tile=32, timesteps=timesteps) for timesteps in ((200,), (100,)))
    assert (one - other).abs().max() > 1e-3


def test_guidance_doubles_the_calls_of_the_unet_and_changes_the_result(tiny_model: InvSR) -> None:
    x = pictures(16, 16)
    with counted(tiny_model) as plain:
        unguided = tiny_model.restore(x, tile=32, timesteps=(200, 100))
    with counted(tiny_model) as more:
        guided = tiny_model.restore(x, tile=32, timesteps=(200, 100), guidance_scale=2.0)
    assert plain.batches["unet"] == [1, 1]
    assert more.batches["unet"] == [1, 1, 1, 1]
    assert (guided - unguided).abs().max() > 1e-3


def test_guidance_leads_on_in_a_straight_line_away_from_the_negative_prompt(tiny_model: InvSR) -> None:
    latents: list[Tensor] = []
    hook = tiny_model.restorer.parts.vae.decoder.register_forward_pre_hook(
        lambda _, inputs: latents.append(inputs[0].clone())
    )
    try:
        for scale in (1.0, 2.0, 3.0):
            tiny_model.restore(pictures(16, 16), tile=32, guidance_scale=scale)
    finally:
        hook.remove()
    one, two, three = latents
    assert (two - one).abs().max() > 1e-2
    assert_close(three - two, two - one)


@pytest.mark.slow
@pytest.mark.parametrize("timesteps", [(200,), (200, 100, 50)])
@pytest.mark.parametrize("tile_batch", [1, 4])
def test_every_tile_is_computed_once(tiny_model: InvSR, timesteps: tuple[int, ...], tile_batch: int) -> None:
    x = pictures(40, 56, batch=2)
    tiles = 2 * len(plan_tiles(40, 56, tiny_model.tiling_for(32)).tiles)
    with counted(tiny_model) as calls:
        tiny_model.restore(x, tile=32, timesteps=timesteps, tile_batch=tile_batch)
    assert tiles == 12
    once = {"encoder": tiles, "noise_predictor": tiles, "decoder": tiles}
    assert calls.tiles() == {**once, "unet": tiles * len(timesteps)}
    assert calls.batches["decoder"] == [tile_batch] * (tiles // tile_batch)


def test_other_tiles_overlap_by_half_as_well(tiny_model: InvSR) -> None:
    """Also where half a tile is no multiple of the model's: the reference's stride is half a tile."""
    assert (tiny_model.tiling.multiple, tiny_model.tiling.tile) == (16, 128)
    assert [tiny_model.tiling_for(tile).overlap for tile in (32, 48, 80, 112)] == [16, 24, 40, 56]


# Arguments that do not fit


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        ((3, 16, 16), r"float \[B,3,H,W\]"),
        ((1, 4, 16, 16), r"float \[B,3,H,W\]"),
        ((1, 3, 1, 16), "at least 8 by 8"),
        ((1, 3, 16, 7), "at least 8 by 8"),
    ],
)
def test_pictures_of_wrong_shape_are_refused(tiny_model: InvSR, shape: tuple[int, ...], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        tiny_model.restore(torch.rand(shape), tile=32)


def test_bytes_are_refused(tiny_model: InvSR) -> None:
    with pytest.raises(ValueError, match=r"torch\.uint8"):
        tiny_model.restore(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"timesteps": ()}, "must descend"),
        ({"timesteps": (100, 200)}, "must descend"),
        ({"timesteps": (1001,)}, r"1000\.\.1"),
        ({"tile": 40}, "tile must be a multiple of 16 from 32 up, not 40"),
        ({"tile": 16}, "tile must be a multiple of 16 from 32 up, not 16"),
        ({"tile": 0}, "tile must be .* not 0"),
        ({"tile_batch": 0}, "tile_batch must be at least 1, not 0"),
        ({"color_fix": "sepia"}, "none, wavelet or ycbcr, not 'sepia'"),
        ({"size": (0, 64)}, "size must be"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_computed(
    tiny_model: InvSR, arguments: dict[str, Any], text: str
) -> None:
    with counted(tiny_model) as calls, pytest.raises(ValueError, match=text):
        tiny_model.restore(pictures(16, 16), **arguments)
    assert calls.tiles() == dict.fromkeys(calls.batches, 0)


# Kinds of models


def test_v_prediction_is_another_model(tiny_model: InvSR, model_copy: Path) -> None:
    change_json(model_copy / "scheduler" / "scheduler_config.json", prediction_type="v_prediction")
    x = pictures(16, 16)
    restored = InvSR.load(model_copy).restore(x, tile=32)
    assert restored.isfinite().all()
    assert (restored - tiny_model.restore(x, tile=32)).abs().max() > 1e-2


def test_a_model_states_its_own_tiling(model_copy: Path) -> None:
    (model_copy / "invsr.json").write_text(
        json.dumps({"tile": 48, "overlap": 16, "multiple": 16, "fill_tile": True})
    )
    model = InvSR.load(model_copy)
    assert (model.tiling.tile, model.tiling.overlap) == (48, 16)
    with counted(model) as calls:
        model.restore(pictures(48, 80))
    assert calls.tiles()["decoder"] == 2


def test_bfloat16_is_close_to_float32(tiny_model: InvSR, tiny_model_dir: Path) -> None:
    x = pictures(24, 40)
    rough = InvSR.load(tiny_model_dir, dtype=torch.bfloat16).restore(x, tile=32)
    assert rough.dtype == torch.float32
    error = (rough - tiny_model.restore(x, tile=32)).square().mean()
    assert 0 < error < 10 ** (-30 / 10), "at least 30 dB"


def overflowing(folder: Path) -> Path:
    """The decoder's first convolution gives values beyond float16; the norms behind it divide them away."""
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    state = load_file(path)
    for name in ("decoder.conv_in.weight", "decoder.conv_in.bias"):
        state[name] = state[name] * 1e5
        assert state[name].abs().max() < 65504
    save_file(state, path, metadata={"format": "pt"})
    return folder


def test_overflow_in_half_precision_is_computed_again_in_float32(
    model_copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = overflowing(model_copy)
    x = pictures(16, 16, batch=2)
    half = InvSR.load(folder, dtype=torch.float16)
    with counted(half) as calls:
        restored = half.restore(x, tile=32, tile_batch=1)
    assert calls.batches["decoder"] == [1] * 4, "each of two batches twice"
    assert caplog.messages == ["values beyond torch.float16: computing this batch in float32"] * 2
    assert restored.isfinite().all()
    error = (restored - InvSR.load(folder).restore(x, tile=32)).square().mean()
    assert error < 10 ** (-30 / 10)
    assert {p.dtype for p in half.restorer.parts.vae.parameters()} == {torch.float16}, "and back again"


def test_infinite_pixels_are_computed_again_and_not_white(tiny_model_dir: Path) -> None:
    half = InvSR.load(tiny_model_dir, dtype=torch.float16)
    vae = half.restorer.parts.vae

    def overflow(_: object, __: object, output: Tensor) -> Tensor:
        return output.fill_(torch.inf) if output.dtype == torch.float16 else output

    x = pictures(16, 16)
    with vae.decoder.conv_out.register_forward_hook(overflow), counted(half) as calls:
        restored = half.restore(x, tile=32)
    assert calls.batches["decoder"] == [1, 1]
    assert (restored - InvSR.load(tiny_model_dir).restore(x, tile=32)).abs().max() < 0.02


def test_half_precision_without_overflow_is_computed_once(tiny_model_dir: Path) -> None:
    half = InvSR.load(tiny_model_dir, dtype=torch.float16)
    with counted(half) as calls:
        half.restore(pictures(16, 16), tile=32)
    assert calls.batches["decoder"] == [1]


# Memory


@pytest.mark.slow
@pytest.mark.parametrize("network", ["vae.encoder", "unet", "vae.decoder", "noise_predictor"])
def test_too_little_memory_means_fewer_tiles_at_once_and_the_same_result(
    tiny_model: InvSR, network: str, caplog: pytest.LogCaptureFixture
) -> None:
    tiny_model = unburdened(tiny_model)
    x = pictures(40, 56, batch=2)
    expected = tiny_model.restore(x, tile=32, tile_batch=12)
    module: Any = tiny_model.restorer.parts
    for name in network.split("."):
        module = getattr(module, name)
    with little_memory(module, largest_batch=3), counted(tiny_model) as calls:
        restored = tiny_model.restore(x, tile=32, tile_batch=12)
    assert_close(restored, expected)
    assert calls.batches["decoder"][-4:] == [3, 3, 3, 3]
    assert [r.levelno for r in caplog.records] == [logging.WARNING] * 2
    assert caplog.messages[-1] == "out of memory on cpu: going on with 3 tiles at once"
    with counted(tiny_model) as calls:
        tiny_model.restore(x, tile=32, tile_batch=12)
    assert set(calls.batches["decoder"]) == {12}, "a picture does not depend on what was before it"


def test_no_memory_for_a_single_tile_is_an_error(tiny_model: InvSR) -> None:
    with little_memory(tiny_model.restorer.parts.unet, 0), pytest.raises(torch.OutOfMemoryError):
        tiny_model.restore(pictures(24, 40), tile=32, tile_batch=2)


def test_a_model_that_ran_out_of_memory_still_works(tiny_model: InvSR) -> None:
    x = pictures(24, 40)
    expected = tiny_model.restore(x, tile=32)
    with little_memory(tiny_model.restorer.parts.unet, 0), pytest.raises(torch.OutOfMemoryError):
        tiny_model.restore(x, tile=32)
    assert torch.equal(tiny_model.restore(x, tile=32), expected)


# Loading


def test_loading_says_nothing(
    tiny_model_dir: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    InvSR.load(tiny_model_dir)
    assert not caplog.messages
    assert capfd.readouterr() == ("", "")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def drop_tensor(path: Path) -> None:
    state = torch.load(path, weights_only=True)
    state.popitem()
    torch.save(state, path)


def pickle_weights(folder: Path) -> None:
    weights = folder / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "no vae": lambda folder: shutil.rmtree(folder / "vae"),
    "no unet": lambda folder: shutil.rmtree(folder / "unet"),
    "no scheduler": lambda folder: shutil.rmtree(folder / "scheduler"),
    "no weights": lambda folder: (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink(),
    "weights in a pickle": lambda folder: pickle_weights(folder / "vae"),
    "no noise predictor": lambda folder: (folder / "noise_predictor.pth").unlink(),
    "no text condition": lambda folder: (folder / "prompt_embeds.safetensors").unlink(),
    "truncated vae": lambda folder: truncate(folder / "vae" / "diffusion_pytorch_model.safetensors"),
    "truncated prompt": lambda folder: truncate(folder / "prompt_embeds.safetensors"),
    "truncated noise predictor": lambda folder: truncate(folder / "noise_predictor.pth"),
    "incomplete noise predictor": lambda folder: drop_tensor(folder / "noise_predictor.pth"),
    "unknown class": lambda folder: change_json(folder / "vae" / "config.json", _class_name="Magic"),
    "no JSON": lambda folder: (folder / "unet" / "config.json").write_text("{"),
    "no JSON object": lambda folder: (folder / "unet" / "config.json").write_text("[]"),
    "other predictor": lambda folder: change_json(
        folder / "noise_predictor_config.json", block_out_channels=[8, 8]
    ),
    "unknown predictor argument": lambda folder: change_json(folder / "noise_predictor_config.json", depth=3),
    "incomplete tiling": lambda folder: (folder / "invsr.json").write_text('{"tile": 128}'),
    "impossible tiling": lambda folder: (folder / "invsr.json").write_text(
        '{"tile": 100, "overlap": 0, "multiple": 16, "fill_tile": true}'
    ),
}


@pytest.mark.logs_errors  # where safetensors are missing, diffusers logs it before it raises
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_model_is_an_error_that_names_its_path(model_copy: Path, damage: str) -> None:
    InvSR.load(model_copy)
    DAMAGES[damage](model_copy)
    with pytest.raises(ModelError) as raised:
        InvSR.load(model_copy)
    assert str(model_copy) in str(raised.value)


def test_an_unknown_class_is_named(model_copy: Path) -> None:
    DAMAGES["unknown class"](model_copy)
    with pytest.raises(ModelError, match="'Magic'"):
        InvSR.load(model_copy)


def test_a_missing_directory_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nowhere"):
        InvSR.load(tmp_path / "nowhere")
