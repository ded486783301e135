"""One frame of a film on its way to the result."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..noise import NoiseSource
from .averaging import Averaged


class Moment:
    """A frame on its way: its canvas [3,scale*H,scale*W] is computed when it is first asked for."""

    def __init__(self, averaged: Averaged, noise: NoiseSource, compute: Callable[[], Tensor]) -> None:
        self.averaged = averaged
        self.noise = noise
        self.changing: frozenset[int] = frozenset()
        self._compute = compute
        self._canvas: Tensor | None = None

    @property
    def index(self) -> int:
        return self.averaged.frame.index

    @property
    def computed(self) -> bool:
        return self._canvas is not None

    def canvas(self) -> Tensor:
        if self._canvas is None:
            self._canvas = self._compute()
            self._compute = _spent
        return self._canvas


def _spent() -> Tensor:
    raise AssertionError("a moment's canvas is computed once")
