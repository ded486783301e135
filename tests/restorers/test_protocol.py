"""What every restorer must do: one test for all, and a second restorer beside InvSR to prove the seam."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from invsr_daemon.records import TemporalSettings
from invsr_daemon.restorers.film.pipeline import film_frames, restore_film
from invsr_daemon.restorers.film.restorer import FilmRestorer
from invsr_daemon.restorers.invsr.loading import load_parts
from invsr_daemon.restorers.invsr.model import InvSRNetworks
from invsr_daemon.restorers.noise import CanvasNoise
from invsr_daemon.restorers.options import Options
from invsr_daemon.restorers.protocol import Restorer
from invsr_daemon.restorers.tiled import PictureRestorer
from invsr_daemon.restorers.tiling import TilePlan, plan_tiles
from tests.conftest import DATA
from tests.support.bicubic import Bicubic
from tests.support.shots import crop, pan, photograph, still_shot

Make = Callable[[torch.dtype], Restorer]
CPU = torch.device("cpu")


def invsr(folder: Path) -> Make:
    return lambda dtype: InvSRNetworks(load_parts(folder, CPU, dtype), CPU, dtype)


EMBEDDED = Path(__file__).parents[2] / "invsr_daemon" / "hub" / "weights" / "default"
RESTORERS: dict[str, Make] = {
    "bicubic x2": lambda dtype: Bicubic(2, dtype),
    "bicubic x4": lambda dtype: Bicubic(4, dtype),
    "tiny InvSR": invsr(DATA / "tiny-random"),
    "embedded": invsr(EMBEDDED),
}
# By how much two ways to the same result may differ in float32: sums are taken in another order.
ROUNDING = 1e-3
# By how much half precision may differ from float32. The tiny model's weights are random.
COARSE = 0.25


@pytest.fixture(scope="module", params=RESTORERS)
def make(request: pytest.FixtureRequest) -> Make:
    return RESTORERS[request.param]


@pytest.fixture(scope="module")
def restorer(make: Make) -> Restorer:
    return make(torch.float32)


def picture(height: int, width: int, seed: int = 0) -> Tensor:
    """Smooth, in [0.2,0.8]: [1,3,height,width]."""
    coarse = torch.rand(1, 3, 5, 6, generator=torch.Generator().manual_seed(seed))
    return functional.interpolate(coarse, (height, width), mode="bilinear") * 0.6 + 0.2


def drawn(restorer: Restorer, plan: TilePlan) -> dict[str, Tensor]:
    (tile,) = plan.tiles
    return {draw.name: CanvasNoise(1).tile(draw, plan, tile)[None] for draw in restorer.draws}


@torch.inference_mode()
def test_a_tile_comes_out_as_its_scale_says(restorer: Restorer) -> None:
    side = restorer.tiling.tile
    plan = plan_tiles(side, side, restorer.tiling)
    output = restorer.restore_tiles(picture(side, side), drawn(restorer, plan), Options(), restorer.dtype)
    assert output.shape == (1, 3, side * restorer.scale, side * restorer.scale)
    assert output.dtype == torch.float32
    assert output.isfinite().all()


@pytest.mark.slow
@torch.inference_mode()
def test_every_tile_of_a_batch_is_as_if_alone(restorer: Restorer) -> None:
    side = restorer.tiling.tile
    plan = plan_tiles(side, side, restorer.tiling)
    tiles, draws = torch.cat([picture(side, side, seed) for seed in range(3)]), drawn(restorer, plan)
    tripled = {name: values.expand(3, -1, -1, -1) for name, values in draws.items()}
    together = restorer.restore_tiles(tiles, tripled, Options(), restorer.dtype)
    for tile, output in zip(tiles, together, strict=True):
        alone = restorer.restore_tiles(tile[None], draws, Options(), restorer.dtype)[0]
        assert torch.allclose(alone, output, atol=ROUNDING)


@pytest.mark.slow
def test_the_same_gives_the_same_bytes(restorer: Restorer) -> None:
    model, frames = PictureRestorer(restorer), picture(40, 56)
    first, second = (model.restore(frames, tile_batch=2) for _ in range(2))
    assert torch.equal(first, second)


def test_the_given_pictures_stay_as_they_are(restorer: Restorer) -> None:
    frames = picture(24, 24)
    before = frames.clone()
    PictureRestorer(restorer).restore(frames, color_fix="wavelet")
    assert torch.equal(frames, before)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(8, 8), (9, 13), (31, 8), (50, 67)])
def test_pictures_of_any_size(restorer: Restorer, size: tuple[int, int]) -> None:
    model = PictureRestorer(restorer)
    restored = model.restore(picture(*size))
    assert restored.shape == (1, 3, size[0] * model.scale, size[1] * model.scale)
    assert restored.isfinite().all()
    assert 0 <= restored.min() <= restored.max() <= 1
    assert model.restore(picture(*size), size=(33, 21)).shape == (1, 3, 33, 21)


@pytest.mark.slow
def test_each_precision_that_it_bears(make: Make) -> None:
    frames = picture(24, 32)
    exact = PictureRestorer(make(torch.float32)).restore(frames)
    for dtype in make(torch.float32).precisions:
        coarse = PictureRestorer(make(dtype)).restore(frames)
        assert coarse.isfinite().all()
        assert (coarse - exact).abs().mean() < COARSE


def test_a_precision_that_it_does_not_bear_is_refused() -> None:
    with pytest.raises(ValueError, match="float64"):
        PictureRestorer(Bicubic(2, torch.float64))


@pytest.mark.slow
def test_a_film_has_its_scale_and_its_frames(restorer: Restorer) -> None:
    frames = pan(4)
    height, width = frames[0].pixels.shape[-2:]
    film = FilmRestorer(PictureRestorer(restorer), Options(), seed=0, interval=4)
    results = list(film.restore(frames, range(1, 3)))
    assert [each.shape for each in results] == [(3, height * restorer.scale, width * restorer.scale)] * 2
    film = FilmRestorer(PictureRestorer(restorer), Options(), seed=0, interval=4)
    again = list(film.restore(frames, range(1, 3)))
    assert all(torch.equal(one, other) for one, other in zip(results, again, strict=True))


# The second restorer


@pytest.mark.parametrize("scale", [2, 4])
def test_tiles_join_to_what_the_whole_would_be(scale: int) -> None:
    """Off by what an enlargement sees beyond a tile's edge, where a tile weighs least."""
    frames = crop(photograph(), 120).float()[None] / 255
    restored = PictureRestorer(Bicubic(scale)).restore(frames)
    whole = functional.interpolate(frames, scale_factor=scale, mode="bicubic").clamp(0, 1)
    assert (restored - whole).abs().max() < 0.02
    assert (restored - whole).abs().mean() < 1e-4


