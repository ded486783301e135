"""Tiles over a picture too large for one pass: where they lie, and how their outputs blend.

Coordinates are LR pixels. A tile larger than the picture is allowed: the picture is then padded by
reflection. All geometry is a function of the picture's size and the tiling settings alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

ROWS = 256  # how many of a large picture are computed at once
FILLED_STEP = 2  # draws of noise lie on squares of two LR pixels


@dataclass(frozen=True)
class Tiling:
    """How a model wants pictures cut: square tiles, their overlap, and the sizes it can take.

    `multiple`: padded sides are multiples of it. `fill_tile`: every tile is exactly of that size, and
    smaller pictures are padded up to it (models with attention see the size they were trained on).
    Without it tiles are of equal sides up to `tile`, so that little is computed twice.
    """

    tile: int
    overlap: int
    multiple: int
    fill_tile: bool = True

    def __post_init__(self) -> None:
        if self.tile % self.multiple or self.tile <= 0:
            raise ValueError(f"tile must be a multiple of {self.multiple}, not {self.tile}")
        if not 0 <= self.overlap < self.tile or self.overlap % self.step:
            limits = f"a multiple of {self.step} below {self.tile}"
            raise ValueError(f"overlap must be {limits}, not {self.overlap}")

    @property
    def step(self) -> int:
        """Tiles begin at multiples of it, so that draws of noise lie on the same squares in all of them."""
        return FILLED_STEP if self.fill_tile else self.multiple


@dataclass(frozen=True)
class Tile:
    """One rectangle of the padded picture, in LR pixels."""

    index: int
    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class TilePlan:
    """A picture on its padded canvas, and the tiles in row-major order, all of one size.

    `top`, `left`: where on the canvas of `height` x `width` the picture begins.
    """

    height: int
    width: int
    top: int
    left: int
    tiles: tuple[Tile, ...]

    @cached_property
    def tops(self) -> tuple[int, ...]:
        """Where rows of tiles begin."""
        return tuple(sorted({tile.top for tile in self.tiles}))

    @cached_property
    def lefts(self) -> tuple[int, ...]:
        """Where columns of tiles begin."""
        return tuple(sorted({tile.left for tile in self.tiles}))


@lru_cache(maxsize=2)
def plan_tiles(height: int, width: int, tiling: Tiling) -> TilePlan:
    """Tiles for a picture of height x width LR pixels.

    Stride is tile - overlap; the last tile of a row or column is shifted back to the border, as in
    InvSR's reference. Kept: a film asks for every frame, and has thousands of tiles.
    """
    top, padded_height = _padded(height, tiling)
    left, padded_width = _padded(width, tiling)
    tile_height, tile_width = _tile_side(padded_height, tiling), _tile_side(padded_width, tiling)
    corners = [
        (y, x)
        for y in _starts(padded_height, tile_height, tiling.overlap)
        for x in _starts(padded_width, tile_width, tiling.overlap)
    ]
    tiles = tuple(Tile(i, y, x, tile_height, tile_width) for i, (y, x) in enumerate(corners))
    return TilePlan(padded_height, padded_width, top, left, tiles)


def _padded(side: int, tiling: Tiling) -> tuple[int, int]:
    """(padding before, padded side): centred in a tile, or else only after, up to the multiple."""
    if tiling.fill_tile and side < tiling.tile:
        return (tiling.tile - side) // 2, tiling.tile
    return 0, -(-side // tiling.multiple) * tiling.multiple


def _tile_side(side: int, tiling: Tiling) -> int:
    """The tiles' side along a padded side: the configured one, or the least for that many tiles."""
    if side <= tiling.tile:
        return side
    if tiling.fill_tile:
        return tiling.tile
    count = -(-(side - tiling.overlap) // (tiling.tile - tiling.overlap))
    even = -(-(side + (count - 1) * tiling.overlap) // count)
    return -(-even // tiling.multiple) * tiling.multiple


def _starts(side: int, tile: int, overlap: int) -> list[int]:
    if tile == side:
        return [0]
    return [*range(0, side - tile, tile - overlap), side - tile]
