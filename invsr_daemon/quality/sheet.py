"""A contact sheet: a row per picture, a column per method, to compare by eye.

Every cell shows the same piece of CELL x CELL pixels, the busiest one, at its own size, so that details
can be seen; a smaller picture lies in the middle of its cell. A caption stands below each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional

CELL, CAPTION, GAP = 192, 18, 6
PAPER, INK = (255, 255, 255), (0, 0, 0)


@dataclass(frozen=True)
class Cell:
    """A caption, and a picture [1,3,H,W] in [0,1]."""

    caption: str
    picture: Tensor


def sheet_size(rows: int, columns: int) -> tuple[int, int]:
    """(width, height) of a sheet in pixels."""
    return GAP + columns * (CELL + GAP), GAP + rows * (CELL + CAPTION + GAP)


def draw_row(cells: Sequence[Cell], guide: Tensor) -> Image.Image:
    """One row. All pictures have the same size; `guide`, one of them, decides which piece is shown."""
    top, left = _busiest(guide)
    row = Image.new("RGB", (sheet_size(1, len(cells))[0], CELL + CAPTION + GAP), PAPER)
    pen = ImageDraw.Draw(row)
    for column, cell in enumerate(cells):
        x = GAP + column * (CELL + GAP)
        piece = _image(cell.picture[..., top : top + CELL, left : left + CELL])
        row.paste(piece, (x + (CELL - piece.width) // 2, (CELL - piece.height) // 2))
        pen.text((x, CELL + 2), _fitting(cell.caption, pen), fill=INK, font=ImageFont.load_default())
    return row


def draw_sheet(rows: Sequence[Image.Image]) -> Image.Image:
    """Rows of equal width, one below the other."""
    sheet = Image.new("RGB", (rows[0].width, GAP + sum(row.height for row in rows)), PAPER)
    y = GAP
    for row in rows:
        sheet.paste(row, (0, y))
        y += row.height
    return sheet


def enlarged(poor: Tensor, scale: int) -> Tensor:
    """Every pixel repeated: [1,3,h,w] -> [1,3,h*scale,w*scale]."""
    return poor.repeat_interleave(scale, dim=-2).repeat_interleave(scale, dim=-1)


def _busiest(picture: Tensor) -> tuple[int, int]:
    """Top and left of the piece with the most contrast between neighbours."""
    grey = picture.mean(dim=1, keepdim=True)
    change = functional.pad(grey.diff(dim=-1).abs(), (0, 1)) + functional.pad(
        grey.diff(dim=-2).abs(), (0, 0, 0, 1)
    )
    window = [min(CELL, side) for side in grey.shape[-2:]]
    stride = [max(1, side // 2) for side in window]
    means = functional.avg_pool2d(change, window, stride)[0, 0]
    place = int(torch.argmax(means))
    return place // means.shape[1] * stride[0], place % means.shape[1] * stride[1]


def _image(picture: Tensor) -> Image.Image:
    pixels = picture[0].permute(1, 2, 0).clamp(0, 1).mul(255).round().to(torch.uint8)
    return Image.fromarray(pixels.contiguous().numpy())


def _fitting(caption: str, pen: ImageDraw.ImageDraw) -> str:
    """Shorten a caption to a cell's width, in characters that every default font has."""
    caption = caption.encode("ascii", "replace").decode()
    font = ImageFont.load_default()
    while pen.textlength(caption, font=font) > CELL:
        caption = caption[:-1]
    return caption
