"""Prepared samples on disk: one file each, numbered from 0 without gaps, never changed once there."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol

import numpy as np

from ...errors import InputError


class Kind(Enum):
    """What a sample is made of. By its number: see `kind_of`."""

    TAUGHT = "taught"  # a photograph, with the teacher's picture of the poor one
    PLAIN = "plain"  # a photograph
    DRAWN = "drawn"


ORDER = (Kind.TAUGHT, Kind.PLAIN, Kind.DRAWN)


def kind_of(number: int) -> Kind:
    return ORDER[number % len(ORDER)]


@dataclass(frozen=True)
class Sample:
    """uint8 pictures [H,W,3]; `taught` is the truth where there is no teacher's."""

    poor: np.ndarray
    sharp: np.ndarray
    taught: np.ndarray


class Samples(Protocol):
    """Numbered samples, of a kind by their number."""

    def size(self, known: int = 0) -> int:
        """How many there are; `known` are there for sure."""
        ...

    def read(self, number: int) -> Sample: ...


@dataclass(frozen=True)
class Pool:
    """A folder of samples."""

    folder: Path

    def size(self, known: int = 0) -> int:
        """How many there are, counted from 0 up to the first that is missing; `known` are there for sure."""
        while self.path(known).exists():
            known += 1
        return known

    def path(self, number: int) -> Path:
        return self.folder / f"{number // 1000:03d}" / f"{number:06d}.npz"

    def write(self, number: int, sample: Sample) -> None:
        """Whole or not at all."""
        path = self.path(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        arrays = {"poor": sample.poor, "sharp": sample.sharp}
        if kind_of(number) is Kind.TAUGHT:
            arrays["taught"] = sample.taught
        with partial.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        partial.replace(path)

    def read(self, number: int) -> Sample:
        """Raises InputError if it is not there or damaged."""
        try:
            with np.load(self.path(number)) as arrays:
                sharp = arrays["sharp"]
                taught = arrays["taught"] if kind_of(number) is Kind.TAUGHT else sharp
                return Sample(arrays["poor"], sharp, taught)
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{self.path(number)} cannot be read: {error}") from error


def drawn_numbers(rng: np.random.Generator, size: int, shares: dict[Kind, float], count: int) -> list[int]:
    """Numbers of samples out of the first `size`, of kinds by their shares. `size` is at least 3."""
    numbers = []
    for position in rng.choice(len(ORDER), size=count, p=[shares[kind] for kind in ORDER]):
        rounds = (size - int(position) + len(ORDER) - 1) // len(ORDER)
        numbers.append(int(rng.integers(rounds)) * len(ORDER) + int(position))
    return numbers
