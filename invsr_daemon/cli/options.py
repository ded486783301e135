"""Options and types that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

FAILED, USAGE = 1, 2  # exit codes


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


class OneSetting(click.ParamType[tuple[str, Any]]):
    """NAME=VALUE: a setting's dotted name, and its value as YAML has it."""

    name = "NAME=VALUE"

    def convert(
        self, value: Any, param: click.Parameter | None, context: click.Context | None
    ) -> tuple[str, Any]:
        import yaml

        if isinstance(value, tuple):
            return value
        name, equals, text = value.partition("=")
        try:
            found = yaml.safe_load(text)
        except yaml.YAMLError:
            found = None
        if not (name and equals) or found is None:
            self.fail(f"{value!r} is not a setting's name and value such as video.crf=16", param, context)
        return name, found


class KnownModel(click.ParamType[str]):
    """A name of `models list`."""

    name = "NAME"

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> str:
        from .. import hub

        if value not in hub.KNOWN:
            self.fail(f"no model is named {value!r}; the names are {', '.join(hub.KNOWN)}", param, context)
        return str(value)


config_option = click.option(
    "-c", "--config", "config_file", type=click.Path(path_type=Path), help="A config.yaml."
)
absolute_path = click.Path(path_type=Path, resolve_path=True)

service_config_option = click.option(
    "-c",
    "--config",
    "config_file",
    default="/etc/invsr-daemon/config.yaml",
    show_default=True,
    type=absolute_path,
    help="The service's config.yaml.",
)

service_root_option = click.option(
    "--root",
    default="/",
    type=absolute_path,
    help="Write below this folder, for an image or a package, and start nothing.",
)

state_option = click.option(
    "--state-dir", type=click.Path(path_type=Path), help="Where the daemon keeps its jobs."
)
JOB_STATES = ("queued", "running", "done", "failed", "cancelled")


def state_dir_options(command: Callable[..., None]) -> Callable[..., None]:
    """-c FILE or --state-dir DIR: which daemon is meant. The command gets `state_dir`."""

    @wraps(command)
    def found(*, config_file: Path | None, state_dir: Path | None, **rest: Any) -> None:
        from ..settings.reading import load

        command(state_dir=load(config_file, {"state_dir": state_dir}).state_dir, **rest)

    return config_option(state_option(found))


def daemon_options(command: Callable[..., None]) -> Callable[..., None]:
    """The daemon that is meant, and --json."""
    as_json = click.option("--json", "as_json", is_flag=True, help="JSON, for scripts.")
    return state_dir_options(as_json(command))
