"""Which files have lain still for long enough."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

from ...records import Identity

LONGEST_QUIET_SECONDS = 600.0  # or settle_seconds, if that is longer


class Settling:
    """Which files have stayed the same for long enough. Paths are relative to the inbox.

    Each identity of a path is reported once. What grows after it was reported has to lie still for twice as
    long as before, so that not each state is restored of what is added to again and again. `known` says of an
    identity seen for the first time whether it was dealt with earlier, perhaps in an earlier run, and need
    not be reported at all.
    """

    def __init__(self, settle_seconds: float, known: Callable[[str, Identity], bool]) -> None:
        self._settle_seconds = settle_seconds
        self._known = known
        self._moving: dict[str, tuple[Identity, float]] = {}
        self._settled: dict[str, Identity] = {}
        self._quiet_seconds: dict[str, float] = {}  # of what has grown

    def observe(self, path: str, identity: Identity, began: float, ended: float) -> bool:
        """Whether the file is ready, after a look at it between two times of a clock that never goes back.

        Quiet is counted from the end of the first look to the beginning of this one: never too long.
        """
        settled = self._settled.get(path)
        if settled == identity:
            self._moving.pop(path, None)
            return False
        first, since = self._moving.get(path, (None, ended))
        if first != identity:
            if first is None and settled is not None:
                self._note_growth(path, settled, identity)
            if self._known(path, identity):
                self._settle(path, identity)
            else:
                self._moving[path] = identity, ended
            return False
        if began - since < self._quiet_seconds.get(path, self._settle_seconds):
            return False
        self._settle(path, identity)
        return True

    def _note_growth(self, path: str, before: Identity, now: Identity) -> None:
        if now.may_have_grown_from(before):
            longest = max(self._settle_seconds, LONGEST_QUIET_SECONDS)
            quiet = self._quiet_seconds.get(path, self._settle_seconds)
            self._quiet_seconds[path] = min(2 * quiet, longest)
        else:
            self._quiet_seconds.pop(path, None)

    def _settle(self, path: str, identity: Identity) -> None:
        self._moving.pop(path, None)
        self._settled[path] = identity

    def hold(self, path: str, identity: Identity) -> None:
        """Take back that a file is ready: the next look finds it ready again, if it is the same by then."""
        del self._settled[path]
        self._moving[path] = identity, -math.inf

    def forget(self, path: str) -> None:
        """The file is gone."""
        self._quiet_seconds.pop(path, None)
        self._moving.pop(path, None)
        self._settled.pop(path, None)

    def forget_all_but(self, paths: Collection[str]) -> None:
        """Only these are still there."""
        for path in (self._moving.keys() | self._settled.keys()).difference(paths):
            self.forget(path)

    def moving(self) -> set[str]:
        """What was seen and is not ready."""
        return set(self._moving)
