"""`service`: the systemd unit and its folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from .options import absolute_path, service_config_option, service_root_option


@click.group()
def service() -> None:
    """The systemd service: its unit, its user, its folders."""


def service_options(command: Callable[..., None]) -> Callable[..., None]:
    """What an installation is made of."""
    for option in (
        click.option("--outbox", type=absolute_path, help="Default: /srv/invsr/outbox."),
        click.option("--inbox", type=absolute_path, help="Default: /srv/invsr/inbox."),
        service_config_option,
        click.option("--user", default="invsr-daemon", show_default=True, help="Whom it runs as."),
    ):
        command = option(command)
    return command


@service.command("print")
@service_options
def service_print(user: str, config_file: Path, inbox: Path | None, outbox: Path | None) -> None:
    """Show the files that `install` would write."""
    from ..systemd import service as services

    planned = services.plan(user, config_file, inbox, outbox, Path("/"))
    for warning in planned.warnings:
        click.echo(f"invsr-daemon: {warning}", err=True)
    click.echo("\n".join(f"# {file.path}\n{file.text}" for file in services.files(planned)), nl=False)


@service.command("install")
@service_options
@service_root_option
@click.option("--force", is_flag=True, help="Replace files that were edited by hand, but not the config.")
def service_install(
    user: str, config_file: Path, inbox: Path | None, outbox: Path | None, root: Path, *, force: bool
) -> None:
    """Write them, make user and folders, and tell systemd.

    The folders are those of the config; where there is none yet, one is written with --inbox and --outbox.
    Run it again when they change.
    """
    from ..systemd import service as services

    planned = services.plan(user, config_file, inbox, outbox, root)
    for warning in planned.warnings:
        click.echo(f"invsr-daemon: {warning}", err=True)
    services.install(planned, root, click.echo, force=force)


@service.command("uninstall")
@service_config_option
@service_root_option
def service_uninstall(config_file: Path, root: Path) -> None:
    """Stop the service and remove its files, but what was edited by hand; no data is touched."""
    from ..systemd import service as services

    services.uninstall(config_file, root, click.echo)
