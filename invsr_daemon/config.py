"""Settings: one schema with every default. `config.yaml` documents it and is checked against it.

All errors of a file are reported together, each with its path, and a misspelt key with the one that
was probably meant.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)
from yaml.reader import ReaderError

from .devices import device_names
from .records import ConfigError, ImageSettings, ModelSettings, TemporalSettings, VideoSettings
from .timesteps import check_timesteps, default_timesteps

MOST_STEPS = 50
# Hidden files (Syncthing's and rsync's partial ones are), unfinished downloads and uploads, editors'
# litter, and the notes that the daemon leaves beside what it could not restore.
DEFAULT_IGNORE = (
    ".*",
    "~*",
    "*.part",
    "*.partial",
    "*.tmp",
    "*.crdownload",
    "*.error.txt",
    "*.nfo",
    "*.srt",
    "Thumbs.db",
    "desktop.ini",
)
# What belongs to the daemon of the moment, whatever folder a file lies in and whenever it was accepted.
SHARED = frozenset(
    {"inbox", "outbox", "state_dir", "models_dir", "settle_seconds", "watch", "devices", "workers"}
    | {"presets", "hub", "log", "keep_days"}
)
SHARED_ONLY = "it holds for the whole daemon and cannot be set by a preset"
SHARED_LIMITS = frozenset({"cpu_threads", "stall_seconds", "min_free_space", "drain_seconds"})


# What to say instead of pydantic's words for Python's types.
SAID = {
    "tuple_type": "Input should be a list, such as [a, b]",
    "path_type": "Input should be a path",
    "dict_type": "Input should be names with values",
    "model_type": "Input should be names with values",
}


def _else(said: str) -> WrapValidator:
    """One message for whatever fits no member of a union, in place of each member's own under its type."""

    def check(given: Any, validated: ValidatorFunctionWrapHandler) -> Any:
        try:
            return validated(given)
        except ValidationError as error:
            raise ValueError(said) from error

    return WrapValidator(check)


def _listed(given: Any) -> Any:
    """Several names in one text."""
    return tuple(given.split(",")) if isinstance(given, str) else given


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _all_commented_out(cls, given: Any) -> Any:
        """YAML has null for a name with nothing below it."""
        return {} if given is None else given


class VideoSection(_Section):
    """How restored films are encoded."""

    codec: str = "h264"
    crf: int = Field(16, ge=0, le=63)
    preset: Annotated[str, BeforeValidator(str)] = "medium"
    pixel_format: str = "auto"
    container: Literal["auto", "mp4", "mov", "mkv", "nut"] = "auto"
    encoder_threads: int = Field(2, ge=1, le=64)
    options: dict[str, Annotated[str | int | float, _else("Input should be a text or a number")]] = {}
    chunk_frames: int = Field(48, ge=8, le=100_000)


class ImageSection(_Section):
    """How restored pictures are written."""

    format: Literal["same", "png", "jpeg", "webp", "tiff", "bmp"] = "same"
    quality: int = Field(95, ge=1, le=100)


class WatchSection(_Section):
    """How the inbox is watched."""

    rescan_seconds: float = Field(60, ge=0.1, le=86_400)
    polling: Literal["auto", "always", "never"] = "auto"
    ignore: tuple[str, ...] = DEFAULT_IGNORE


class ResultsSection(_Section):
    """How the daemon publishes results."""

    collision: Literal["fail", "suffix", "overwrite"] = "suffix"
    name: str = "{stem}"
    mode: str | None = Field(None, pattern="^0?[0-7]{3}$")
    owner: str | None = Field(None, pattern="^[^:]*(:[^:]*)?$")
    sidecar: bool = False

    @field_validator("mode", mode="before")
    @classmethod
    def _quoted(cls, mode: Any) -> Any:
        if isinstance(mode, int):  # for YAML 0640 is an octal number, and 640 another one
            raise ValueError('write it in quotes, such as "0640"')
        return mode

    @field_validator("name")
    @classmethod
    def _a_template(cls, name: str) -> str:
        try:
            made = name.format(stem="a", preset="b", model="c")
        except (KeyError, IndexError, ValueError, AttributeError, MemoryError) as error:
            raise ValueError(f"{name!r} may hold {{stem}}, {{preset}} and {{model}} only") from error
        if "/" in made or "{stem}" not in name:
            raise ValueError(f"{name!r} must hold {{stem}} and no slash")
        return name


