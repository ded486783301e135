"""Small films of a photograph with their motion: still, noisy, moving."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from skimage import data
from torch import Tensor

from invsr_daemon.restorers.film.averaging import FilmFrame
from invsr_daemon.restorers.film.traces import Motion

HEIGHT, WIDTH = 48, 64


def photograph(name: str = "astronaut") -> Tensor:
    """uint8 [3,256,256]."""
    return torch.from_numpy(getattr(data, name)()[:512:2, :512:2].copy()).permute(2, 0, 1)


def crop(picture: Tensor, left: int, top: int = 40) -> Tensor:
    return picture[:, top : top + HEIGHT, left : left + WIDTH].clone()


def moving(x: float, y: float = 0.0) -> Motion:
    """The whole picture's content goes so far from one frame to the next."""
    forward = torch.tensor([x, y]).view(2, 1, 1).expand(2, HEIGHT, WIDTH).float()
    column = torch.arange(WIDTH).expand(HEIGHT, WIDTH)
    row = torch.arange(HEIGHT)[:, None].expand(HEIGHT, WIDTH)

    def inside(sign: int) -> Tensor:
        return (
            (column + sign * x >= 0)
            & (column + sign * x < WIDTH)
            & (row + sign * y >= 0)
            & (row + sign * y < HEIGHT)
        )

    still = torch.full((HEIGHT, WIDTH), x == 0 and y == 0)
    return Motion(forward, -forward, inside(1), inside(-1), still)


def still_shot(frames: int, noise: float = 0.0) -> list[FilmFrame]:
    """One picture again and again, with sensor noise (levels of 255) of its own in each frame."""
    clean = crop(photograph(), 90).float()
    generator = torch.Generator().manual_seed(0)
    shots = [
        (clean + noise * torch.randn(clean.shape, generator=generator)).round().clamp(0, 255).byte()
        for _ in range(frames)
    ]
    return [FilmFrame(i, shot, moving(0) if i else None) for i, shot in enumerate(shots)]


def pan(frames: int, step: int = 1) -> list[FilmFrame]:
    return [
        FilmFrame(i, crop(photograph(), 40 + step * i), moving(-step) if i else None) for i in range(frames)
    ]


def with_cut(frames: Sequence[FilmFrame], at: int) -> list[FilmFrame]:
    other = crop(photograph("coffee"), 30)
    return [
        frame if i < at else replace(frame, pixels=other, motion=moving(0) if i > at else None, cut=i == at)
        for i, frame in enumerate(frames)
    ]


def with_object(frames: Sequence[FilmFrame]) -> list[FilmFrame]:
    """A bright square of 8 pixels wanders through the left half, and everyone knows how."""
    return [replace(frame, pixels=stamped(frame, i), motion=wandering(i)) for i, frame in enumerate(frames)]


def stamped(frame: FilmFrame, i: int) -> Tensor:
    pixels = frame.pixels.clone()
    pixels[:, 8:16, i : i + 8] = 255
    return pixels


def wandering(i: int) -> Motion | None:
    if i == 0:
        return None
    motion = moving(0)
    forward, backward, still = (
        torch.zeros(2, HEIGHT, WIDTH),
        torch.zeros(2, HEIGHT, WIDTH),
        motion.still.clone(),
    )
    forward[0, 8:16, i - 1 : i + 7], backward[0, 8:16, i : i + 8] = 1, -1
    still[8:16, i - 1 : i + 8] = False
    leads, stems = motion.leads.clone(), motion.stems.clone()
    leads[8:16, i + 7], stems[8:16, i - 1] = False, False  # what is covered next, what has come to light
    return Motion(forward, backward, leads, stems, still)
