"""What a training run is: one YAML file, checked before anything is computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataConfig(_Strict):
    list: Path | None = Field(None, description="file of names, beside the configuration")
    longest_sides: tuple[int, ...] = (2048, 1024)
    crop: int = 128
    batch: int = 32
    realistic: float = Field(0.5, ge=0, le=1, description="share of realistically degraded inputs")

    def names(self) -> tuple[str, ...]:
        """Parts of the paths to train on; none: everything."""
        if self.list is None:
            return ()
        lines = (line.strip() for line in self.list.read_text().splitlines())
        return tuple(line for line in lines if line and not line.startswith("#"))


class LossConfig(_Strict):
    """Weights; 0 switches a loss off.

    `perceptual` and `adversarial` count in full from the start timestep `realism_full` up and not at
    all up to `realism_none`, so that a low start stays faithful and a high one may invent texture.
    """

    pixel: float = 1.0
    latent: float = 0.0
    prior: float = 0.0
    perceptual: float = 0.0
    adversarial: float = 0.0
    realism_none: int = 0
    realism_full: int = 1


class TrainConfig(_Strict):
    """One stage of training. `base` (command line) holds the parts that the stage builds on."""

    stage: Literal["autoencoder", "diffusion", "noise_predictor"]
    steps: int = Field(gt=0)
    learning_rate: float = 3e-4
    final_learning_rate: float = 1e-5
    warmup: int = 200
    ema: float = 0.999
    seed: int = 0
    checkpoint_seconds: float = 120
    timesteps: tuple[int, ...] = (250, 200, 150, 100)
    also_train: tuple[Literal["decoder", "unet"], ...] = ()
    from_base: bool = Field(False, description="begin with the part that lies in base already")
    network: dict[str, Any] = {}
    data: DataConfig = DataConfig()
    loss: LossConfig = LossConfig()

    @classmethod
    def read(cls, path: Path) -> TrainConfig:
        """Raises pydantic.ValidationError with every error at once."""
        config = cls.model_validate(yaml.safe_load(path.read_text()))
        if config.data.list is None:
            return config
        beside = config.data.model_copy(update={"list": path.parent / config.data.list})
        return config.model_copy(update={"data": beside})
