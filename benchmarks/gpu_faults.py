"""Stages of `gpu.py` in which something goes wrong, or another process is there."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import cache, cached_property, partial
from importlib.util import find_spec
from typing import Any

import torch
from gpu_children import Answer, ChildEnded, Parent
from gpu_device import Setting, capped, peak_bytes, prepare, reset_peak, seconds_of
from gpu_models import embedded, full_autoencoder, full_size, full_tile, picture, psnr, worst
from gpu_results import Findings
from gpu_stages import film_digest, film_model, film_sizes
from torch import Tensor

from invsr_daemon import InvSR
from invsr_daemon.restorers.invsr.model import InvSRNetworks
from invsr_daemon.restorers.options import Options

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


def two_processes(setting: Parent, found: Findings) -> None:
    """The same film by two processes at once on this device, and by this one."""
    own = first_film(setting)
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda child: setting.ask(child, "film"), ("one", "other")))
    for number, answer in enumerate(both, 1):
        same = answer["digest"] == own
        found.check(f"process {number} gives the same film", same, answer["digest"][:16], own[:16])
        found.figure(f"process {number}, s", answer["seconds"])


@cache
def first_film(setting: Setting) -> str:
    """What this process makes of the first film."""
    return film_digest(film_model(setting), film_sizes(setting)[0])


def poisoned(setting: Parent, found: Findings) -> None:
    """After a failed assertion on the device its context is lost for a process, and for that one alone."""
    told = [_told(setting) for _ in range(2)]
    lost = any(each is None or "Lost" in each.get("kind", "") for each in told)
    first = "it ended" if told[0] is None else json.dumps(told[0])[:300]
    found.check("a lost device ends the worker, or is told as lost", lost, first, "an end, or ...LostError")
    answer, own = setting.ask("fresh", "film"), first_film(setting)
    found.check("a fresh process works", answer["digest"] == own, answer["digest"][:16], own[:16])


def _told(setting: Parent) -> Answer | None:
    """What a worker says of a request for which its device is lost; None if it ends instead."""
    try:
        return setting.ask("one", "poisoned")
    except ChildEnded:
        return None


def compiled(setting: Parent, found: Findings) -> None:
    """The decoder through `torch.compile`: what it costs, gains and changes, in two processes at once."""
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda child: setting.ask(child, "compiled"), ("other", "fresh"))
    for name, value in first.items():
        found.figure(name, value)
    same = first["digest"] == second["digest"]
    found.check("two processes compile to the same bits", same, second["digest"], first["digest"])
    for name, value in setting.ask("other", "gain").items():
        found.figure(name, value)


# What the other processes do


class Questions:
    """What a child can be asked."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        prepare(setting)

    def __call__(self, question: str) -> Answer:
        answers: dict[str, Callable[[], Answer]] = {
            "film": self.film,
            "compiled": self.compiled,
            "gain": self.gain,
            "poisoned": self.poisoned,
        }
        return answers[question]()

    def film(self) -> Answer:
        began = time.monotonic()
        return {"digest": first_film(self._setting), "seconds": round(time.monotonic() - began, 2)}

    def compiled(self) -> Answer:
        """Seconds to compile the decoder, and the worst difference to the decoder as it is."""
        setting, decoder = self._setting, self._decoder
        with torch.inference_mode():
            expected = decoder.plain(decoder.latents)
            setting.synchronize()
            began = time.perf_counter()
            result = decoder.quick(decoder.latents)
            setting.synchronize()
        return {
            "compiling, s": round(time.perf_counter() - began, 2),
            "worst difference": worst(result, expected),
            "digest": hashlib.sha256(result.cpu().float().numpy().tobytes()).hexdigest()[:16],
        }

    def gain(self) -> Answer:
        """Milliseconds of the decoder as it is and compiled; nobody else is at work."""
        decoder, batch = self._decoder, len(self._decoder.latents)
        with torch.inference_mode():
            before, after = (
                seconds_of(self._setting, partial(network, decoder.latents), runs=3, warm=1)
                for network in (decoder.plain, decoder.quick)
            )
        return {
            "decode as it is, ms per tile": round(1e3 * before / batch, 3),
            "decode compiled, ms per tile": round(1e3 * after / batch, 3),
            "gain, times": round(before / after, 3),
        }

    @cached_property
    def _decoder(self) -> Decoder:
        return Decoder(self._setting)

    def poisoned(self) -> Answer:
        """A request to a worker whose device is lost in it: what it tells of that."""
        from invsr_daemon.wire.events import event_of

        return event_of(lambda _line, _progress: self._poisoned_picture(), "", lambda _frames: None)

    def _poisoned_picture(self) -> None:
        small = picture(40, 64)
        if find_spec("cv2") is None:
            self._poisoned_model.restore(small)
            return
        from gpu_worker import picture_by

        picture_by(self._setting, self._poisoned_model, small)

    @cached_property
    def _poisoned_model(self) -> InvSR:
        return InvSR(Poisoned(embedded(self._setting, torch.float32).restorer))


class Decoder:
    """That of the full size as it is and compiled, and what is decoded."""

    def __init__(self, setting: Setting) -> None:
        vae = full_autoencoder(setting, torch.float16)
        generator = torch.Generator(setting.device).manual_seed(4)
        batch, side = (1, 8) if setting.dry else (4, 64)
        drawn = torch.randn(batch, 4, side, side, device=setting.device, generator=generator)
        with torch.inference_mode():
            self.latents = vae.post_quant_conv(drawn.to(vae.dtype))
        self.plain = vae.decoder
        # Without a GPU nothing is generated: only the way there is tried.
        self.quick: Any = torch.compile(
            vae.decoder, dynamic=False, backend="inductor" if setting.cuda else "eager"
        )


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
