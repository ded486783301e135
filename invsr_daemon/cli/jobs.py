"""`jobs`, `jobs show`, `retry`, `cancel`: the jobs of a daemon."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .options import JOB_STATES, daemon_options, state_dir_options


@click.group(invoke_without_command=True)
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


@click.command()
@click.argument("job_ids", nargs=-1, type=int, metavar="[ID]...")
@click.option("--failed", is_flag=True, help="All that failed.")
@state_dir_options
def retry(state_dir: Path, job_ids: tuple[int, ...], *, failed: bool) -> None:
    """Try failed or cancelled jobs again."""
    from . import control

    control.retry(state_dir, job_ids, click.echo, failed=failed)


@click.command()
@click.argument("job_ids", nargs=-1, required=True, type=int, metavar="ID...")
@state_dir_options
def cancel(state_dir: Path, job_ids: tuple[int, ...]) -> None:
    """Cancel jobs."""
    from . import control

    control.cancel(state_dir, job_ids, click.echo)
