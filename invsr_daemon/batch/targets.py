"""What a command line of `process` names: its inputs, and where the result of each goes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

from ..errors import ConfigError
from ..media.names import FILM_SUFFIXES, PICTURE_SUFFIXES
from ..settings.settings import Settings
from ..wire.plans import Target

RESTORED = "_restored"
KEPT_CONTAINERS = frozenset({".mp4", ".mkv", ".mov"})
NO_SUFFIX, LINK = "no suffix", "symbolic link"
MOST_TOLD = 5  # a message shows so many clashes of names


@dataclass(frozen=True)
class Targets:
    """Inputs as given or found, each with its result's place, and how many other files the folders hold."""

    places: Mapping[Path, Target]
    left_out: Mapping[str, int]


@dataclass(frozen=True)
class _Goal:
    """What -o names."""

    path: Path
    is_folder: bool


def find_targets(inputs: Sequence[Path], output: str | None, settings: Settings) -> Targets:
    """Return every input file with the place of its result. Folders are searched for films and pictures.

    Raises ConfigError if -o does not fit them, or results of several folders would have one name.
    """
    several = len(inputs) > 1 or any(path.is_dir() for path in inputs)
    goal = None if output is None else _goal(output, several=several)
    left_out: Counter[str] = Counter()
    found: dict[Path, Target] = {}
    for path in inputs:
        if path.is_dir():
            results = _beside(path) if goal is None else goal.path
            for file in _films_and_pictures(path, results, left_out):
                place = results.absolute() / file.relative_to(path).parent
                found.setdefault(file, Target(place, file.stem))
        else:
            found.setdefault(path, _target_of(path, goal))
    return Targets(_told_apart(found, settings), left_out)


def _goal(output: str, *, several: bool) -> _Goal:
    """-o names a folder if it ends with a slash, is a folder, or is no name of a film or picture."""
    path = Path(output)
    is_file = path.suffix.lower() in FILM_SUFFIXES | PICTURE_SUFFIXES
    if path.is_dir() or output.endswith(os.sep) or not is_file:
        if path.exists() and not path.is_dir():
            raise ConfigError(f"-o {output}: not a folder")
        return _Goal(path, is_folder=True)
    if several:
        raise ConfigError(
            f"-o {output}: several results need a folder ({output}/ if it is to have that name)"
        )
    return _Goal(path, is_folder=False)


def _target_of(path: Path, goal: _Goal | None) -> Target:
    folder = path.absolute().parent
    if goal is None or (goal.is_folder and goal.path.resolve() == folder.resolve()):
        return Target(folder, path.stem + RESTORED)
    if goal.is_folder:
        return Target(goal.path.absolute(), path.stem)
    return Target(goal.path.absolute().parent, goal.path.stem, goal.path.suffix)


def _beside(folder: Path) -> Path:
    """Where the results of a folder go if nothing was said: NAME_restored."""
    named = Path(os.path.abspath(folder))  # "." and ".." have a name, too
    if not named.name:
        raise ConfigError(f"{folder} has nothing beside it: give a folder for the results with -o")
    return named.with_name(named.name + RESTORED)


def _films_and_pictures(folder: Path, results: Path, left_out: Counter[str]) -> list[Path]:
    """By suffix, in order of their names; other files are counted."""
    if results.resolve() == folder.resolve():
        raise ConfigError(f"-o {results}: results of a folder need another folder than its own")
    found = []
    for path in _files(folder, _inside(folder, results)):
        if path.is_symlink():
            left_out[LINK] += 1
        elif path.suffix.lower() in FILM_SUFFIXES | PICTURE_SUFFIXES:
            found.append(path)
        else:
            left_out[path.suffix.lower() or NO_SUFFIX] += 1
    return found


def _files(folder: Path, earlier: Path | None) -> Iterator[Path]:
    """All files below, without hidden ones and the results' own folder."""
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in relative.parts)
        if path.is_file() and not hidden and not (earlier and relative.is_relative_to(earlier)):
            yield path


def _inside(folder: Path, other: Path) -> Path | None:
    """The relative path of another folder, if it lies in this one."""
    outer, inner = folder.resolve(), other.resolve()
    return inner.relative_to(outer) if inner.is_relative_to(outer) else None


def _told_apart(found: Mapping[Path, Target], settings: Settings) -> dict[Path, Target]:
    """Give each a name of its own. Within one folder the later ones are numbered, as the daemon does it.

    A file that was named twice is taken once. Raises ConfigError where files of several folders clash.
    """
    owners: dict[Path, Path] = {}
    apart: dict[Path, Target] = {}
    clashes = []
    for path in sorted(found, key=lambda path: len(_suffixes(path, settings))):  # certain names first
        for target in _numbered(found[path]):
            names = [target.path(suffix) for suffix in sorted(_suffixes(path, settings))]
            other = next((owners[name] for name in names if name in owners), None)
            if other is None:
                owners |= dict.fromkeys(names, path)
                apart[path] = target
                break
            if other.resolve() == path.resolve():
                break
            if other.absolute().parent != path.absolute().parent:
                clashes.append(f"{other} and {path} would both become {names[0]}")
                break
    if clashes:
        more = f"; and {len(clashes) - MOST_TOLD} more" if len(clashes) > MOST_TOLD else ""
        told = "; ".join(clashes[:MOST_TOLD]) + more
        raise ConfigError(f"{told}: give the results of each folder a folder of their own")
    return {path: apart[path] for path in found if path in apart}


def _numbered(target: Target) -> Iterator[Target]:
    yield target
    for number in count(2):
        yield replace(target, stem=f"{target.stem} ({number})")


def _suffixes(path: Path, settings: Settings) -> frozenset[str]:
    """The suffixes that a result may get, as far as the input's name tells."""
    own = path.suffix.lower()
    if own in PICTURE_SUFFIXES:
        return frozenset({own if settings.image.format == "same" else f".{settings.image.format}"})
    if settings.video.container != "auto":
        return frozenset({f".{settings.video.container}"})
    return frozenset({own}) if own in KEPT_CONTAINERS else frozenset({".mp4", ".mkv"})
