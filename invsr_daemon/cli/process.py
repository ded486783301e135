"""`process`: restore the files of one command."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from .options import OneSetting, TimestepList, config_option


@click.command()
@click.argument("inputs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(  # as it was given: a slash at its end means a folder
    "-o",
    "--output",
    metavar="FILE|DIR/",
    help="File for the result, or folder for results: a film's or picture's name is a file, all else, "
    "and whatever ends with a slash, a folder.",
)
@config_option
@click.option("--model", help="A name (see `models list`) or a directory.")
@click.option(
    "--steps",
    type=int,
    help="Number of denoising steps, 1 to 50: up to 5 with published timesteps, more evenly spaced from 250 "
    "down.  [default: 1]",
)
@click.option("--timesteps", type=TimestepList(), help="Timesteps of your own, descending.  [default: 200]")
@click.option("--scale", type=float, help="Size of the result, 1 to 4 times the input.  [default: 4]")
@click.option(
    "--tile",
    type=int,
    help="Side of a tile in input pixels, 16 to 4096, a multiple of what the model asks for.  "
    "[default: the model's own]",
)
@click.option(
    "--color-fix", type=click.Choice(["none", "wavelet", "ycbcr"]), help="Take colours from the input."
)
@click.option(
    "--temporal", type=click.Choice(["off", "static", "full"]), help="What frames learn from each other."
)
@click.option("--seed", type=int, help="Seed of the noise: the same seed gives the same result.")
@click.option("--device", "devices", metavar="auto|cpu|cuda|cuda:0,cuda:1", help="Where to compute.")
@click.option("--workers", type=int, help="Number of worker processes.")
@click.option(
    "--set",
    "changes",
    type=OneSetting(),
    multiple=True,
    help="Any setting of config.yaml, such as video.crf=16 or precision=bf16; as often as need be.",
)
@click.option("--overwrite", is_flag=True, help="Replace results that are already there.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line on stdout.")
def process(
    inputs: tuple[Path, ...],
    output: str | None,
    config_file: Path | None,
    *,
    changes: tuple[tuple[str, Any], ...],
    overwrite: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Restore files, or all films and pictures in folders.

    Without -o a result lies beside its input, named NAME_restored. Run the same command again after an
    interruption: it goes on where it was.
    """
    from ..batch.session import process_inputs

    given = {name: value for name, value in options.items() if value is not None}
    settings = dict(changes) | given
    sys.exit(process_inputs(inputs, output, config_file, settings, overwrite=overwrite, as_json=as_json))
