"""The former place of `InvSR`. It is `invsr_daemon.InvSR` now."""

from __future__ import annotations

import warnings

from . import InvSR

__all__ = ["InvSR"]

warnings.warn(
    "invsr_daemon.model is the former place of InvSR: use `from invsr_daemon import InvSR`",
    DeprecationWarning,
    stacklevel=2,
)
