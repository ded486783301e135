"""Commands. Everything heavy is imported where it is used, so that --help answers at once."""

from __future__ import annotations

import errno
import sys
from typing import Any

import click

from .. import __version__
from ..errors import ConfigError, InvsrError
from .config import config, doctor
from .daemon import pause, resume, run, status
from .evaluate import evaluate
from .jobs import cancel, jobs, retry
from .models import models
from .options import FAILED, USAGE
from .process import process
from .service import service
from .train import train

# What writing to a full disk, or to a device that is gone, comes to; click itself sees to closed pipes.
STDOUT_FAILS = frozenset({errno.ENOSPC, errno.EIO, errno.EBADF})


class Commands(click.Group):
    """Turns expected errors into one line on stderr and the documented exit code."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().main(*args, **kwargs)
        except OSError as error:
            if error.errno not in STDOUT_FAILS or error.filename is not None:
                raise
            from ..jobs.stopping import forget_stdout

            forget_stdout()
            click.echo(f"invsr-daemon: stdout cannot be written to: {error.strerror}", err=True)
            sys.exit(FAILED)

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except ConfigError as error:
            click.echo(f"invsr-daemon: {error}", err=True)
            context.exit(USAGE)
        except InvsrError as error:
            click.echo(f"invsr-daemon: {error}", err=True)
            context.exit(FAILED)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="invsr-daemon")
def main() -> None:
    """Restore films and pictures with InvSR, a diffusion model for super-resolution."""


for command in (
    *(process, run, status, jobs, retry, cancel, pause, resume),
    *(config, doctor, models, service, evaluate, train),
):
    main.add_command(command)
