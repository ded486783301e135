"""Stages of `gpu.py` that measure: the device's ceilings, the embedded model, films, the full size."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from functools import partial

import torch
from gpu_device import Setting, exact_convolutions, peak_bytes, profiled, reset_peak, seconds_of
from gpu_models import Size, embedded, full_size, full_tile, pan, picture, psnr, set_layout, worst
from gpu_results import Findings
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from invsr_daemon import InvSR
from invsr_daemon.restorers.film.restorer import FilmRestorer
from invsr_daemon.restorers.options import Options

HALVES = {"fp16": torch.float16, "bf16": torch.bfloat16}
# Of the embedded model: how far float32 may be from the CPU's, and the least PSNR of others to it, in dB.
FARTHEST, NEAREST = 2e-4, {"fp16": 60.0, "bf16": 45.0}
LAUNCHES = 5000
Steps = dict[str, Callable[[], Tensor]]


# What the device can do at most


def ceilings(setting: Setting, found: Findings) -> None:
    """Matrix products, copies on the device and to it, and what a launch costs."""
    generator = torch.Generator(setting.device).manual_seed(1)
    side = 256 if setting.dry else 8192
    for name, dtype in {**HALVES, "fp32": torch.float32}.items():
        one, other = (
            torch.randn(side, side, device=setting.device, generator=generator).to(dtype) for _ in range(2)
        )
        seconds = seconds_of(setting, partial(torch.mm, one, other))
        found.figure(f"GEMM {name}, TFLOP/s", 2 * side**3 / seconds / 1e12)
    source = torch.empty(2**20 if setting.dry else 2**30, dtype=torch.uint8, device=setting.device)
    target = torch.empty_like(source)
    seconds = seconds_of(setting, lambda: target.copy_(source))
    found.figure("device copy, read and written, TB/s", 2 * source.numel() / seconds / 1e12)
    _host_copies(setting, found, source)
    found.figure("launch, us", 1e6 * _launch_seconds(setting))


def _host_copies(setting: Setting, found: Findings, there: Tensor) -> None:
    for pinned in (False, True) if setting.cuda else (False,):
        here = torch.empty(min(2**27, there.numel()), dtype=torch.uint8, pin_memory=pinned)
        part = there[: here.numel()]
        kind = "pinned" if pinned else "pageable"
        to, back = (seconds_of(setting, partial(a.copy_, b)) for a, b in ((part, here), (here, part)))
        found.figure(f"host to device, {kind}, GB/s", here.numel() / to / 1e9)
        found.figure(f"device to host, {kind}, GB/s", here.numel() / back / 1e9)


def _launch_seconds(setting: Setting) -> float:
    few = torch.zeros(8, device=setting.device)
    setting.synchronize()
    began = time.perf_counter()
    for _ in range(LAUNCHES):
        few.add_(1)
    setting.synchronize()
    return (time.perf_counter() - began) / LAUNCHES


# The embedded model


def embedded_model(setting: Setting, found: Findings) -> None:
    """In each precision against the CPU's float32; the same twice; tiles one by one and four at once."""
    small = picture(*((16, 24) if setting.dry else (180, 320)))
    truth = InvSR.load("default").restore(small)
    with exact_convolutions():
        exact = embedded(setting, torch.float32).restore(small)
    found.below("fp32 without TF32 against the CPU, worst difference", worst(exact, truth), FARTHEST)
    if setting.cuda:
        quick = embedded(setting, torch.float32).restore(small)
        found.figure("fp32 as it is set, PSNR to the CPU, dB", psnr(quick, truth))
    for name, dtype in HALVES.items():
        model = embedded(setting, dtype)
        restored = model.restore(small)
        found.holds(f"{name} finite", bool(restored.isfinite().all()))
        found.above(f"{name} PSNR to float32, dB", psnr(restored, truth), NEAREST[name])
        found.holds(f"{name} twice the same bits", torch.equal(restored, model.restore(small)))
        tile = 16 if setting.dry else 64
        one, four = (model.restore(small, tile=tile, tile_batch=batch) for batch in (1, 4))
        found.above(f"{name} tile_batch 1 against 4, PSNR, dB", psnr(one, four), NEAREST[name])
        found.figure(f"{name} tile_batch 1 and 4 the same bits", torch.equal(one, four))


