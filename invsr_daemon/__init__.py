"""invsr-daemon: restores every video and image dropped into a folder with InvSR."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .restorers.opening import InvSR

__all__ = ["InvSR", "__version__"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import InvSR, and torch with it, only where it is asked for: commands must start without them."""
    if name == "InvSR":
        return import_module("invsr_daemon.restorers.opening").InvSR
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
