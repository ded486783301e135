"""How much the networks really computed, counted where they are called."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields
from typing import Any

from torch import Tensor, nn

from .. import InvSR


@dataclass(frozen=True)
class Work:
    """`tiles`: rectangles that went through a network; `pixels`: of the poor picture, in all of them."""

    tiles: int = 0
    pixels: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(self.tiles + other.tiles, self.pixels + other.pixels)


@dataclass(frozen=True)
class Tiles:
    """Work per network. A network that takes several steps counts each step."""

    noise_predictor: Work = field(default_factory=Work)
    vae_encode: Work = field(default_factory=Work)
    unet: Work = field(default_factory=Work)
    vae_decode: Work = field(default_factory=Work)

    def __add__(self, other: Tiles) -> Tiles:
        return Tiles(
            **{each.name: getattr(self, each.name) + getattr(other, each.name) for each in fields(self)}
        )

    def __sub__(self, other: Tiles) -> Tiles:
        def rest(name: str) -> Work:
            own, less = getattr(self, name), getattr(other, name)
            return Work(own.tiles - less.tiles, own.pixels - less.pixels)

        return Tiles(**{each.name: rest(each.name) for each in fields(self)})


class TileCounter:
    """Counts what a model's networks are given inside `counting`."""

    def __init__(self, model: InvSR) -> None:
        parts = model.restorer.parts
        # With the area of a pixel of its input, in pixels of the poor picture.
        self._networks: dict[str, tuple[nn.Module, float]] = {
            "noise_predictor": (parts.noise_predictor, 1.0),
            "vae_encode": (parts.vae.encoder, 1 / 16),
            "unet": (parts.unet, 4.0),
            "vae_decode": (parts.vae.decoder, 4.0),
        }
        self.counted = Tiles()

    @contextmanager
    def counting(self) -> Iterator[None]:
        with ExitStack() as hooks:
            for name, (network, area) in self._networks.items():
                hook = network.register_forward_pre_hook(self._hook(name, area), with_kwargs=True)
                hooks.callback(hook.remove)
            yield

    def _hook(self, name: str, area: float) -> Any:
        def count(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            batch = next(each for each in (*given, *named.values()) if isinstance(each, Tensor))
            tiles, height, width = batch.shape[0], batch.shape[-2], batch.shape[-1]
            self.counted += Tiles(**{name: Work(tiles, round(tiles * height * width * area))})

        return count
