"""`config check`, `config show` and `doctor`: what is set, and what is wrong."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from .options import FAILED, USAGE, config_option


@click.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.option("--gpu", is_flag=True, help="Try each device: half a minute, and one line each.")
def doctor(config_file: Path | None, *, as_json: bool, gpu: bool) -> None:
    """Tell what is wrong with this machine, the model, the folders and limits, and how to mend it."""
    from ..doctor.examine import examine
    from ..settings.reading import load

    if not examine(load(config_file, {}), click.echo, as_json=as_json, gpu=gpu):
        sys.exit(FAILED)


@click.group()
def config() -> None:
    """Look at settings."""


@config.command("check")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@config_option
def config_check(file: Path | None, config_file: Path | None) -> None:
    """Tell every mistake in a config.yaml, one a line; encoders are tried with its settings."""
    import asyncio

    from ..daemon.checks import config_mistakes

    if (file is None) == (config_file is None):
        raise click.UsageError("give one file: `config check FILE` or `config check -c FILE`")
    path = file or config_file
    assert path is not None
    mistakes = asyncio.run(config_mistakes(path))
    for mistake in mistakes:
        click.echo(f"invsr-daemon: {path}: {mistake}", err=True)
    if mistakes:
        sys.exit(USAGE)
    click.echo(f"{path} is right")


@config.command("show")
@config_option
def config_show(config_file: Path | None) -> None:
    """Print the settings that hold, as YAML."""
    from ..settings.reading import as_yaml, load

    click.echo(as_yaml(load(config_file, {})), nl=False)
