"""How good results are: metrics, and tables of methods that one command makes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .evaluate import Options, evaluate_files

__all__ = ["Options", "evaluate_files"]


def __getattr__(name: str) -> Any:
    """Import the command, and with it torch, only where it is asked for."""
    if name in __all__:
        from . import evaluate

        return getattr(evaluate, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
