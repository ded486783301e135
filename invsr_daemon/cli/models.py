"""`models`: list, fetch and check named models."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from .options import FAILED, KnownModel, config_option


@click.group()
def models() -> None:
    """Models: what there is, how to get it, where it lies."""


@models.command("list")
@config_option
def models_list(config_file: Path | None) -> None:
    """Show known models and which are installed."""
    from .. import hub
    from ..settings.reading import load

    for entry in hub.listing(load(config_file, {}).models_dir):
        state = "installed" if entry.installed else "not installed"
        click.echo(f"{entry.name:12} {state:14} {entry.licence}")


@models.command("pull")
@click.argument("name", type=KnownModel())
@config_option
@click.option("--base-repo", help="Another repository for the base model.")
@click.option("--base-revision", help="Branch, tag or commit of the base model.")
@click.option("--predictor-repo", help="Another repository for the noise predictor.")
@click.option("--predictor-revision", help="Branch, tag or commit of the noise predictor.")
@click.option("--endpoint", help="Another hub than huggingface.co.")
@click.option("--send-token", is_flag=True, help="Send your hub token to --endpoint, too.")
@click.option("--update", is_flag=True, help="Take the newest revision in place of the locked one.")
def models_pull(
    name: str, config_file: Path | None, *, update: bool, send_token: bool, **given: str | None
) -> None:
    """Download a model, check it, and lock its revision and checksums."""
    from .. import hub
    from ..restorers.invsr.convert import convert
    from ..settings.reading import load

    settings = load(config_file, {f"hub.{option}": value for option, value in given.items()})
    sources = settings.hub.model_dump(exclude={"endpoint"})
    hub.pull(
        name,
        convert,
        models_dir=settings.models_dir,
        sources=hub.sources_for(name, **sources),
        endpoint=settings.hub.endpoint,
        report=click.echo,
        update=update,
        send_token=send_token,
    )


@models.command("verify")
@click.argument("name", type=KnownModel())
@config_option
def models_verify(name: str, config_file: Path | None) -> None:
    """Check an installed model against its lock file."""
    from .. import hub
    from ..settings.reading import load

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
    from .. import hub
    from ..settings.reading import load

    click.echo(hub.resolve(name, load(config_file, {}).models_dir))
