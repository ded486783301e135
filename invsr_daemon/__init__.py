"""invsr-daemon: restores every video and image dropped into a folder with InvSR."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .restorers.invsr.model import InvSR

__all__ = ["InvSR", "__version__"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import InvSR, and torch with it, only where it is asked for: commands must start without them."""
    if name == "InvSR":
        from .restorers.invsr.model import InvSR

        return InvSR
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
