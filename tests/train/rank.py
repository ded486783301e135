"""rank.py CONFIG PHOTOGRAPHS OUT BASE: train as one of several processes, and keep what this one has."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from invsr_daemon.train import TrainOptions, train_files


def main() -> None:
    config, photographs, out, base = sys.argv[1:]
    stage = train_files(TrainOptions(config, Path(photographs), Path(out), (base,), "cpu"))
    torch.save(stage.trained.state_dict(), Path(out) / f"rank-{os.environ['RANK']}.pt")


if __name__ == "__main__":
    main()
