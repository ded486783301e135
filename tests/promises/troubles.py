"""What can go wrong with a machine for a while: sick cards, a model that is away, an outbox that is full."""

from __future__ import annotations

import json
import os
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

FAULTS = (
    "abort",
    "die",
    "CUDA error: an illegal memory access was encountered",
    "no kernel image is available",
)
BLOCK = bytes(4096)


class Trouble(Protocol):
    """It begins, and ends without a trace."""

    @property
    def name(self) -> str: ...

    def begin(self, chance: random.Random) -> None: ...

    def end(self) -> None: ...


@dataclass(frozen=True)
class Cards:
    """Cards of `tests.support.sick_devices`: one or all are sick of something."""

    file: Path
    cards: tuple[str, ...]
    name: str = "sick cards"

    def begin(self, chance: random.Random) -> None:
        sick = chance.sample(self.cards, chance.randint(1, len(self.cards)))
        self._say({card: chance.choice(FAULTS) for card in sick})

    def end(self) -> None:
        self._say({})

    def _say(self, faults: dict[str, str]) -> None:
        partial = self.file.with_suffix(".part")
        partial.write_text(json.dumps(faults))
        partial.rename(self.file)


@dataclass(frozen=True)
class ModelAway:
    """The model's folder is not there, as if it was not mounted."""

    folder: Path
    name: str = "model away"

    def begin(self, chance: random.Random) -> None:
        self.folder.rename(self._elsewhere)

    def end(self) -> None:
        self._elsewhere.rename(self.folder)

    @property
    def _elsewhere(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.away")


@dataclass(frozen=True)
class FullOutbox:
    """The outbox, a small disk of its own, has no room."""

    folder: Path
    name: str = "outbox full"

    def begin(self, chance: random.Random) -> None:
        with self._filler.open("ab", buffering=0) as file:
            try:
                while file.write(BLOCK):
                    pass
            except OSError:
                return
        raise AssertionError("it is never full")

    def end(self) -> None:
        os.remove(self._filler)

    @property
    def _filler(self) -> Path:
        return self.folder / "filler"
