"""InvSR: the model, its parts, and where models come from. Knows nothing of files, SQL or config."""

from .invsr import InvSR

__all__ = ["InvSR"]