@pytest.mark.parametrize("scale", [2, 4])
def test_colour_fixes_take_any_scale(scale: int) -> None:
    frames = crop(photograph(), 60).float()[None] / 255
    plain = PictureRestorer(Bicubic(scale)).restore(frames)
    fixed = PictureRestorer(Bicubic(scale)).restore(frames, color_fix="wavelet")
    assert (plain - fixed).abs().mean() < 0.01


@pytest.mark.parametrize("scale", [2, 4])
def test_what_stands_still_is_restored_at_anchors_alone(scale: int) -> None:
    counted = []
    for length in (1, 13):
        bicubic = Bicubic(scale)
        film = FilmRestorer(PictureRestorer(bicubic), Options(), seed=0)
        restored = list(film.restore(still_shot(length), range(length)))
        assert all(torch.equal(restored[0], each) for each in restored)
        counted.append(bicubic.tiles)
    assert counted[0] == counted[1] > 0


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("mode", ["off", "static", "full"])
def test_films_in_every_mode(scale: int, mode: Literal["off", "static", "full"]) -> None:
    shown = [(frame.pixels.permute(1, 2, 0)).numpy() for frame in pan(5)]
    temporal = TemporalSettings(mode, 4, 2.0)
    frames = film_frames(shown, 0, temporal)
    model = PictureRestorer(Bicubic(scale))
    results = list(restore_film(model, frames, range(5), Options(), temporal, seed=0))
    assert len(results) == 5
    for result, pixels in zip(results, shown, strict=True):
        frame = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
        whole = functional.interpolate(frame, scale_factor=scale, mode="bicubic").clamp(0, 1)
        assert (result - whole[0]).abs().mean() < 0.02
