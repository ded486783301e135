"""Stages of `gpu.py` in which something goes wrong, or another process is there."""

from __future__ import annotations

import hashlib
import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from gpu_device import Setting, capped, ended, peak_bytes, reset_peak, seconds_of
from gpu_models import embedded, full_size, full_tile, picture, psnr, worst
from gpu_results import Findings
from gpu_stages import film_digest, film_model, film_sizes
from torch import Tensor

from invsr_daemon import InvSR
from invsr_daemon.restorers.invsr.model import InvSRNetworks
from invsr_daemon.restorers.options import Options

SCRIPT = str(Path(__file__).with_name("gpu.py"))
MOST_TILES = 16
SAME_PICTURE = 60.0  # dB: what another batch may change
MiB = 1 << 20


# Memory


class Counting(InvSRNetworks):
    """Keeps how many tiles were restored at once. Without a GPU memory ends where `room` says."""

    def __init__(self, networks: InvSRNetworks) -> None:
        super().__init__(networks.parts, networks.device, networks.dtype)
        self.batches: list[int] = []
        self.room: int | None = None

    def restore_tiles(
        self, tiles: Tensor, draws: Mapping[str, Tensor], options: Options, dtype: torch.dtype
    ) -> Tensor:
        if self.room is not None and len(tiles) > self.room:
            raise torch.OutOfMemoryError(
                f"out of memory: {len(tiles)} tiles, and there is room for {self.room}"
            )
        restored = super().restore_tiles(tiles, draws, options, dtype)
        self.batches.append(len(tiles))
        return restored


def memory_stage(setting: Setting, found: Findings) -> None:
    """Too little memory for a batch, then for one tile, then enough again."""
    networks = Counting(full_size(setting, torch.bfloat16).restorer)
    model = InvSR(networks)
    side = full_tile(setting) * 5 // 2  # four by four tiles
    large = picture(side, side)

    def restored() -> tuple[Tensor, int]:
        networks.batches.clear()
        result = model.restore(large, tile_batch=MOST_TILES)
        return result, max(networks.batches)

    reset_peak(setting)
    whole, most = restored()
    peak = peak_bytes(setting)
    with _short_of_memory(setting, networks, most // 4, peak):
        part, fewer = restored()
    found.check("short of memory: fewer tiles at once", fewer < most, fewer, f"< {most}")
    found.above("short of memory: the same picture, PSNR, dB", psnr(part, whole), SAME_PICTURE)
    found.figure("short of memory: the same bits", torch.equal(part, whole))
    _, again = restored()
    found.check("memory is back: as many tiles as before", again == most, again, f"= {most}")
    with _short_of_memory(setting, networks, 0, 0):
        said = _error_of(lambda: InvSR(networks).restore(large, tile_batch=MOST_TILES))
    found.check("no memory for a tile", said.startswith("OutOfMemoryError"), said, "OutOfMemoryError")


def _short_of_memory(
    setting: Setting, networks: Counting, tiles: int, peak: int
) -> AbstractContextManager[None]:
    """Room for so many tiles; on a GPU for a part of what is in use at the `peak`, and nothing at 0."""
    if setting.cuda:
        setting.release()
        used = torch.cuda.memory_reserved(setting.device)
        return capped(setting, used + max(MiB, (peak - used) // 3))
    return _room(networks, tiles)


class _room(AbstractContextManager[None]):
    def __init__(self, networks: Counting, tiles: int) -> None:
        self._networks, self._tiles = networks, tiles

    def __enter__(self) -> None:
        self._networks.room = self._tiles

    def __exit__(self, *_: object) -> None:
        self._networks.room = None


def _error_of(work: Callable[[], object]) -> str:
    """What a call raises: its class and message; "" if nothing."""
    try:
        work()
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:300]
    return ""


def worker_memory(setting: Setting, found: Findings) -> None:
    """A worker tries canvases in main memory and smaller tiles, then says what is wrong."""
    if find_spec("cv2") is None:
        found.note("cv2 is not there: the worker's own message is not looked at")
        return
    from gpu_worker import error_without_memory

    networks = Counting(embedded(setting, torch.float32).restorer)
    with _short_of_memory(setting, networks, 0, 0):
        said = _error_of(lambda: error_without_memory(setting, InvSR(networks)))
    found.check("a worker without memory says so", said.startswith("ResourceError"), said, "ResourceError")


# Other processes


def two_processes(setting: Setting, found: Findings) -> None:
    """The same film by two processes at once on this device, and by this one."""
    own = child_film(setting)["digest"]
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: _answer(setting, "film"), range(2)))
    for number, answer in enumerate(both, 1):
        same = answer["digest"] == own
        found.check(f"process {number} gives the same film", same, answer["digest"][:16], own[:16])
        found.figure(f"process {number}, s", answer["seconds"])


