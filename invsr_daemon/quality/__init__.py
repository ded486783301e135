"""How good results are: metrics, and tables of methods that one command makes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError

if TYPE_CHECKING:
    from .evaluate_films import FilmOptions, evaluate_film_files
    from .evaluate_pictures import PictureOptions, evaluate_picture_files

__all__ = [
    "FilmOptions",
    "PictureOptions",
    "evaluate_film_files",
    "evaluate_picture_files",
    "film_options",
    "picture_options",
]


def picture_options(given: Mapping[str, Any]) -> PictureOptions:
    """Of a command line, where None is what was left open. Raises ConfigError for one that is for films."""
    from .evaluate_pictures import PictureOptions

    return PictureOptions(**_known(given, PictureOptions, "goes with --video only"))


def film_options(given: Mapping[str, Any]) -> FilmOptions:
    """The same for `--video`."""
    from .evaluate_films import FilmOptions

    return FilmOptions(**_known(given, FilmOptions, "does not go with --video"))


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
        ("evaluate_pictures", ("PictureOptions", "evaluate_picture_files")),
        ("evaluate_films", ("FilmOptions", "evaluate_film_files")),
    ):
        if name in names:
            return getattr(import_module(f".{module}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
