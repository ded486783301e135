"""What the processes of a pool may reach: the parent opens their sources, and says where they may write."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from ..confinement import Allowed
from ..files.inputs import opened
from ..hub.lock import lock_path
from ..records import Identity

# Drivers look there for devices, memory and threads. Other processes' secrets Landlock keeps all the same.
MACHINE = ("/proc", "/sys", "/etc/OpenCL", "/etc/vulkan", "/etc/nvidia")
DEVICE_NODES = ("nvidia*", "nvidia-caps/*", "dri/*", "kfd")


@dataclass(frozen=True)
class Reach:
    """`work`: where pieces of work lie. `inbox`: strangers may make links of folders in it."""

    work: Path
    inbox: Path | None = None

    @property
    def scratch(self) -> Path:
        """For the temporary files of libraries."""
        return self.work.with_name("scratch")


def allowed_to_workers(models: Collection[Path], reach: Reach) -> Allowed:
    """Models to read, pieces to write, and what GPUs' drivers and libraries need."""
    return Allowed(
        reads=(
            *map(Path, MACHINE),
            *(path for model in sorted(models) for path in _with_links(model)),
            *map(lock_path, sorted(models)),
        ),
        changes=(reach.work, reach.scratch, Path("/dev/shm"), *_driver_caches()),
        devices=tuple(sorted(path for pattern in DEVICE_NODES for path in Path("/dev").glob(pattern))),
    )


def _with_links(model: Path) -> Iterator[Path]:
    """A model's folder, and what links in it lead to: a download's cache may hold the files."""
    yield model
    yield from (path.resolve() for path in model.rglob("*") if path.is_symlink())


def _driver_caches() -> Iterator[Path]:
    """Where drivers keep what they have compiled, as far as that is there."""
    home = Path(os.environ.get("HOME", "/"))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    yield Path(os.environ.get("CUDA_CACHE_PATH") or home / ".nv" / "ComputeCache")
    yield from (cache / "miopen", home / ".config" / "miopen")


@asynccontextmanager
async def source_of(path: Path, identity: Identity | None, inbox: Path | None) -> AsyncIterator[int]:
    """A source, opened on a thread: its disk may be slow. Raises InputError."""
    with ExitStack() as stack:
        yield await asyncio.to_thread(stack.enter_context, opened(path, identity, inbox))
