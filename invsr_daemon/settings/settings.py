"""Settings: one schema with every default. `config.yaml` documents it and is checked against it.

All errors of a file are reported together, each with its path, and a misspelt key with the one that
was probably meant.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator

from ..errors import ConfigError
from ..records import ImageSettings, ModelSettings, TemporalSettings, VideoSettings
from ..timesteps import check_timesteps, default_timesteps
from .devices import device_names
from .sections import (
    FailuresSection,
    HubSection,
    ImageSection,
    LimitsSection,
    LogSection,
    OriginalsSection,
    ResultsSection,
    Section,
    VideoSection,
    WatchSection,
    as_list,
    default_state_dir,
    off_of_yaml,
    or_else,
)

MOST_STEPS = 50

# What belongs to the daemon of the moment, whatever folder a file lies in and whenever it was accepted.
SHARED = frozenset(
    {"inbox", "outbox", "state_dir", "models_dir", "settle_seconds", "watch", "devices", "workers"}
    | {"presets", "hub", "log", "keep_days"}
)
SHARED_ONLY = "it holds for the whole daemon and cannot be set by a preset"
SHARED_LIMITS = frozenset({"cpu_threads", "stall_seconds", "min_free_space", "drain_seconds"})


class Settings(Section):
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
    presets: dict[str, dict[str, Any]] = Field(default_factory=dict)
    state_dir: Path = Field(default_factory=default_state_dir)
    models_dir: Path | None = None
    devices: Annotated[
        tuple[str, ...],
        BeforeValidator(as_list),
        or_else("Input should be auto, cpu, cpu:N, cuda or cuda:N, or a list of those"),
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
    temporal: Annotated[Literal["off", "static", "full"], BeforeValidator(off_of_yaml)] = "full"
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

    @property
    def keep_seconds(self) -> float:
        """`keep_days` in seconds."""
        return self.keep_days * 86_400

    def for_preset(self, name: str | None) -> Settings:
        """These settings with a preset's on top; these themselves for a name that no preset has.

        Raises pydantic.ValidationError, or ConfigError for what cannot differ by preset.
        """
        preset = self.presets.get(name or "", {})
        if shared := shared_settings(preset):
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

    def model_settings(self, model_dir: Path, fingerprint: str = "") -> ModelSettings:
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
            fingerprint=fingerprint,
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


def shared_settings(preset: dict[str, Any]) -> list[str]:
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
