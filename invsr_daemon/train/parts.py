"""Where trained parts lie: folders that hold vae/, unet/, noise_predictor/ or scheduler/."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def part(folders: Sequence[Path], name: str) -> Path:
    """The part of that name in the last folder that has it. Raises FileNotFoundError if none has."""
    found = [folder / name for folder in folders if (folder / name).is_dir()]
    if not found:
        raise FileNotFoundError(
            f"there is no {name}/ in {', '.join(map(str, folders)) or 'no folder at all'}"
        )
    return found[-1]
