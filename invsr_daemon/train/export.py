"""python -m invsr_daemon.train.export PART... --out DIR

Put trained parts (folders that hold vae/, unet/, noise_predictor/, scheduler/; later ones win) together
into a model directory: half precision, tiling, lock file. This is how the embedded model is made.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from diffusers.models.modeling_utils import ModelMixin

from ..model.compact import CompactAutoencoder, CompactNoisePredictor, CompactUNet
from ..model.hub import lock_as_it_is
from .parts import part

NETWORKS: dict[str, type[ModelMixin]] = {
    "vae": CompactAutoencoder,
    "unet": CompactUNet,
    "noise_predictor": CompactNoisePredictor,
}
# Convolutions bear any size; more than 256 pixels at once only costs memory.
TILING = {"tile": 256, "overlap": 32, "multiple": 8, "fill_tile": False}


def export(parts: list[Path], out: Path) -> None:
    """Write the model directory and its lock. Raises FileNotFoundError if a part is nowhere."""
    found = {name: part(parts, name) for name in (*NETWORKS, "scheduler")}
    shutil.rmtree(out, ignore_errors=True)
    for name, kind in NETWORKS.items():
        kind.from_pretrained(found[name]).half().save_pretrained(out / name)
        _forget_origin(out / name / "config.json")
    shutil.copytree(found["scheduler"], out / "scheduler")
    (out / "invsr.json").write_text(json.dumps(TILING) + "\n")
    lock_as_it_is(out)


def _forget_origin(config: Path) -> None:
    """diffusers notes the folder that a network came from, which means nothing anywhere else."""
    settings = json.loads(config.read_text())
    settings.pop("_name_or_path", None)
    config.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m invsr_daemon.train.export", description=__doc__)
    parser.add_argument("parts", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    export(arguments.parts, arguments.out)


if __name__ == "__main__":
    main()
