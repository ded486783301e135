"""Named models: where they come from, their licences, revisions, checksums, and their conversion.

    MODELS_DIR/NAME/             an installed model, whole and checked; loading.py describes what is inside
    MODELS_DIR/NAME.lock.json    the commits it came from, and the SHA-256 of every file
    MODELS_DIR/.NAME.partial/    a pull that is under way or was interrupted

A revision such as "main" is resolved to a commit when a model is first pulled; from then on the lock
holds every later pull, on this machine or on one the lock was copied to, to the same bytes.

Nothing heavy is imported before it is needed.
"""

from __future__ import annotations

from .installed import (
    Listed,
    default_models_dir,
    fingerprint,
    listing,
    lock_as_it_is,
    require,
    resolve,
    verify,
)
from .known import DEFAULT_MODEL, KNOWN, Sources, sources_for
from .pulling import pull

__all__ = [
    "DEFAULT_MODEL",
    "KNOWN",
    "Listed",
    "Sources",
    "default_models_dir",
    "fingerprint",
    "listing",
    "lock_as_it_is",
    "pull",
    "require",
    "resolve",
    "sources_for",
    "verify",
]
