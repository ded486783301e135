"""python -m invsr_daemon.train.export PART... --out DIR

Put parts (model directories, and folders that `invsr-daemon train` wrote; later ones win) together into a
model directory in half precision, with its lock file. This is how the embedded model is made.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..errors import ConfigError, InvsrError
from ..hub import lock_as_it_is
from ..restorers.invsr.compact import CompactAutoencoder
from ..restorers.invsr.loading import PROMPT_FILE, write_prompts
from . import parts

SETTINGS = "invsr.json"
# Convolutions bear any size; more than 256 pixels at once only costs memory. The detail was chosen by
# measurement: see the model card.
COMPACT_SETTINGS = {
    **{"tile": 256, "overlap": 32, "multiple": 8, "fill_tile": False},
    "detail": {"sharpen": 1.5, "grain": 0.3, "none": 100, "full": 200},
}


def export(folders: Sequence[Path], out: Path) -> None:
    """Write the model directory and its lock, in place of a model that was there.

    Raises ConfigError if a part is nowhere, or `out` holds something else; ModelError.
    """
    _check_replaceable(out, folders)
    networks: dict[str, Any] = {name: parts.network(folders, name, torch.float16) for name in ("vae", "unet")}
    networks["noise_predictor"] = parts.noise_predictor(folders, torch.float16)
    scheduler = parts.scheduler(folders)
    shutil.rmtree(out, ignore_errors=True)  # of another model files would be left
    for name, network in networks.items():
        network.save_pretrained(out / name)
        _forget_origin(out / name / "config.json")
    scheduler.save_pretrained(out / "scheduler")
    if any((folder / SETTINGS).exists() for folder in folders):
        shutil.copyfile(parts.holder(folders, SETTINGS) / SETTINGS, out / SETTINGS)
    elif isinstance(networks["vae"], CompactAutoencoder):
        (out / SETTINGS).write_text(json.dumps(COMPACT_SETTINGS) + "\n")
    if "cross_attention_dim" in networks["unet"].config:
        _copy_prompt(parts.holder(folders, *parts.PROMPTS), out)
    lock_as_it_is(out)


def _check_replaceable(out: Path, folders: Sequence[Path]) -> None:
    if any(out.resolve() == folder.resolve() for folder in folders):
        raise ConfigError(f"--out {out} is one of the parts; choose another folder")
    locked = out.with_name(f"{out.name}.lock.json").exists()
    if out.exists() and not (out.is_dir() and (locked or not any(out.iterdir()))):
        raise ConfigError(f"--out {out} holds something else than an exported model, and would be replaced")


def _copy_prompt(folder: Path, out: Path) -> None:
    if not (folder / PROMPT_FILE).exists():
        write_prompts(folder)
    shutil.copyfile(folder / PROMPT_FILE, out / PROMPT_FILE)


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
    try:
        export(arguments.parts, arguments.out)
    except InvsrError as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    main()
