"""Training of the autoencoder, the diffusion UNet and the noise predictor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .command import TrainOptions, train_files

__all__ = ["TrainOptions", "train_files"]


def __getattr__(name: str) -> Any:
    """Import the command, and with it torch, only where it is asked for."""
    if name in __all__:
        from . import command

        return getattr(command, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
