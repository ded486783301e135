"""`evaluate`: how good results are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .options import config_option


@click.command()
@click.argument("inputs", nargs=-1, required=True, type=click.Path(path_type=Path))
@config_option
@click.option(
    "--degradation",
    metavar="bicubic|blur|noise|realistic|none",
    help="To undo.  [default: bicubic]",
)
@click.option(
    "--methods",
    default="bicubic,lanczos,default",
    show_default=True,
    metavar="METHOD,...",
    help="bicubic, lanczos, or MODEL[:steps=N][:start=T][:timesteps=T,T,...][:color=FIX][:tile=N]; "
    "with --video [:temporal=MODE] too.",
)
@click.option("--seed", type=int, help="Seed of the degradation and of the noise.")
@click.option(
    "--device", default="cpu", show_default=True, metavar="cpu|cuda|cuda:N", help="Where to compute."
)
@click.option("--limit", type=int, help="At most so many pictures.")
@click.option("--crop", type=int, help="Longest side that is used of a picture or film, about its middle.")
@click.option(
    "--frames", type=int, help="Frames of each film, from its first.  [default: 4; with --video 48]"
)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Every number into this file.")
@click.option("--sheet", "sheet_file", type=click.Path(path_type=Path), help="A contact sheet (PNG).")
@click.option("--video", is_flag=True, help="How stable in time: on films, and on such made of photographs.")
@click.option("--clips", metavar="NAME,...", help="With --video: only these of the films that are made.")
@click.option("--size", metavar="WxH", help="With --video: of the films that are made.  [default: 448x320]")
@click.option("--chunk-frames", type=int, help="With --video: of each chunk.  [default: 24]")
@click.option("--plot", "plot_file", type=click.Path(path_type=Path), help="With --video: curves (PNG).")
def evaluate(inputs: tuple[Path, ...], *, video: bool, **options: Any) -> None:
    """Compare methods on sharp films and pictures, degraded; or, with `none`, on poor ones."""
    from .. import quality

    def say(line: str) -> None:
        click.echo(line, err=True)

    if video:
        click.echo(quality.evaluate_film_files(inputs, quality.film_options(options), say))
    else:
        click.echo(quality.evaluate_picture_files(inputs, quality.picture_options(options), say))
