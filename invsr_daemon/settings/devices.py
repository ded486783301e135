"""How devices are named in settings and options."""

from __future__ import annotations

import re
from collections.abc import Iterable

# A card, or a part of one (MIG), as `nvidia-smi -L` names it.
UUID = re.compile(r"GPU-[0-9a-fA-F-]+|MIG-(GPU-)?[0-9a-fA-F-]+(/[0-9]+/[0-9]+)?")
NAMES = re.compile(rf"auto|cpu(:0*[1-9][0-9]*)?|cuda(:[0-9]+)?|{UUID.pattern}")


def device_names(names: Iterable[str]) -> tuple[str, ...]:
    """Each `auto`, `cpu`, `cpu:2` (two workers on the CPU), `cuda` (all), `cuda:0` or a UUID, without blanks.

    Raises ValueError if one is none of these.
    """
    names = tuple(name.strip() for name in names)
    for name in names:
        if not NAMES.fullmatch(name):
            raise ValueError(f"{name!r} is none of auto, cpu, cpu:N, cuda, cuda:N, GPU-UUID, MIG-UUID")
    return names
