"""Films made from photographs: layers that move, rendered at any fraction of a pixel, with their exact flow.

A layer is a texture, an affine motion and, unless it fills the frame, a shape. The flow between two frames
follows from the motions; what covers what follows from the shapes. Both are exact, not estimated.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from ..metrics.psnr_ssim import blurred, gaussian
from .clips import ClipMotion, Flow, Pixels, Step, quantised, reduced
from .spline import coefficients, sample

# 3x3, float64: homogeneous coordinates (x, y, 1) of a frame's pixel -> of the texture or the shape.
Matrix = NDArray[np.float64]
Path = Callable[[int], Matrix]
# Pixels: a vector nearer to another layer or the frame's edge is not trusted, for sampling would look beyond.
MARGIN = 3
MIXED = -1
# Of a Gaussian, in pixels: it leaves 29 % of the contrast of the finest lines a grid can show.
LENS_SIGMA, LENS_RADIUS = 0.5, 2


@dataclass(frozen=True)
class Shape:
    """An ellipse or a rectangle: centre, half axes, and how many pixels its edge takes from 0 to 1."""

    centre: tuple[float, float]
    radii: tuple[float, float]
    edge: float = 1.0
    box: bool = False

    def coverage(self, x: Tensor, y: Tensor) -> Tensor:
        """How much of a pixel the shape covers, 0 to 1, at places [N]."""
        across, down = (x - self.centre[0]).abs(), (y - self.centre[1]).abs()
        if self.box:
            inside = torch.minimum(self.radii[0] - across, self.radii[1] - down)
        else:
            inside = (1 - torch.hypot(across / self.radii[0], down / self.radii[1])) * min(self.radii)
        return (inside / self.edge + 0.5).clamp(0, 1)


def resting(_: int) -> Matrix:
    """The path of a layer that does not move."""
    return np.eye(3)


@dataclass(frozen=True)
class Layer:
    """`texture`: B-spline weights [h,w,3] of a picture in 0..255. `path`: frame -> texture, by frame number.

    `outline`: frame -> shape; by default as the texture moves.
    """

    texture: Tensor
    path: Path = resting
    shape: Shape | None = None
    outline: Path | None = None

    def is_still(self, frames: int) -> bool:
        paths = [self.path] + ([self.outline] if self.outline else [])
        return all(np.array_equal(path(0), path(t)) for path in paths for t in range(1, frames))

    def coverage(self, t: int, x: Tensor, y: Tensor) -> Tensor:
        """0 to 1 at pixels [N] of frame t."""
        if self.shape is None:
            return torch.ones_like(x)
        return self.shape.coverage(*moved((self.outline or self.path)(t), x, y))

    def colours(self, t: int, x: Tensor, y: Tensor) -> Tensor:
        """float32 [N,3] at pixels [N] of frame t."""
        return sample(self.texture, *moved(self.path(t), x, y))

    def step(self, t: int, to: int) -> Matrix:
        """Pixels of frame t -> pixels of frame `to`."""
        return np.linalg.inv(self.path(to)) @ self.path(t)


@dataclass(frozen=True)
class Shot:
    """Frames without a cut; layers from the back to the front, the first fills the frame."""

    frames: int
    layers: tuple[Layer, ...]


@dataclass(frozen=True)
class Generated:
    """A film of shots; `size` (height, width), multiples of 4.

    `noise`: standard deviation of the Gaussian noise of a sensor in the poor pictures, of 255 levels; it is
    a function of name, seed and frame.
    """

    name: str
    size: tuple[int, int]
    shots: tuple[Shot, ...]
    noise: float = 0.0
    seed: int = 0

    @property
    def frames(self) -> int:
        return sum(shot.frames for shot in self.shots)

    def steps(self) -> Iterator[Step]:
        index = 0
        for shot in self.shots:
            camera = Camera(shot, self.size)
            static = camera.static()
            for t, truth in enumerate(camera.pictures()):
                motion = camera.motion(t) if t else None
                yield Step(index, truth, self._poor(truth, index), motion, static)
                index += 1

    def _poor(self, truth: Pixels, index: int) -> Pixels:
        poor = reduced(truth)
        if self.noise:
            digest = hashlib.sha256(self.name.encode()).digest()
            rng = np.random.default_rng([self.seed, index, *digest])
            poor = poor + torch.from_numpy(rng.normal(0, self.noise, tuple(poor.shape)))
        return quantised(poor)


class Camera:
    """Takes pictures of one shot, and knows where everything is."""

    def __init__(self, shot: Shot, size: tuple[int, int]) -> None:
        self._shot = shot
        self._size = size
        down, across = torch.meshgrid(*(torch.arange(side) for side in size), indexing="ij")
        self._x, self._y = across.flatten().double(), down.flatten().double()
        self._still = [layer.is_still(shot.frames) for layer in shot.layers]

    def pictures(self) -> Iterator[Pixels]:
        """Each frame of the shot, [H,W,3]."""
        kept: dict[int, Tensor] = {}
        for t in range(self._shot.frames):
            picture = torch.zeros(len(self._x), 3)
            for number, layer in enumerate(self._shot.layers):
                cover = layer.coverage(t, self._x, self._y).float()
                seen = cover.nonzero()[:, 0]
                if self._still[number]:
                    if number not in kept:
                        kept[number] = layer.colours(t, self._x[seen], self._y[seen])
                    colours = kept[number]
                else:
                    colours = layer.colours(t, self._x[seen], self._y[seen])
                share = cover[seen, None]
                picture[seen] = picture[seen] * (1 - share) + colours * share
            yield quantised(picture.view(*self._size, 3))

    def motion(self, t: int) -> ClipMotion:
        """Between frames t - 1 and t, t from 1 up."""
        return ClipMotion(self._flow(t - 1, t), self._flow(t, t - 1))

    def static(self) -> Tensor:
        """bool [H,W]: one and the same resting layer is seen in every frame, and nothing else."""
        first = self._owner(0)
        still = torch.tensor([*self._still, False])[first]  # MIXED is the last one
        for t in range(1, self._shot.frames):
            still &= self._owner(t) == first
        return still

    def _owner(self, t: int) -> Tensor:
        """[H,W]: the number of the layer that alone is seen at a pixel; MIXED where there are several."""
        owner = torch.zeros(len(self._x), dtype=torch.long)
        for number, layer in enumerate(self._shot.layers[1:], 1):
            cover = layer.coverage(t, self._x, self._y)
            owner = torch.where(cover >= 1, number, torch.where(cover > 0, MIXED, owner))
        return owner.view(self._size)

    def _flow(self, t: int, to: int) -> Flow:
        owner = self._owner(t).flatten()
        x, y = self._x.clone(), self._y.clone()
        for number, layer in enumerate(self._shot.layers):
            own = owner == number
            x[own], y[own] = moved(layer.step(t, to), self._x[own], self._y[own])
        stays = (x == self._x) & (y == self._y)
        valid = (owner != MIXED) & (_inside(x, y, self._size) | stays)
        valid &= self._seen(to, x, y) == owner
        vectors = torch.stack([x - self._x, y - self._y]).float()
        return Flow(vectors.view(2, *self._size), valid.view(self._size))

    def _seen(self, t: int, x: Tensor, y: Tensor) -> Tensor:
        """[N]: the layer that alone is seen near places [N] of frame t; MIXED where there are several."""
        if len(self._shot.layers) == 1:
            return torch.zeros_like(x, dtype=torch.long)
        owner = self._owner(t)
        around = functional.pad(owner[None, None].float(), (MARGIN,) * 4, mode="replicate")
        window = 2 * MARGIN + 1
        largest = functional.max_pool2d(around, window, stride=1)
        alone = (largest == -functional.max_pool2d(-around, window, stride=1))[0, 0]
        row = y.round().long().clamp(0, self._size[0] - 1)
        column = x.round().long().clamp(0, self._size[1] - 1)
        return torch.where(alone[row, column], owner[row, column], MIXED)


def moved(matrix: Matrix, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Places [N] under an affine map; exactly themselves under the identity."""
    (a, b, c), (d, e, f) = matrix[:2].tolist()
    return a * x + b * y + c, d * x + e * y + f


def texture(picture: Pixels, size: tuple[int, int] | None = None) -> Tensor:
    """B-spline weights [h,w,3] of a picture [H,W,3]; reduced until it just covers `size` (height, width).

    Then blurred as by a lens: without it a photograph has detail that no grid of pixels shows alike at
    every fraction of a pixel, and the truth itself would flicker.
    """
    if size is not None:
        factor = max(size[0] / picture.shape[0], size[1] / picture.shape[1])
        if factor < 1:
            height, width = (round(side * factor) for side in picture.shape[:2])
            picture = np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS))
    pixels = torch.tensor(picture).permute(2, 0, 1)[:, None].float()
    around = functional.pad(pixels, (LENS_RADIUS,) * 4, mode="reflect")
    return coefficients(blurred(around, gaussian(2 * LENS_RADIUS + 1, LENS_SIGMA))[:, 0])


def _inside(x: Tensor, y: Tensor, size: tuple[int, int]) -> Tensor:
    height, width = size
    return (x >= MARGIN) & (x <= width - 1 - MARGIN) & (y >= MARGIN) & (y <= height - 1 - MARGIN)
