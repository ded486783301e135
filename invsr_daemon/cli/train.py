"""`train`: train the networks of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


@click.command()
@click.argument("config")
@click.option(
    "--photographs", required=True, type=click.Path(path_type=Path), help="Folder of sharp photographs."
)
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Folder for checkpoints and the result."
)
@click.option("--base", multiple=True, metavar="NAME|DIR", help="What it builds on; later ones go first.")
@click.option(
    "--device",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "cpu", "cuda"]),
    help="Where to compute.",
)
def train(**options: Any) -> None:
    """Train a noise predictor for a base model, or the parts of the embedded model.

    CONFIG is a file, or the name of a configuration that comes with this program. Run the same command
    again after an interruption: it goes on at its last checkpoint. For several GPUs: `accelerate launch
    -m invsr_daemon train ...`.
    """
    from ..train import TrainOptions, train_files

    train_files(TrainOptions(**options))
