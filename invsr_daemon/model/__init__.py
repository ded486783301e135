"""InvSR: the model, its parts, and where models come from. Knows nothing of files, SQL or config."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .invsr import InvSR

__all__ = ["InvSR"]


def __getattr__(name: str) -> Any:
    """Import the model, and with it torch, only where it is asked for: `.hub` must stay light."""
    if name == "InvSR":
        from .invsr import InvSR

        return InvSR
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
