"""From config.yaml and options to settings: all mistakes are found and told at once."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from yaml.reader import ReaderError

from ..errors import ConfigError
from .settings import SHARED_ONLY, Settings, shared_settings

# What to say instead of pydantic's words for Python's types.
SAID = {
    "tuple_type": "Input should be a list, such as [a, b]",
    "path_type": "Input should be a path",
    "dict_type": "Input should be names with values",
    "model_type": "Input should be names with values",
}


def load(path: Path | None, overrides: dict[str, Any]) -> Settings:
    """Settings of a YAML file (none: all defaults) with `overrides` (dotted names) on top.

    Raises ConfigError naming every error at once.
    """
    settings, mistakes = examined(path, overrides)
    options = [each for each in mistakes if each.is_of(overrides)]
    in_the_file = "; ".join(str(each) for each in mistakes if each not in options)
    told = [f"{path or 'the settings'}: {in_the_file}"] if in_the_file else []
    told += [each.as_option() for each in options]
    if told:
        raise ConfigError("; ".join(told))
    return settings


@dataclass(frozen=True)
class Mistake:
    """What is wrong with a setting; `name` is dotted."""

    name: str
    said: str

    def __str__(self) -> str:
        return f"{self.name}: {self.said}"

    def is_of(self, overrides: Mapping[str, Any]) -> bool:
        """Whether it is in a value that was given on the command line."""
        return any(
            value is not None and f"{self.name}.".startswith(f"{name}.") for name, value in overrides.items()
        )

    def as_option(self) -> str:
        """With the option's name in place of the setting's; some have only `--set`."""
        name = self.name.removeprefix("hub.").replace("_", "-")
        if "." in name:
            return f"--set {self}"
        return f"--{'device' if name == 'devices' else name}: {self.said}"


def examined(path: Path | None, overrides: dict[str, Any]) -> tuple[Settings, list[Mistake]]:
    """The settings as far as they are right, with defaults for what is not; and every mistake.

    Raises ConfigError for a file that cannot be read.
    """
    given = _read(path) if path else {}
    chosen = {name: value for name, value in overrides.items() if value is not None}
    if {"steps", "timesteps"} & chosen.keys():
        given = {name: value for name, value in given.items() if name not in ("steps", "timesteps")}
    for name, value in chosen.items():
        _override(given, name, value)
    settings, mistakes = _validated(given)
    presets = {}
    for name in settings.presets:
        presets[name], further = _preset(settings, name)
        mistakes += further
    return settings.model_copy(update={"presets": presets}) if presets else settings, mistakes


def _validated(given: dict[str, Any]) -> tuple[Settings, list[Mistake]]:
    """What is wrong is taken out of `given`, so that the rest can be looked at."""
    try:
        return Settings.model_validate(given), []
    except ValidationError as error:
        mistakes = [_explained(each) for each in error.errors()]
        _drop_all(given, error)
    settings, further = _validated(given)
    names = [each.name for each in mistakes]
    # A section may only seem to lack what was taken out of it.
    new = [each for each in further if not any(f"{name}.".startswith(f"{each.name}.") for name in names)]
    return settings, mistakes + new


def _preset(settings: Settings, name: str) -> tuple[dict[str, Any], list[Mistake]]:
    """A preset as far as it is right, and its mistakes."""
    preset = deepcopy(settings.presets[name])
    mistakes = []
    for shared in shared_settings(preset):
        mistakes.append(Mistake(shared, SHARED_ONLY))
        _drop(preset, tuple(shared.split(".")))
    while True:
        try:
            settings.model_copy(update={"presets": {name: preset}}).for_preset(name)
            return preset, [Mistake(f"presets.{name}.{each.name}", each.said) for each in mistakes]
        except ValidationError as error:
            mistakes += [_explained(each) for each in error.errors()]
            _drop_all(preset, error)


def _drop_all(given: dict[str, Any], error: ValidationError) -> None:
    """Take out what is wrong; everything, if it is nowhere to be found."""
    if not any([_drop(given, each["loc"]) for each in error.errors()]):
        given.clear()


def _drop(given: dict[str, Any], location: tuple[int | str, ...]) -> bool:
    """Take out the innermost part of a location that is there; whether there was one."""
    for part, further in zip(location, (*location[1:], None), strict=True):
        if part not in given:
            return False
        inner = given[part]
        if not isinstance(inner, dict) or further not in inner:
            del given[part]
            return True
        given = inner
    return False


def as_yaml(settings: Settings) -> str:
    """All settings as YAML that `load` reads back."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _read(path: Path) -> dict[str, Any]:
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {_yaml_problem(error)}") from error
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise ConfigError(f"{path} must hold names and values, not a {type(given).__name__}")
    return given


def _yaml_problem(error: Exception) -> str:
    """In one line, with the place as editors count."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    if isinstance(error, ReaderError):
        return f"character {error.position + 1}: {error.reason}"
    return str(error)


def _override(given: dict[str, Any], name: str, value: object) -> None:
    *sections, last = name.split(".")
    inner: Any = given
    for section in sections:
        if inner.get(section) is None:
            inner[section] = {}
        inner = inner[section]
        if not isinstance(inner, dict):
            return  # of which the schema will complain
    inner[last] = value


def _explained(error: Any) -> Mistake:
    location, said = error["loc"], SAID.get(error["type"], error["msg"])
    if location[-1:] == ("[key]",):
        location, said = location[:-1], "Input should be a text: write it in quotes"
    path = ".".join(map(str, location)) or "settings"
    if error["type"] == "extra_forbidden":
        close = difflib.get_close_matches(str(error["loc"][-1]), _names_beside(error["loc"]), n=1)
        return Mistake(path, "there is no such setting" + (f"; did you mean {close[0]!r}?" if close else ""))
    return Mistake(path, said.removeprefix("Value error, "))


def _names_beside(location: tuple[int | str, ...]) -> list[str]:
    section: type[BaseModel] = Settings
    for part in location[:-1]:
        section = section.model_fields[str(part)].annotation  # type: ignore[assignment]
    return list(section.model_fields)