# Films


def film_sizes(setting: Setting) -> tuple[Size, ...]:
    if setting.dry:
        return (Size("360p", 16, 24, 3, 2), Size("1080p", 24, 32, 3, 2))
    return (Size("360p", 360, 640, 13, 12), Size("1080p", 1080, 1920, 5, 4))


def film_model(setting: Setting) -> InvSR:
    return embedded(setting, torch.float32 if setting.dry else torch.float16)


def film_stage(setting: Setting, found: Findings) -> None:
    """A pan, stable in time: its seconds, what the device does in them, and whether bits repeat."""
    model = film_model(setting)
    for size in film_sizes(setting):
        _one_film(setting, found, model, size)
        setting.release()


def _one_film(setting: Setting, found: Findings, model: InvSR, size: Size) -> None:
    reset_peak(setting)
    first, second = film_digest(model, size), film_digest(model, size)
    found.check(f"{size.name} twice the same bits", first == second, second[:16], first[:16])
    seconds = _film_seconds(setting, model, size) / size.frames
    found.figure(f"{size.name}, s per frame", seconds)
    found.figure(f"{size.name}, peak memory, GB", peak_bytes(setting) / 1e9)
    seen = profiled(setting, lambda: _film_seconds(setting, model, size))
    found.figure(f"{size.name}, kernels per frame", round(seen.kernels / size.frames))
    found.figure(f"{size.name}, host syncs per frame", seen.syncs / size.frames)
    busy = seen.busy / size.frames
    found.figure(f"{size.name}, device busy, s per frame", busy)
    found.figure(f"{size.name}, device waits for the CPU, share", max(0.0, 1 - busy / seconds))


def _restored(model: InvSR, size: Size) -> Iterator[Tensor]:
    options = Options(color_fix="wavelet")
    film = FilmRestorer(model, options, seed=1, interval=size.interval)
    return film.restore(pan(size), range(size.frames))


def film_digest(model: InvSR, size: Size) -> str:
    """Of all bits of a restored film. Raises ValueError if a value is not finite."""
    digest = hashlib.sha256()
    for frame in _restored(model, size):
        if not frame.isfinite().all():
            raise ValueError(f"{size.name} has values that are not finite")
        digest.update(frame.cpu().numpy().tobytes())
    return digest.hexdigest()


def _film_seconds(setting: Setting, model: InvSR, size: Size) -> float:
    """As a worker does it: each frame is rounded to 8 bits on the device, and fetched."""
    setting.synchronize()
    began = time.perf_counter()
    for frame in _restored(model, size):
        with torch.inference_mode():
            frame.mul(255).add_(0.5).to(torch.uint8).cpu()
    return time.perf_counter() - began


# The full size


def full_stage(setting: Setting, found: Findings, dtype_name: str) -> None:
    """Shapes of SD-Turbo and the released predictor: each network's milliseconds for a tile."""
    model = full_size(setting, HALVES[dtype_name])
    operations = {name: _operations(step) for name, step in _steps(setting, model, 1).items()}
    for name, count in operations.items():
        found.figure(f"{name}, TFLOP per tile", count / 1e12)
    gemm = _gemm_ceiling(setting, model.dtype)
    for batch in (1, 2) if setting.dry else (1, 4, 16):
        try:
            _one_batch(setting, found, model, batch, sum(operations.values()) / gemm)
        except torch.OutOfMemoryError:
            found.figure(f"x{batch}", "out of memory")
        setting.release()
    _layouts(setting, found, model)
    found.figure("attention", _attention(setting, model))
    side = full_tile(setting)
    small = picture(side + 16, side)
    restored = model.restore(small)
    found.holds("a picture is finite", bool(restored.isfinite().all()))
    found.holds("a picture twice the same bits", torch.equal(restored, model.restore(small)))
    found.figure("host syncs of a picture", profiled(setting, lambda: model.restore(small)).syncs)


