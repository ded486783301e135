"""Commands. Everything heavy is imported where it is used, so that --help answers at once."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import __version__
from .records import ConfigError, InvsrError

if TYPE_CHECKING:
    from .config import Settings

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
        from .model import hub

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
        from .config import load

        command(state_dir=load(config_file, {"state_dir": state_dir}).state_dir, **rest)

    return config_option(state_option(found))


def daemon_options(command: Callable[..., None]) -> Callable[..., None]:
    """The daemon that is meant, and --json."""
    as_json = click.option("--json", "as_json", is_flag=True, help="JSON, for scripts.")
    return state_dir_options(as_json(command))


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="invsr-daemon")
def main() -> None:
    """Restore films and pictures with InvSR, a diffusion model for super-resolution."""


@main.command()
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
    from .process import process_inputs

    given = {name: value for name, value in options.items() if value is not None}
    settings = dict(changes) | given
    sys.exit(process_inputs(inputs, output, config_file, settings, overwrite=overwrite, as_json=as_json))


@main.command()
@config_option
@click.option("--inbox", type=click.Path(path_type=Path), help="Folder to watch.")
@click.option("--outbox", type=click.Path(path_type=Path), help="Folder for the results.")
@state_option
def run(config_file: Path | None, **folders: Path | None) -> None:
    """Watch the inbox, restore what arrives, publish it in the outbox; until told to stop.

    SIGTERM or Ctrl-C finishes the chunks under way, a second one stops at once. SIGHUP reads config.yaml
    again. Killed in whatever way, it goes on where it was.
    """
    from .config import load
    from .daemon import run_daemon

    def read() -> Settings:
        return load(config_file, dict(folders))

    run_daemon(read(), read)


@main.command()
@daemon_options
def status(state_dir: Path, *, as_json: bool) -> None:
    """Show what the daemon is doing."""
    from . import control

    control.show_status(state_dir, click.echo, as_json=as_json)


@main.group(invoke_without_command=True)
@click.option("--state", "states", multiple=True, type=click.Choice(JOB_STATES), help="Only these.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="At most so many.")
@daemon_options
@click.pass_context
def jobs(
    context: click.Context, state_dir: Path, states: tuple[Any, ...], limit: int, *, as_json: bool
) -> None:
    """List the latest jobs, or `show` one."""
    if context.invoked_subcommand is None:
        from . import control

        control.show_jobs(state_dir, states, limit, click.echo, as_json=as_json)


@jobs.command("show")
@click.argument("job", type=int)
@daemon_options
def jobs_show(job: int, state_dir: Path, *, as_json: bool) -> None:
    """Everything about one job: its changes of state, chunks, last log lines."""
    from . import control

    control.show_job(state_dir, job, click.echo, as_json=as_json)


@main.command()
@click.argument("job_ids", nargs=-1, type=int, metavar="[ID]...")
@click.option("--failed", is_flag=True, help="All that failed.")
@state_dir_options
def retry(state_dir: Path, job_ids: tuple[int, ...], *, failed: bool) -> None:
    """Try failed or cancelled jobs again."""
    from . import control

    control.retry(state_dir, job_ids, click.echo, failed=failed)


@main.command()
@click.argument("job_ids", nargs=-1, required=True, type=int, metavar="ID...")
@state_dir_options
def cancel(state_dir: Path, job_ids: tuple[int, ...]) -> None:
    """Cancel jobs."""
    from . import control

    control.cancel(state_dir, job_ids, click.echo)


@main.command()
@state_dir_options
def pause(state_dir: Path) -> None:
    """Begin no further work until `resume`; files are still accepted."""
    from . import control

    control.pause(state_dir, click.echo)


@main.command()
@state_dir_options
def resume(state_dir: Path) -> None:
    """Go on after `pause`."""
    from . import control

    control.resume(state_dir, click.echo)


@main.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
def doctor(config_file: Path | None, *, as_json: bool) -> None:
    """Tell what is wrong with this machine, the model, the folders and limits, and how to mend it."""
    from .config import load
    from .doctor import examine

    if not examine(load(config_file, {}), click.echo, as_json=as_json):
        sys.exit(FAILED)


@main.group()
def config() -> None:
    """Look at settings."""


@config.command("check")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@config_option
def config_check(file: Path | None, config_file: Path | None) -> None:
    """Tell every mistake in a config.yaml, one a line; encoders are tried with its settings."""
    import asyncio

    from .daemon import config_mistakes

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
    from .config import as_yaml, load

    click.echo(as_yaml(load(config_file, {})), nl=False)


@main.command()
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
    from . import quality

    def say(line: str) -> None:
        click.echo(line, err=True)

    if video:
        click.echo(quality.evaluate_films(inputs, quality.video_options(options), say))
    else:
        click.echo(quality.evaluate_files(inputs, quality.picture_options(options), say))


@main.command()
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
    from .train import Options, train_files

    train_files(Options(**options))


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
@click.argument("name", type=KnownModel())
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
@click.argument("name", type=KnownModel())
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


@main.group()
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
    from . import service as services

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
    from . import service as services

    planned = services.plan(user, config_file, inbox, outbox, root)
    for warning in planned.warnings:
        click.echo(f"invsr-daemon: {warning}", err=True)
    services.install(planned, root, click.echo, force=force)


@service.command("uninstall")
@service_config_option
@service_root_option
def service_uninstall(config_file: Path, root: Path) -> None:
    """Stop the service and remove its files, but what was edited by hand; no data is touched."""
    from . import service as services

    services.uninstall(config_file, root, click.echo)
