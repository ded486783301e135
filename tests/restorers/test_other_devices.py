"""What is computed on a GPU: no tensor that stays in main memory is mixed with what lies on the device.

There need not be one: tensors pretend. They say that they are elsewhere, hold their values in main memory all
the same, and refuse to be computed with tensors that do not pretend.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from invsr_daemon import InvSR
from invsr_daemon.restorers.color_fix import ColorFix
from invsr_daemon.restorers.film.averaging import FilmFrame
from invsr_daemon.restorers.film.restorer import FilmRestorer
from invsr_daemon.restorers.invsr.model import InvSRNetworks
from invsr_daemon.restorers.options import Options
from tests.support.shots import crop, pan, photograph, still_shot, with_cut, with_object

pytestmark = pytest.mark.slow  # starts processes, or computes for long

DEVICE = torch.device("meta")  # the only other one that every build of torch knows
# These take tensors in main memory beside the device's own.
CROSSING = ("aten.copy_", "aten.to", "aten._to_copy")


class Pretending(Tensor):
    """A tensor that says it is on DEVICE."""

    held: Tensor

    @staticmethod
    def __new__(cls: type[Pretending], values: Tensor) -> Pretending:
        made: Pretending = Tensor._make_wrapper_subclass(
            cls,
            values.shape,
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device=DEVICE,
        )
        made.held = values
        return made

    # Neither is dispatched by torch.
    def tolist(self) -> Any:
        return self.held.tolist()

    def __getitem__(self, index: Any) -> Tensor:
        return super().__getitem__(Pretending(torch.tensor(index)) if isinstance(index, list) else index)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return computed(function, args, kwargs or {})


class Pretence(TorchDispatchMode):
    """What is made on DEVICE pretends, too."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return computed(function, args, kwargs or {})


def computed(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    name = str(function).rpartition(".")[0]
    given = tree_leaves((args, kwargs))
    tensors = [each for each in given if isinstance(each, Tensor)]
    away = [each for each in tensors if isinstance(each, Pretending)]
    if away and name not in CROSSING:
        here = [each for each in tensors if each.dim() and not isinstance(each, Pretending)]
        assert not here, f"{name} mixes devices"
    result = function(*tree_map(in_memory, args), **tree_map(in_memory, kwargs))
    if name.endswith("_") and not name.endswith("__"):
        return args[0]
    if "out" in kwargs:
        return kwargs["out"]
    devices = [each for each in given if isinstance(each, torch.device)]
    if str(function) == "aten.to.other":
        devices = [args[1].device]
    pretends = devices[0] == DEVICE if devices else bool(away)
    return (
        tree_map(lambda each: Pretending(each) if isinstance(each, Tensor) else each, result)
        if pretends
        else result
    )


def in_memory(value: Any) -> Any:
    if isinstance(value, Pretending):
        return value.held
    return torch.device("cpu") if isinstance(value, torch.device) else value


@pytest.fixture(scope="module")
def away() -> InvSR:
    """The embedded model on DEVICE."""
    near = InvSR.load("default")
    parts = near.restorer.parts
    for network in (parts.vae, parts.unet, parts.noise_predictor):
        for module in network.modules():
            tensors: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
            for named in tensors:
                named.update(
                    {name: Pretending(each.data) for name, each in named.items() if each is not None}
                )
    return InvSR(InvSRNetworks(parts, DEVICE, torch.float32))


FILMS: dict[str, Callable[[], Sequence[FilmFrame]]] = {
    "pan": lambda: pan(8),
    "object": lambda: with_object(still_shot(8)),
    "noise": lambda: still_shot(8, noise=2),
    "cut": lambda: with_cut(pan(8), 4),
}


@pytest.mark.parametrize("film", FILMS)
def test_films_stay_on_their_device(away: InvSR, film: str) -> None:
    frames = FILMS[film]()
    options = Options(tile_batch=2, color_fix="wavelet", size=(100, 130))

    def restored(model: InvSR) -> list[Tensor]:
        restorer = FilmRestorer(model, options, seed=3, interval=6, frame_batch=2)
        return list(restorer.restore(frames, range(len(frames))))

    expected = restored(InvSR.load("default"))
    with Pretence():
        found = restored(away)
    for one, other in zip(expected, found, strict=True):
        assert isinstance(other, Pretending)
        assert torch.equal(one, other.held)


@pytest.mark.parametrize("film", FILMS)
def test_films_are_put_together_in_main_memory_if_asked(away: InvSR, film: str) -> None:
    frames = FILMS[film]()
    options = Options(tile_batch=2, color_fix="wavelet", size=(100, 130))

    def restored(model: InvSR, options: Options) -> list[Tensor]:
        restorer = FilmRestorer(model, options, seed=3, interval=6)
        return list(restorer.restore(frames, range(len(frames))))

    expected = restored(InvSR.load("default"), options)
    with Pretence():
        found = restored(away, replace(options, canvas_device=torch.device("cpu")))
    for one, other in zip(expected, found, strict=True):
        assert not isinstance(other, Pretending)
        assert torch.equal(one, other)


@pytest.mark.parametrize("fix", ["none", "wavelet", "ycbcr"])
def test_pictures_stay_on_their_device(away: InvSR, fix: ColorFix) -> None:
    picture = crop(photograph(), 60).float()[None] / 255
    expected = InvSR.load("default").restore(picture, tile=32, color_fix=fix)
    with Pretence():
        found = away.restore(picture, tile=32, color_fix=fix)
    assert isinstance(found, Pretending)
    assert torch.equal(expected, found.held)
