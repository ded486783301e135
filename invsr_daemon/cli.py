"""Commands. Everything heavy is imported where it is used, so that --help answers at once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from . import __version__
from .records import ConfigError, InvsrError

FAILED, USAGE = 1, 2


class Commands(click.Group):
    """Turns expected errors into one line on stderr and the documented exit code."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except ConfigError as error:
            click.echo(f"invsr-daemon: {error}", err=True)
            context.exit(USAGE)
        except InvsrError as error:
            click.echo(f"invsr-daemon: {error}", err=True)
            context.exit(FAILED)


class TimestepList(click.ParamType[tuple[int, ...]]):
    """200,100,50"""

    name = "T,T,..."

    def convert(
        self, value: Any, param: click.Parameter | None, context: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(int(part) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of whole numbers such as 200,100,50", param, context)


config_option = click.option(
    "-c", "--config", "config_file", type=click.Path(path_type=Path), help="A config.yaml."
)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="invsr-daemon")
def main() -> None:
    """Restore films and pictures with InvSR, a diffusion model for super-resolution."""


@main.command()
@click.argument("inputs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="File or folder for the results.")
@config_option
@click.option("--model", help="A name (see `models list`) or a directory.")
@click.option("--steps", type=int, help="Number of denoising steps, with published timesteps.")
@click.option("--timesteps", type=TimestepList(), help="Timesteps of your own, descending.")
@click.option("--scale", type=float, help="Size of the result: 1 to 4 times the input.")
@click.option("--tile", type=int, help="Side of a tile in input pixels.")
@click.option(
    "--color-fix", type=click.Choice(["none", "wavelet", "ycbcr"]), help="Take colours from the input."
)
@click.option("--seed", type=int, help="Seed of the noise: the same seed gives the same result.")
@click.option("--device", "devices", metavar="auto|cpu|cuda|cuda:0,cuda:1", help="Where to compute.")
@click.option("--workers", type=int, help="Number of worker processes.")
@click.option("--overwrite", is_flag=True, help="Replace results that are already there.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line on stdout.")
def process(
    inputs: tuple[Path, ...],
    output: Path | None,
    config_file: Path | None,
    *,
    overwrite: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Restore files, or all films and pictures in folders.

    Without -o a result lies beside its input, named NAME_restored. Run the same command again after an
    interruption: it goes on where it was.
    """
    from .process import process_inputs

    sys.exit(process_inputs(inputs, output, config_file, options, overwrite=overwrite, as_json=as_json))


@main.command()
@click.argument("inputs", nargs=-1, required=True, type=click.Path(path_type=Path))
@config_option
@click.option(
    "--degradation", default="bicubic", show_default=True, metavar="bicubic|realistic|none", help="To undo."
)
@click.option(
    "--methods",
    default="bicubic,lanczos,default",
    show_default=True,
    metavar="METHOD,...",
    help="bicubic, lanczos, or MODEL[:steps=N][:start=T][:timesteps=T,T,...][:color=FIX][:tile=N].",
)
@click.option("--seed", type=int, help="Seed of the degradation and of the noise.")
@click.option(
    "--device", default="cpu", show_default=True, metavar="cpu|cuda|cuda:N", help="Where to compute."
)
@click.option("--limit", type=int, help="At most so many pictures.")
@click.option("--crop", type=int, help="Longest side that is used of a picture, about its middle.")
@click.option("--frames", type=int, default=4, show_default=True, help="Frames of each film, from its first.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Every number into this file.")
@click.option("--sheet", "sheet_file", type=click.Path(path_type=Path), help="A contact sheet (PNG).")
def evaluate(inputs: tuple[Path, ...], **options: Any) -> None:
    """Compare methods on sharp films and pictures, degraded; or, with `none`, on poor ones."""
    from .quality import Options, evaluate_files

    click.echo(evaluate_files(inputs, Options(**options), lambda line: click.echo(line, err=True)))


@main.group()
def models() -> None:
    """Models: what there is, how to get it, where it lies."""


@models.command("list")
@config_option
def models_list(config_file: Path | None) -> None:
    """Show known models and which are installed."""
    from .config import load
    from .model import hub

    for entry in hub.listing(load(config_file, {}).models_dir):
        state = "installed" if entry.installed else "not installed"
        click.echo(f"{entry.name:12} {state:14} {entry.licence}")


@models.command("pull")
@click.argument("name")
@config_option
@click.option("--base-repo", help="Another repository for the base model.")
@click.option("--base-revision", help="Branch, tag or commit of the base model.")
@click.option("--predictor-repo", help="Another repository for the noise predictor.")
@click.option("--predictor-revision", help="Branch, tag or commit of the noise predictor.")
@click.option("--endpoint", help="Another hub than huggingface.co.")
@click.option("--update", is_flag=True, help="Take the newest revision in place of the locked one.")
def models_pull(name: str, config_file: Path | None, *, update: bool, **given: str | None) -> None:
    """Download a model, check it, and lock its revision and checksums."""
    from .config import load
    from .model import hub

    settings = load(config_file, {f"hub.{option}": value for option, value in given.items()})
    sources = settings.hub.model_dump(exclude={"endpoint"})
    hub.pull(
        name,
        settings.models_dir,
        hub.sources_for(name, **sources),
        settings.hub.endpoint,
        click.echo,
        update=update,
    )


@models.command("verify")
@click.argument("name")
@config_option
def models_verify(name: str, config_file: Path | None) -> None:
    """Check an installed model against its lock file."""
    from .config import load
    from .model import hub

    problems = hub.verify(name, load(config_file, {}).models_dir)
    for problem in problems:
        click.echo(f"invsr-daemon: {problem}", err=True)
    if problems:
        sys.exit(FAILED)
    click.echo(f"{name} is complete and unchanged")


@models.command("path")
@click.argument("name")
@config_option
def models_path(name: str, config_file: Path | None) -> None:
    """Print the directory of an installed model."""
    from .config import load
    from .model import hub

    click.echo(hub.resolve(name, load(config_file, {}).models_dir))
