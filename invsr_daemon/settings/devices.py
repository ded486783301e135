"""How devices are named in settings and options."""

from __future__ import annotations

import re
from collections.abc import Iterable

NAMES = re.compile(r"auto|cpu(:0*[1-9][0-9]*)?|cuda(:[0-9]+)?")


def device_names(names: Iterable[str]) -> tuple[str, ...]:
    """Each `auto`, `cpu`, `cpu:2` (two workers on the CPU), `cuda` (all) or `cuda:0`, blanks taken off.

    Raises ValueError if one is none of these.
    """
    names = tuple(name.strip() for name in names)
    for name in names:
        if not NAMES.fullmatch(name):
            raise ValueError(f"{name!r} is none of auto, cpu, cpu:N, cuda, cuda:N")
    return names
