"""`invsr-daemon train`: from names and folders to a trained part.

Torch is imported after the configuration was found to be right, so that its errors come at once.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .. import hub
from ..errors import ConfigError, ModelError
from .config import TrainConfig

if TYPE_CHECKING:
    from .processes import Device
    from .stages import Stage


@dataclass(frozen=True)
class TrainOptions:
    """What `invsr-daemon train` was asked for: a kept configuration or a file, folders, models."""

    config: str
    photographs: Path
    out: Path
    base: tuple[str, ...] = ()
    device: Device = "auto"


def train_files(options: TrainOptions) -> Stage:
    """Train to the end, or go on where a checkpoint in `out` was made; the stage, with averaged weights.

    Raises:
        ConfigError: the configuration or options are wrong: every error that can be told beforehand.
        ModelError: the base cannot be loaded.
        InputError: a photograph cannot be read.
        InvsrError: the training diverges.
    """
    config, base = _checked(options)
    import torch

    from .loop import train
    from .photographs import Photographs
    from .processes import joined
    from .stages import make_stage

    with joined(options.device) as processes:
        level = logging.INFO if processes.rank == 0 else logging.WARNING
        logging.basicConfig(level=level, format="%(asctime)s %(message)s")
        torch.manual_seed(config.seed)  # initial weights, the same in every process
        stage = make_stage(config, base, processes.device)
        photographs = Photographs.load(
            options.photographs,
            config.data.names(),
            config.data.longest_sides,
            smallest=config.data.crop,
            in_memory=config.data.in_memory,
        )
        train(config, stage, photographs, options.out, processes)
    return stage


def _checked(options: TrainOptions) -> tuple[TrainConfig, Sequence[Path]]:
    problems: list[str] = []
    config = None
    try:
        config = TrainConfig.read(options.config)
        config.data.names()
    except ConfigError as error:
        problems.append(str(error))
    except OSError as error:
        problems.append(f"data.list: {error.filename} cannot be read: {error.strerror}")
    if not options.photographs.is_dir():
        problems.append(f"--photographs {options.photographs}: it is not a directory")
    base = []
    for name in options.base:
        try:
            base.append(hub.resolve(name))
        except ModelError as error:
            problems.append(f"--base: {error}")
    if config is None or problems:
        raise ConfigError("; ".join(problems))
    return config, base