def poisoned(setting: Setting, found: Findings) -> None:
    """After a failed assertion on the device its context is lost for a process, and for that one alone."""
    lost = ended(setting, SCRIPT, "poisoned")
    lines = lost.stdout.strip().splitlines()
    first = lines[0] if lines else f"ended with {lost.returncode}"
    left = len(lines) < 2 and lost.returncode != 0
    told = any("Lost" in json.loads(line).get("kind", "") for line in lines)
    found.check(
        "a lost device ends the worker, or is told as lost",
        left or told,
        first[:300],
        "an end, or ...LostError",
    )
    answer = _answer(setting, "film")
    found.check(
        "a fresh process works",
        answer["digest"] == child_film(setting)["digest"],
        answer["digest"][:16],
        "this one's",
    )


def compiled(setting: Setting, found: Findings) -> None:
    """The decoder through `torch.compile`: what it costs, gains and changes, in two processes."""
    began = time.monotonic()
    first = _compiled_apart(setting)
    for name, value in first.items():
        found.figure(name, value)
    if setting.left() < 1.2 * (time.monotonic() - began):
        found.note("no time for a second process")
        return
    second = _compiled_apart(setting)
    same = first["digest"] == second["digest"]
    found.check("two processes compile to the same bits", same, second["digest"], first["digest"])


def _compiled_apart(setting: Setting) -> dict[str, Any]:
    """In a process without what others have compiled."""
    with tempfile.TemporaryDirectory() as folder:
        return _answer(setting, "compiled", {"TORCHINDUCTOR_CACHE_DIR": folder})


def _answer(setting: Setting, name: str, more: dict[str, str] | None = None) -> dict[str, Any]:
    """What a child said last. Raises RuntimeError if it failed."""
    child: subprocess.CompletedProcess[str] = ended(setting, SCRIPT, name, more)
    if child.returncode:
        raise RuntimeError(f"the process `{name}` ended with {child.returncode}: {child.stderr[-500:]}")
    answer: dict[str, Any] = json.loads(child.stdout.strip().splitlines()[-1])
    return answer


# What the other processes do


def child_film(setting: Setting) -> dict[str, Any]:
    began = time.monotonic()
    digest = film_digest(film_model(setting), film_sizes(setting)[0])
    return {"digest": digest, "seconds": round(time.monotonic() - began, 2)}


def child_compiled(setting: Setting) -> dict[str, Any]:
    """Seconds to compile, what it gains, and the worst difference to the decoder as it is."""
    vae = full_size(setting, torch.float16).restorer.parts.vae
    generator = torch.Generator(setting.device).manual_seed(4)
    batch, side = (1, 8) if setting.dry else (4, 64)
    latents = torch.randn(batch, 4, side, side, device=setting.device, generator=generator).to(vae.dtype)
    with torch.inference_mode():
        hidden = vae.post_quant_conv(latents)
        expected = vae.decoder(hidden)
        # Without a GPU nothing is generated: only the way there is tried.
        backend = "inductor" if setting.cuda else "eager"
        quick: Any = torch.compile(vae.decoder, dynamic=False, backend=backend)
        setting.synchronize()
        began = time.perf_counter()
        result = quick(hidden)
        setting.synchronize()
        compiling = time.perf_counter() - began
        before = seconds_of(setting, lambda: vae.decoder(hidden), runs=3, warm=1)
        after = seconds_of(setting, lambda: quick(hidden), runs=3, warm=1)
    return {
        "compiling, s": round(compiling, 2),
        "decode as it is, ms per tile": round(1e3 * before / batch, 3),
        "decode compiled, ms per tile": round(1e3 * after / batch, 3),
        "gain, times": round(before / after, 3),
        "worst difference": worst(result, expected),
        "digest": hashlib.sha256(result.cpu().float().numpy().tobytes()).hexdigest()[:16],
    }


class Poisoned(InvSRNetworks):
    """Fails an assertion on the device when it is used. On a CPU it raises what torch would."""

    def __init__(self, networks: InvSRNetworks) -> None:
        super().__init__(networks.parts, networks.device, networks.dtype)

    def restore_tiles(
        self, tiles: Tensor, draws: Mapping[str, Tensor], options: Options, dtype: torch.dtype
    ) -> Tensor:
        if self.device.type != "cuda":
            error: type[RuntimeError] = getattr(torch, "AcceleratorError", RuntimeError)
            raise error("CUDA error: device-side assert triggered")
        beyond = torch.full((1,), 1000, device=self.device)
        torch.zeros(4, device=self.device)[beyond].cpu()
        return super().restore_tiles(tiles, draws, options, dtype)


def child_poisoned(setting: Setting, say: Callable[[dict[str, Any]], None]) -> None:
    """Two requests to a worker whose device is lost in the first: what it tells of each."""
    from invsr_daemon.wire.events import event_of

    model = InvSR(Poisoned(embedded(setting, torch.float32).restorer))
    small = picture(40, 64)
    if find_spec("cv2") is None:
        request: Callable[[], object] = lambda: model.restore(small)  # noqa: E731
    else:
        from gpu_worker import picture_by

        request = lambda: picture_by(setting, model, small)  # noqa: E731
    for _ in range(2):
        say(event_of(lambda _line, _progress: request(), "", lambda _frames: None))
