"""python -m invsr_daemon.train.blend OLD NEW --share 0.75 --out DIR

The weights between two models of the same shape: so much of the new one's, the rest of the old one's. A
training on new faults forgets a little of what was there; on the way back there are weights that have nearly
all of both (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models").
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from ..errors import ConfigError, InvsrError
from . import parts


def blend(old: Path, new: Path, share: float, out: Path) -> None:
    """Write autoencoder, UNet and noise predictor between two folders'.

    Raises ConfigError if a part is missing or has another shape, ModelError if it cannot be loaded.
    """
    for name in ("vae", "unet"):
        _between(parts.network([old], name), parts.network([new], name), share).save_pretrained(out / name)
    predictor = _between(parts.noise_predictor([old]), parts.noise_predictor([new]), share)
    predictor.save_pretrained(out / "noise_predictor")


def _between(old: Any, new: Any, share: float) -> Any:
    before, after = old.state_dict(), new.state_dict()
    if {name: value.shape for name, value in before.items()} != {n: v.shape for n, v in after.items()}:
        raise ConfigError(f"two {type(new).__name__} of different shapes have nothing in between")
    new.load_state_dict({name: torch.lerp(before[name], after[name], share) for name in after})
    return new


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m invsr_daemon.train.blend", description=__doc__)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--share", type=float, required=True, help="of the new weights, from 0 to 1")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    try:
        blend(given.old, given.new, given.share, given.out)
    except InvsrError as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    main()
