"""What a training run is: one YAML file, checked before anything is computed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..errors import ConfigError
from ..timesteps import TRAINED_TIMESTEPS

CONFIGS = Path(__file__).parent / "configs"

Weight = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Timestep = Annotated[int, Field(ge=1, le=TRAINED_TIMESTEPS)]

# Which losses a stage has; the diffusion model's is one and not weighted.
LOSSES = {
    "autoencoder": ("pixel", "prior"),
    "diffusion": (),
    "noise_predictor": (
        "pixel",
        "luma",
        "latent",
        "epsilon",
        "perceptual",
        "lpips",
        "texture",
        "adversarial",
    ),
}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataConfig(_Strict):
    """Where crops come from, and how inputs are made of them."""

    list: Path | None = Field(None, description="file of names, beside the configuration")
    longest_sides: tuple[int, ...] = Field((2048, 1024), description="sizes of a photograph; empty: its own")
    in_memory: bool = Field(True, description="keep every photograph decoded")
    crop: int = Field(128, ge=32, multiple_of=8)
    batch: int = Field(32, ge=1, description="crops per step and process")
    realistic: Share = Field(0.5, description="share of realistically degraded inputs")
    noise: Share = Field(0.0, description="share of inputs with bare noise, not compressed")
    blur: Share = Field(0.0, description="share of blurred inputs; what is left is reduced bicubically")
    workers: int = Field(0, ge=0, le=64, description="threads that prepare batches ahead; 0: none")

    def names(self) -> tuple[str, ...]:
        """Parts of the paths to train on; none: everything. Raises OSError."""
        if self.list is None:
            return ()
        lines = (line.strip() for line in self.list.read_text().splitlines())
        return tuple(line for line in lines if line and not line.startswith("#"))

    @model_validator(mode="after")
    def _shares_of_one_batch(self) -> Self:
        if self.realistic + self.noise + self.blur > 1:
            raise ValueError("realistic, noise and blur are shares: together at most 1")
        return self


class LossConfig(_Strict):
    """Weights; 0 switches a loss off.

    `epsilon` keeps a UNet that is trained along a diffusion model: it predicts noise on sharp latents.
    `perceptual`, `lpips`, `texture` and `adversarial` count in full from the start timestep
    `realism_full` up and not at all up to `realism_none`, so that a low start stays faithful and a high one
    may invent texture.
    """

    pixel: Weight = 1.0
    luma: Weight = 0.0
    latent: Weight = 0.0
    prior: Weight = 0.0
    epsilon: Weight = 0.0
    perceptual: Weight = 0.0
    lpips: Weight = 0.0
    texture: Weight = 0.0
    adversarial: Weight = 0.0
    realism_none: int = 0
    realism_full: int = 1
    discriminator_rate: float = Field(4e-4, gt=0, description="constant after the warm-up")


class TrainConfig(_Strict):
    """One stage of training. `base` (command line) holds the parts that the stage builds on."""

    stage: Literal["autoencoder", "diffusion", "noise_predictor"]
    steps: int = Field(gt=0)
    learning_rate: float = Field(3e-4, gt=0)
    final_learning_rate: float = Field(1e-5, ge=0)
    warmup: int = Field(200, ge=0)
    ema: float = Field(0.999, ge=0, lt=1)
    seed: int = Field(0, ge=0)
    checkpoint_seconds: float = Field(120, ge=0)
    sample_steps: int = Field(500, ge=0, description="steps between two sheets of samples; 0: none")
    report_steps: int = Field(100, ge=1, description="steps between two lines of progress")
    precision: Literal["bf16", "fp32"] = "bf16"
    gradient_checkpointing: bool = False
    timesteps: tuple[Timestep, ...] = Field((250, 200, 150, 100), min_length=1)
    also_train: tuple[Literal["decoder", "unet"], ...] = ()
    from_base: bool = Field(False, description="begin with the part that lies in base already")
    predictor: Literal["compact", "invsr"] | None = Field(None, description="its kind; none: as the base is")
    network: dict[str, Any] = Field({}, description="constructor arguments of what is trained")
    autoencoder: dict[str, Any] = Field({}, description="arguments that differ from those of base's")
    data: DataConfig = DataConfig()
    loss: LossConfig = LossConfig()

    @classmethod
    def read(cls, name_or_file: str | Path) -> TrainConfig:
        """A kept configuration by its name, or a file. A known name goes first (write ./NAME for a file).

        Raises ConfigError with every error at once.
        """
        path = _path(name_or_file)
        try:
            given = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not valid YAML: {error}") from error
        try:
            config = cls.model_validate(given)
        except ValidationError as error:
            raise ConfigError(f"{path}: {'; '.join(map(_told, error.errors()))}") from error
        if config.data.list is None:
            return config
        beside = config.data.model_copy(update={"list": path.parent / config.data.list})
        return config.model_copy(update={"data": beside})

    @model_validator(mode="after")
    def _losses_that_the_stage_has(self) -> Self:
        weights = {name for names in LOSSES.values() for name in names}
        there = LOSSES[self.stage]
        foreign = sorted((self.loss.model_fields_set & weights).difference(there))
        if foreign:
            raise ValueError(f"loss: the stage {self.stage} has no {', '.join(foreign)}")
        if there and not any(getattr(self.loss, name) for name in there):
            raise ValueError(f"loss: all are switched off; the stage {self.stage} has {', '.join(there)}")
        return self

    @model_validator(mode="after")
    def _networks_that_the_stage_has(self) -> Self:
        if self.stage == "noise_predictor":
            return self
        chosen = [name for name in ("also_train", "autoencoder", "predictor") if getattr(self, name)]
        if chosen:
            raise ValueError(f"only the stage noise_predictor knows {', '.join(chosen)}")
        return self


def _path(name_or_file: str | Path) -> Path:
    kept = {path.stem: path for path in sorted(CONFIGS.glob("*.yaml"))}
    path = kept.get(str(name_or_file), Path(name_or_file))
    if not path.is_file():
        raise ConfigError(f"no configuration {path}: not a file, and the kept ones are {', '.join(kept)}")
    return path


def _told(error: Any) -> str:
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        message = "there is no such setting"
    return ".".join(map(str, error["loc"])) + ": " + message if error["loc"] else message
