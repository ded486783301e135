"""`run`, `status`, `pause`, `resume`: the daemon as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .options import config_option, daemon_options, state_dir_options, state_option

if TYPE_CHECKING:
    from ..settings.settings import Settings


@click.command()
@config_option
@click.option("--inbox", type=click.Path(path_type=Path), help="Folder to watch.")
@click.option("--outbox", type=click.Path(path_type=Path), help="Folder for the results.")
@state_option
def run(config_file: Path | None, **folders: Path | None) -> None:
    """Watch the inbox, restore what arrives, publish it in the outbox; until told to stop.

    SIGTERM or Ctrl-C finishes the chunks under way, a second one stops at once. SIGHUP reads config.yaml
    again. Killed in whatever way, it goes on where it was.
    """
    from ..daemon.daemon import run_daemon
    from ..settings.reading import load

    def read() -> Settings:
        return load(config_file, dict(folders))

    run_daemon(read(), read)


@click.command()
@daemon_options
def status(state_dir: Path, *, as_json: bool) -> None:
    """Show what the daemon is doing."""
    from . import control

    control.show_status(state_dir, click.echo, as_json=as_json)


@click.command()
@state_dir_options
def pause(state_dir: Path) -> None:
    """Begin no further work until `resume`; files are still accepted."""
    from . import control

    control.pause(state_dir, click.echo)


@click.command()
@state_dir_options
def resume(state_dir: Path) -> None:
    """Go on after `pause`."""
    from . import control

    control.resume(state_dir, click.echo)
