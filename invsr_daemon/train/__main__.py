"""python -m invsr_daemon.train CONFIG --photographs DIR --out DIR [--base DIR]..."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import torch

from .config import TrainConfig
from .loop import train
from .photographs import Photographs
from .stages import make_stage


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m invsr_daemon.train", description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--photographs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--base", type=Path, action="append", default=[])
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    config = TrainConfig.read(arguments.config)
    torch.manual_seed(config.seed)
    photographs = Photographs.load(arguments.photographs, config.data.names(), config.data.longest_sides)
    train(config, make_stage(config, arguments.base), photographs, arguments.out)


if __name__ == "__main__":
    main()