def _one_batch(setting: Setting, found: Findings, model: InvSR, batch: int, least: float) -> None:
    """`least`: seconds for a tile, did it run at the ceiling of matrix products."""
    reset_peak(setting)
    seconds = {}
    for name, step in _steps(setting, model, batch).items():
        found.holds(f"x{batch} {name} finite", bool(step().isfinite().all()))
        seconds[name] = seconds_of(setting, step, runs=3, warm=1) / batch
        found.figure(f"x{batch} {name}, ms per tile", 1e3 * seconds[name])
    total = sum(seconds.values())
    found.figure(f"x{batch} all, ms per tile", 1e3 * total)
    found.figure(f"x{batch} share of GEMM", least / total)
    found.figure(f"x{batch} peak memory, GB", peak_bytes(setting) / 1e9)


def _steps(setting: Setting, model: InvSR, batch: int) -> Steps:
    """What a tile goes through, each by itself."""
    parts, dtype, side = model.restorer.parts, model.dtype, full_tile(setting)
    generator = torch.Generator(setting.device).manual_seed(2)

    def drawn(*shape: int) -> Tensor:
        values = torch.randn(batch, *shape, device=setting.device, generator=generator)
        return values.to(dtype, memory_format=torch.channels_last)

    large, small, latents = drawn(3, 4 * side, 4 * side), drawn(3, side, side), drawn(4, side // 2, side // 2)
    timestep = torch.tensor(199, device=setting.device)
    assert parts.prompt is not None
    prompt = parts.prompt.positive.expand(batch, -1, -1)
    steps: Steps = {
        "encode": lambda: parts.vae.encode(large).latent_dist.mean,
        "predictor": lambda: parts.noise_predictor(small, timestep).mean,
        "UNet": lambda: parts.unet(latents, timestep, encoder_hidden_states=prompt).sample,
        "decode": lambda: parts.vae.decode(latents).sample,
    }
    return {name: torch.inference_mode()(step) for name, step in steps.items()}


def _operations(step: Callable[[], Tensor]) -> int:
    with FlopCounterMode(display=False) as counter:
        step()
    return int(counter.get_total_flops())


def _gemm_ceiling(setting: Setting, dtype: torch.dtype) -> float:
    """FLOP/s of a large matrix product, measured here again: clocks fall while a device is at work."""
    side = 256 if setting.dry else 8192
    generator = torch.Generator(setting.device).manual_seed(1)
    one = torch.randn(side, side, device=setting.device, generator=generator).to(dtype)
    return 2 * side**3 / seconds_of(setting, lambda: one @ one)


def _layouts(setting: Setting, found: Findings, model: InvSR) -> None:
    """Milliseconds for a tile with channels last, as models are loaded, and without."""
    networks = tuple(model.restorer.networks.values())
    batch = 1 if setting.dry else 4
    for name, layout in (("off", torch.contiguous_format), ("on", torch.channels_last)):
        set_layout(networks, layout)
        steps = _steps(setting, model, batch).values()
        total = sum(seconds_of(setting, step, runs=3, warm=1) for step in steps)
        found.figure(f"channels_last {name}, x{batch}, ms per tile", 1e3 * total / batch)


def _attention(setting: Setting, model: InvSR) -> str:
    """The operators and kernels that attention takes in the UNet."""
    seen = profiled(setting, _steps(setting, model, 1)["UNet"])
    telling = ("_scaled_dot_product", "flash", "fmha", "attention")
    names = sorted(name[:80] for name in seen.names if any(each in name.lower() for each in telling))
    return ", ".join(names) or "none is named"
