"""How the outputs of tiles are cut, padded and blended."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .tiling import Tile, TilePlan


def reflect_pad(pictures: Tensor, plan: TilePlan) -> Tensor:
    """[B,C,h,w] -> [B,C,plan.height,plan.width]: reflected on all sides as often as needed."""
    rows = _reflected(pictures.shape[-2], plan.top, plan.height).to(pictures.device)
    columns = _reflected(pictures.shape[-1], plan.left, plan.width).to(pictures.device)
    return pictures.index_select(-2, rows).index_select(-1, columns)


def cut(picture: Tensor, tile: Tile, scale: int = 1) -> Tensor:
    """A tile's part of [...,H,W], which is `scale` times the tile's canvas: a view of it."""
    top, left = tile.top * scale, tile.left * scale
    return picture[..., top : top + tile.height * scale, left : left + tile.width * scale]


def _reflected(side: int, before: int, target: int) -> Tensor:
    """Indices ...,1,0,1,...,side-1,side-2,... with `before` of them ahead of the first 0."""
    period = 2 * (side - 1)
    index = (torch.arange(target) - before) % period
    return torch.where(index < side, index, period - index)


def gaussian_window(side: int) -> Tensor:
    """Blend weights along one side, float32 [side], largest in the middle, always positive.

    sigma = 0.3 ((side - 1) / 2 - 1) + 0.8 (OpenCV's rule). An even side takes the samples of the
    window of side + 1 without its first, as InvSR's reference does.
    """
    samples = side if side % 2 else side + 1
    sigma = 0.3 * ((side - 1) / 2 - 1) + 0.8
    distance = torch.arange(samples, dtype=torch.float32) - (samples - 1) / 2
    window = torch.exp(-0.5 * (distance / sigma) ** 2)
    return window[samples - side :]


class Blend:
    """Weighted sum of tiles' outputs over a canvas; `result` divides by the weights' sum."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        plan: TilePlan,
        scale: int,
        device: torch.device,
        ground: Tensor | None = None,
    ) -> None:
        """`shape`: (batch, height, width) of the canvas in output pixels.

        `ground` [batch,3,height,width]: what stands for tiles that are not added, left as it is elsewhere.
        """
        batch, height, width = shape
        first = plan.tiles[0]
        self.device = device
        self._plan = plan
        self._ground = ground
        self._scale = scale
        self._sum = torch.zeros(batch, 3, height, width, device=device)
        # A tile that is alone counts in full.
        sides = (first.height, first.width)
        self._windows = tuple(
            (gaussian_window(side * scale) if len(plan.tiles) > 1 else torch.ones(side * scale)).to(device)
            for side in sides
        )

    def add(self, frame: int, tile: Tile, output: Tensor) -> None:
        """Add one tile's output [3, scale*tile height, scale*tile width] to a frame's canvas."""
        self.add_block(frame, tile, [tile], output)

    def add_block(self, frame: int, whole: Tile, inside: Sequence[Tile], output: Tensor) -> None:
        """Add the output of a rectangle of tiles, as if each had been added: see `merged`."""
        if self._ground is not None:
            output = output - cut(self._ground[frame], whole, self._scale)
        cut(self._sum[frame], whole, self._scale).add_(output * self._weights_of(whole, inside))

    def _weights_of(self, whole: Tile, inside: Sequence[Tile]) -> Tensor:
        """The sum of tiles' windows over the rectangle that they fill in rows and columns."""
        rows = self._summed(0, whole.height, sorted({tile.top - whole.top for tile in inside}))
        columns = self._summed(1, whole.width, sorted({tile.left - whole.left for tile in inside}))
        return rows[:, None] * columns[None, :]

    def _summed(self, axis: int, side: int, starts: Sequence[int]) -> Tensor:
        window = self._windows[axis]
        total = torch.zeros(side * self._scale, device=self.device)
        for start in starts:
            total[start * self._scale : start * self._scale + len(window)] += window
        return total

    def result(self) -> Tensor:
        """[batch,3,height,width]; call once, when every tile was added."""
        canvas = Tile(0, 0, 0, self._plan.height, self._plan.width)
        blended = self._sum.div_(self._weights_of(canvas, self._plan.tiles))
        return blended if self._ground is None else blended.add_(self._ground)
