"""The sections of config.yaml: their settings, defaults and limits."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)

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


def or_else(said: str) -> WrapValidator:
    """One message for whatever fits no member of a union, in place of each member's own under its type."""

    def check(given: Any, validated: ValidatorFunctionWrapHandler) -> Any:
        try:
            return validated(given)
        except ValidationError as error:
            raise ValueError(said) from error

    return WrapValidator(check)


def as_list(given: Any) -> Any:
    """Several names in one text."""
    return tuple(given.split(",")) if isinstance(given, str) else given


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _all_commented_out(cls, given: Any) -> Any:
        """YAML has null for a name with nothing below it."""
        return {} if given is None else given


class VideoSection(Section):
    """How restored films are encoded."""

    codec: str = "h264"
    crf: int = Field(16, ge=0, le=63)
    preset: Annotated[str, BeforeValidator(str)] = "medium"
    pixel_format: str = "auto"
    container: Literal["auto", "mp4", "mov", "mkv", "nut"] = "auto"
    encoder_threads: int = Field(2, ge=1, le=64)
    options: dict[str, Annotated[str | int | float, or_else("Input should be a text or a number")]] = {}
    chunk_frames: int = Field(48, ge=8, le=100_000)


class ImageSection(Section):
    """How restored pictures are written."""

    format: Literal["same", "png", "jpeg", "webp", "tiff", "bmp"] = "same"
    quality: int = Field(95, ge=1, le=100)


class WatchSection(Section):
    """How the inbox is watched."""

    rescan_seconds: float = Field(60, ge=0.1, le=86_400)
    polling: Literal["auto", "always", "never"] = "auto"
    ignore: tuple[str, ...] = DEFAULT_IGNORE


class ResultsSection(Section):
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


class OriginalsSection(Section):
    """What becomes of an input once its result is published."""

    after: Literal["keep", "archive", "delete"] = "keep"
    archive: Path | None = None

    @model_validator(mode="after")
    def _somewhere(self) -> Self:
        if self.after == "archive" and self.archive is None:
            raise ValueError("archive: a folder is needed to move originals to")
        return self


class FailuresSection(Section):
    """What becomes of an input that cannot be restored."""

    note: bool = True
    move_to: Path | None = None
    attempts: int = Field(3, ge=1, le=100)


class LimitsSection(Section):
    """What is refused, and how much is used."""

    max_input_pixels: int = Field(50_000_000, ge=64)
    max_output_pixels: int = Field(400_000_000, ge=64)
    max_input_size: ByteSize = Field(ByteSize(1024**4), ge=1)
    max_frames: int = Field(5_000_000, ge=1)
    max_duration: float = Field(86_400, gt=0)
    cpu_threads: int = Field(0, ge=0, le=1024)
    max_memory: ByteSize = Field(ByteSize(4 * 1024**3), ge=256 * 1024**2)
    worker_deaths: int = Field(3, ge=1, le=100)
    stall_seconds: float = Field(900, ge=1)
    min_free_space: ByteSize = ByteSize(2 * 1024**3)
    drain_seconds: float = Field(600, ge=0)


class HubSection(Section):
    """Where `models pull` fetches from, where it differs from the built-in table."""

    endpoint: str | None = None
    base_repo: str | None = None
    base_revision: str | None = None
    predictor_repo: str | None = None
    predictor_revision: str | None = None
    predictor_file: str | None = None


class LogSection(Section):
    """What is logged."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "text", "journal", "json"] = "auto"


def default_state_dir() -> Path:
    """$STATE_DIRECTORY (systemd), else the user's state folder."""
    if systemd := os.environ.get("STATE_DIRECTORY"):
        return Path(systemd.split(":")[0])
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "invsr-daemon"


def off_of_yaml(value: Any) -> Any:
    """YAML takes a bare `off` for the opposite of `on`."""
    return "off" if value is False else value