class OriginalsSection(_Section):
    """What becomes of an input once its result is published."""

    after: Literal["keep", "archive", "delete"] = "keep"
    archive: Path | None = None

    @model_validator(mode="after")
    def _somewhere(self) -> Self:
        if self.after == "archive" and self.archive is None:
            raise ValueError("archive: a folder is needed to move originals to")
        return self


class FailuresSection(_Section):
    """What becomes of an input that cannot be restored."""

    note: bool = True
    move_to: Path | None = None
    attempts: int = Field(3, ge=1, le=100)


class LimitsSection(_Section):
    """What is refused, and how much is used."""

    max_input_pixels: int = Field(50_000_000, ge=64)
    max_output_pixels: int = Field(400_000_000, ge=64)
    cpu_threads: int = Field(0, ge=0, le=1024)
    worker_deaths: int = Field(3, ge=1, le=100)
    stall_seconds: float = Field(900, ge=1)
    min_free_space: ByteSize = ByteSize(2 * 1024**3)
    drain_seconds: float = Field(600, ge=0)


class HubSection(_Section):
    """Where `models pull` fetches from, where it differs from the built-in table."""

    endpoint: str | None = None
    base_repo: str | None = None
    base_revision: str | None = None
    predictor_repo: str | None = None
    predictor_revision: str | None = None
    predictor_file: str | None = None


class LogSection(_Section):
    """What is logged."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "text", "journal", "json"] = "auto"


def default_state_dir() -> Path:
    """$STATE_DIRECTORY (systemd), else the user's state folder."""
    if systemd := os.environ.get("STATE_DIRECTORY"):
        return Path(systemd.split(":")[0])
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "invsr-daemon"


def _off(value: Any) -> Any:
    """YAML takes a bare `off` for the opposite of `on`."""
    return "off" if value is False else value


