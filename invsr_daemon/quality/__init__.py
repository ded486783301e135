"""How good results are: metrics, and tables of methods that one command makes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError

if TYPE_CHECKING:
    from .evaluate_films import VideoOptions, evaluate_film_files
    from .evaluate_pictures import Options, evaluate_picture_files

__all__ = [
    "Options",
    "VideoOptions",
    "evaluate_film_files",
    "evaluate_picture_files",
    "picture_options",
    "video_options",
]


def picture_options(given: Mapping[str, Any]) -> Options:
    """Of a command line, where None is what was left open. Raises ConfigError for one that is for films."""
    from .evaluate_pictures import Options

    return Options(**_known(given, Options, "goes with --video only"))


def video_options(given: Mapping[str, Any]) -> VideoOptions:
    """The same for `--video`."""
    from .evaluate_films import VideoOptions

    return VideoOptions(**_known(given, VideoOptions, "does not go with --video"))


def _known(given: Mapping[str, Any], kind: type, otherwise: str) -> dict[str, Any]:
    known = {name: value for name, value in given.items() if value is not None}
    for name in known:
        if name not in kind.__annotations__:
            raise ConfigError(f"--{name.removesuffix('_file').replace('_', '-')} {otherwise}")
    return known


def __getattr__(name: str) -> Any:
    """Import the commands, and with them torch, only where they are asked for."""
    from importlib import import_module

    for module, names in (
        ("evaluate_pictures", ("Options", "evaluate_picture_files")),
        ("evaluate_films", ("VideoOptions", "evaluate_film_files")),
    ):
        if name in names:
            return getattr(import_module(f".{module}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
