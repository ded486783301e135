"""Numbers of other precision, for networks."""

from __future__ import annotations

import torch
from torch import nn


def cast(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Every weight to `dtype` (diffusers' own `to` warns where nothing is wrong)."""
    return nn.Module.to(network, dtype)