class Settings(_Section):
    """Everything that can be set. Each field has its default here and its comment in config.yaml."""

    inbox: Path | None = None
    outbox: Path | None = None
    settle_seconds: float = Field(5, ge=0, le=86_400)
    watch: WatchSection = WatchSection()
    results: ResultsSection = ResultsSection()
    originals: OriginalsSection = OriginalsSection()
    failures: FailuresSection = FailuresSection()
    keep_days: float = Field(90, gt=0, le=36_500)
    priority: int = Field(0, ge=-1000, le=1000)
    presets: dict[str, dict[str, Any]] = {}
    state_dir: Path = Field(default_factory=default_state_dir)
    models_dir: Path | None = None
    devices: Annotated[
        tuple[str, ...],
        BeforeValidator(_listed),
        _else("Input should be auto, cpu, cpu:N, cuda or cuda:N, or a list of those"),
        AfterValidator(device_names),
    ] = ("auto",)
    workers: int = Field(0, ge=0, le=64)
    model: str = "default"
    precision: Literal["auto", "fp32", "fp16", "bf16"] = "auto"
    steps: int | None = Field(None, ge=1, le=MOST_STEPS)
    timesteps: tuple[int, ...] | None = None
    scale: float = Field(4.0, ge=1, le=4)
    seed: int = Field(0, ge=0, lt=2**62)
    tile: int | None = Field(None, ge=16, le=4096)
    tile_batch: int = Field(4, ge=1, le=1024)
    frame_batch: int = Field(1, ge=1, le=256)
    color_fix: Literal["none", "wavelet", "ycbcr"] = "wavelet"
    guidance_scale: float = Field(1.0, ge=1, le=20)
    temporal: Annotated[Literal["off", "static", "full"], BeforeValidator(_off)] = "full"
    noise_anchor_interval: int = Field(12, ge=2, le=240)
    static_tolerance: float = Field(2.0, ge=0, le=64)
    video: VideoSection = VideoSection()
    image: ImageSection = ImageSection()
    limits: LimitsSection = LimitsSection()
    hub: HubSection = HubSection()
    log: LogSection = LogSection()

    @field_validator("presets", mode="before")
    @classmethod
    def _empty_ones(cls, presets: Any) -> Any:
        """The same for names of presets."""
        if not isinstance(presets, dict):
            return presets or {}
        return {name: {} if given is None else given for name, given in presets.items()}

    @field_validator("timesteps")
    @classmethod
    def _one_schedule(cls, timesteps: tuple[int, ...] | None, others: ValidationInfo) -> Any:
        if timesteps is not None:
            if others.data.get("steps") is not None:
                raise ValueError("steps and timesteps exclude each other: give one")
            check_timesteps(timesteps)
        return timesteps

    def for_preset(self, name: str | None) -> Settings:
        """These settings with a preset's on top; these themselves for a name that no preset has.

        Raises pydantic.ValidationError, or ConfigError for what cannot differ by preset.
        """
        preset = self.presets.get(name or "", {})
        if shared := _shared(preset):
            raise ConfigError(f"{shared[0]}: {SHARED_ONLY}")
        given = self.model_dump(exclude={"presets"}, exclude_unset=True)
        if {"steps", "timesteps"} & preset.keys():
            given = {key: value for key, value in given.items() if key not in ("steps", "timesteps")}
        return Settings.model_validate(_merged(given, preset))

    def of_the_job(self) -> dict[str, Any]:
        """What decides one job's result and what becomes of its input, as JSON has it."""
        return self.model_dump(mode="json", exclude=_names(SHARED))

    def with_job(self, own: dict[str, Any]) -> Settings:
        """These settings, but for what `of_the_job` once gave. Raises pydantic.ValidationError."""
        shared = self.model_dump(include=_names(SHARED - {"presets"}))
        limits = {**own.get("limits", {}), **shared.pop("limits")}
        return Settings.model_validate({**own, **shared, "limits": limits})

    def variants(self) -> dict[str, Settings]:
        """These settings, and those of each preset, by the prefix of its settings' names."""
        presets = {f"presets.{name}.": self.for_preset(name) for name in self.presets}
        return {"": self, **presets}

    def put_away(self) -> dict[Path, str]:
        """Folders that inputs are moved to, each with the first setting that names it."""
        found: dict[Path, str] = {}
        for prefix, each in self.variants().items():  # presets inherit
            for name, folder in (
                ("originals.archive", each.originals.archive),
                ("failures.move_to", each.failures.move_to),
            ):
                if folder is not None:
                    found.setdefault(folder, prefix + name)
        return found

    def model_settings(self, model_dir: Path) -> ModelSettings:
        """What decides the networks' results, with the model's directory in place of its name."""
        return ModelSettings(
            model=str(model_dir),
            timesteps=self.schedule(),
            scale=self.scale,
            seed=self.seed,
            tile=self.tile,
            tile_batch=self.tile_batch,
            frame_batch=self.frame_batch,
            color_fix=self.color_fix,
            guidance_scale=self.guidance_scale,
            precision=self.precision,
            temporal=self.temporal_settings(),
        )

    def temporal_settings(self) -> TemporalSettings:
        """What frames of a film learn from each other."""
        return TemporalSettings(self.temporal, self.noise_anchor_interval, self.static_tolerance)

    def schedule(self) -> tuple[int, ...]:
        """The timesteps: given, or the published list for `steps` (one step by default)."""
        return self.timesteps or default_timesteps(self.steps or 1)

    def video_settings(self) -> VideoSettings:
        video = self.video
        options = tuple(sorted((name, str(value)) for name, value in video.options.items()))
        return VideoSettings(
            codec=video.codec,
            crf=video.crf,
            preset=video.preset,
            pixel_format=video.pixel_format,
            container=video.container,
            threads=video.encoder_threads,
            options=options,
        )

    def image_settings(self) -> ImageSettings:
        return ImageSettings(self.image.format, self.image.quality)


def _names(sections: frozenset[str]) -> dict[str, Any]:
    """Sections and the shared limits, as pydantic wants to be told."""
    return {**dict.fromkeys(sections, True), "limits": set(SHARED_LIMITS)}


def _shared(preset: dict[str, Any]) -> list[str]:
    """Names of a preset that cannot be a preset's."""
    limits = preset.get("limits")
    names = limits.keys() & SHARED_LIMITS if isinstance(limits, dict) else ()
    return sorted([*(preset.keys() & SHARED), *(f"limits.{name}" for name in names)])


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Two trees of settings in one; the upper one wins."""
    both = {**below, **above}
    for name in below.keys() & above.keys():
        if isinstance(below[name], dict) and isinstance(above[name], dict | None):
            both[name] = _merged(below[name], above[name] or {})
    return both


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
    for shared in _shared(preset):
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
