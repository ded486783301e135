"""Which optical flow: quality per cost on small frames whose motion is exactly known.

    python benchmarks/flow.py PHOTOGRAPHS [--clips pan,zoom] [--frames 4] [--size 512x384]

Each method sees the poor frames alone, as the daemon does, and tells where every pixel of a frame lies in the
next. EPE is the distance from the truth in pixels of the poor frame where both frames show the same thing,
its mean and its 90th percentile; "trusted" the share of those pixels that forth and back agree about, with
their own mean EPE; "caught" the share of the others (covered, out of the frame, or within 3 sharp pixels of
such a place) that the same check distrusts. The last column is the time for both directions of a pair of
640x360.

Codec vectors are those of x264 without B-frames and with one reference, a kindness: in most films a vector
leads to some other frame. They lead backwards, so the flow is measured in that direction, and there is no
second direction to check against; decoding yields them at no cost to speak of.
"""

from __future__ import annotations

import argparse
import io
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any, cast

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import av
import cv2
import numpy as np
import torch
from av.sidedata.sidedata import Type
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from invsr_daemon.quality.picture_methods import SCALE
from invsr_daemon.quality.samples.clips import Clip, Flow, Pixels, Step
from invsr_daemon.quality.samples.generated import CLIPS, Studio, generated
from invsr_daemon.quality.samples.photographs import read_photographs

Vectors = NDArray[np.float32]  # [h,w,2]
Estimator = Callable[[Pixels, Pixels], Vectors]
MOVING = ("pan-slow", "pan", "pan-fast", "zoom", "rotation", "object", "object-soft", "talking-head")
TIMED = (640, 360)


def dis(preset: int, **settings: int) -> Estimator:
    """OpenCV's DIS flow: Kroeger et al., ECCV 2016. `settings`: what differs from the preset."""

    def estimate(first: Pixels, second: Pixels) -> Vectors:
        flow = cv2.DISOpticalFlow.create(preset)
        for name, value in settings.items():
            getattr(flow, f"set{name}")(value)
        # None: nothing to begin with.
        return np.asarray(flow.calc(grey(first), grey(second), None), np.float32)  # type: ignore[call-overload]

    return estimate


def block_matching(block: int, reach: int = 2, levels: int = 4) -> Estimator:
    """Sums of absolute differences over blocks, coarse to fine; at last to a fraction by a parabola."""

    def estimate(first: Pixels, second: Pixels) -> Vectors:
        pyramid = [(luma(first), luma(second))]
        for _ in range(levels - 1):
            pyramid.append(tuple(functional.avg_pool2d(each, 2, ceil_mode=True) for each in pyramid[-1]))  # type: ignore[arg-type]
        flow = torch.zeros(1, 2, *pyramid[-1][0].shape[-2:])
        for level, (one, other) in enumerate(reversed(pyramid)):
            if level:
                flow = 2 * functional.interpolate(flow, one.shape[-2:], mode="bilinear")
                flow = smoothed(flow, block)  # neighbours must look in the same place
            flow = refined(one, other, flow.round(), block, reach)
        return flow[0].permute(1, 2, 0).contiguous().numpy()

    return estimate


def smoothed(flow: Tensor, block: int) -> Tensor:
    """[1,2,h,w]: the mean over blocks."""
    return functional.avg_pool2d(flow, block, 1, block // 2, count_include_pad=False)


def refined(one: Tensor, other: Tensor, flow: Tensor, block: int, reach: int) -> Tensor:
    """[1,2,h,w]: the best of all shifts by up to `reach` from a whole-numbered flow."""
    height, width = one.shape[-2:]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    shifts = range(-reach, reach + 1)
    costs = []
    for down in shifts:
        for across in shifts:
            y = (rows + flow[0, 1].long() + down).clamp(0, height - 1)
            x = (columns + flow[0, 0].long() + across).clamp(0, width - 1)
            apart = (one - other[0, 0][y, x]).abs()
            costs.append(functional.avg_pool2d(apart, block, 1, block // 2, count_include_pad=False)[0, 0])
    cost = torch.stack(costs).view(2 * reach + 1, 2 * reach + 1, height, width)
    cost = cost + 1e-3 * torch.tensor([[abs(a) + abs(b) for a in shifts] for b in shifts])[..., None, None]
    best = cost.flatten(0, 1).argmin(0)
    y, x = best // (2 * reach + 1), best % (2 * reach + 1)
    found = torch.stack([x + vertex(cost, y, x, 1), y + vertex(cost, y, x, 0)])
    return flow + found[None] - reach


def vertex(cost: Tensor, down: Tensor, across: Tensor, axis: int) -> Tensor:
    """Where between whole shifts the parabola through three costs is least, -0.5 to 0.5."""
    rows, columns = torch.meshgrid(*(torch.arange(side) for side in cost.shape[-2:]), indexing="ij")
    last = cost.shape[0] - 1

    def at(step: int) -> Tensor:
        a = (down + step * (axis == 0)).clamp(0, last)
        b = (across + step * (axis == 1)).clamp(0, last)
        return cost[a, b, rows, columns]

    before, middle, after = at(-1), at(0), at(1)
    bend = before + after - 2 * middle
    return torch.where(bend > 1e-6, (before - after) / (2 * bend), 0.0).clamp(-0.5, 0.5)


def codec_vectors(frames: Sequence[Pixels]) -> list[Vectors]:
    """For each frame from the second: its blocks' vectors to the frame before; NaN where a block has none."""
    height, width = frames[0].shape[:2]
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(25))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {
            "crf": "18",
            "preset": "medium",
            "bf": "0",
            "refs": "1",
            "g": "250",
            "sc_threshold": "0",
        }
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode())
    file.seek(0)
    with av.open(file, "r") as source:
        video = source.streams.video[0]
        video.codec_context.options = {"flags2": "+export_mvs"}
        decoded = list(source.decode(video))
    return [blocks(frame, (height, width)) for frame in decoded[1:]]


def blocks(frame: av.VideoFrame, size: tuple[int, int]) -> Vectors:
    flow = np.full((*size, 2), np.nan, np.float32)
    every = cast("Mapping[Type, Any]", frame.side_data)  # whose stub knows no types of side data
    exported = every.get(Type.MOTION_VECTORS)
    for vector in exported.to_ndarray() if exported is not None else ():
        top, left = vector["dst_y"] - vector["h"] // 2, vector["dst_x"] - vector["w"] // 2
        place = np.s_[max(0, top) : top + vector["h"], max(0, left) : left + vector["w"]]
        flow[place] = (
            vector["motion_x"] / vector["motion_scale"],
            vector["motion_y"] / vector["motion_scale"],
        )
    return flow


@dataclass(frozen=True)
class Errors:
    """Of one pair: EPE [N] of the pixels seen in both frames, which are trusted; of the others how few."""

    apart: NDArray[np.float32]
    trusted: NDArray[np.bool_]
    caught: float


def measured(forward: Vectors, backward: Vectors | None, truth: Flow) -> Errors:
    """Against the exact flow of the sharp frames, reduced."""
    vectors, valid, hidden = reduced(truth)
    known: NDArray[np.bool_] = np.asarray(np.isfinite(forward).all(-1))
    apart = np.linalg.norm(np.nan_to_num(forward) - vectors, axis=-1)
    trusted = known if backward is None else known & agreeing(forward, backward)
    caught = float((~trusted[hidden]).mean()) if hidden.any() else np.nan
    return Errors(apart[valid], trusted[valid], caught)


def reduced(flow: Flow) -> tuple[Vectors, NDArray[np.bool_], NDArray[np.bool_]]:
    """Vectors in poor pixels, and the pixels that have a counterpart wholly, or not at all."""
    vectors = functional.avg_pool2d(flow.vectors[None], SCALE)[0].permute(1, 2, 0) / SCALE
    share = functional.avg_pool2d(flow.valid[None, None].float(), SCALE)[0, 0]
    return vectors.numpy(), (share == 1).numpy(), (share == 0).numpy()


def agreeing(forward: Vectors, backward: Vectors) -> NDArray[np.bool_]:
    """Forth and back again ends near the start: Sundaram, Brox, Keutzer, ECCV 2010, equation 5."""
    height, width = forward.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    there = cv2.remap(
        backward, x + forward[..., 0], y + forward[..., 1], cv2.INTER_LINEAR, borderValue=(1e3, 1e3)
    )
    apart = np.square(forward + there).sum(-1)
    return np.asarray(apart < 0.01 * (np.square(forward).sum(-1) + np.square(there).sum(-1)) + 0.5)


def grey(frame: Pixels) -> Pixels:
    return np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY))


def luma(frame: Pixels) -> Tensor:
    return torch.from_numpy(grey(frame))[None, None].float()


def milliseconds(estimate: Estimator, frames: tuple[Pixels, Pixels], repeats: int = 3) -> float:
    """The least of some runs, for both directions."""
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        estimate(*frames)
        estimate(frames[1], frames[0])
        times.append(time.perf_counter() - begun)
    return 1000 * min(times)


def pairs(clip: Clip, frames: int) -> Iterator[tuple[Step, Step]]:
    before: Step | None = None
    for step in islice(clip.steps(), frames):
        if before is not None and step.motion is not None:
            yield before, step
        before = step


def row(name: str, errors: Sequence[Errors], cost: float) -> str:
    apart = np.concatenate([each.apart for each in errors])
    trusted = np.concatenate([each.trusted for each in errors])
    mean, tail = apart.mean(), np.percentile(apart, 90)
    hidden = [each.caught for each in errors if not np.isnan(each.caught)]
    caught = f"{np.mean(hidden):.0%}" if hidden else "–"
    of_trusted = apart[trusted].mean() if trusted.any() else np.nan
    return (
        f"| {name} | {mean:.3f} | {tail:.3f} | {100 * trusted.mean():.1f} % | {of_trusted:.3f} "
        f"| {caught} | {f'{cost:.0f}' if np.isfinite(cost) else '–'} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("photographs", type=Path)
    parser.add_argument("--clips", default=",".join(MOVING), help=f"of {', '.join(CLIPS)}")
    parser.add_argument("--frames", type=int, default=4, help="of each clip")
    parser.add_argument("--size", default="512x384", help="of the sharp frames")
    given = parser.parse_args()
    cv2.setNumThreads(1)  # its stripes are cut by the number of threads, and decide the result
    torch.set_num_threads(1)
    width, height = map(int, given.size.split("x"))
    studio = Studio(read_photographs([given.photographs], most=6), (height, width), max(given.frames, 24))
    estimators: dict[str, Estimator] = {
        "DIS ultrafast": dis(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST),
        "DIS fast": dis(cv2.DISOPTICAL_FLOW_PRESET_FAST),
        "DIS medium": dis(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM),
        "the same, finest scale": dis(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM, FinestScale=0),
        "the same, 10 refinements": dis(
            cv2.DISOPTICAL_FLOW_PRESET_MEDIUM, FinestScale=0, VariationalRefinementIterations=10
        ),
        "block matching 7x7": block_matching(7),
        "block matching 11x11": block_matching(11),
    }
    big: Pixels = np.asarray(cv2.resize(studio.photograph(0), TIMED, interpolation=cv2.INTER_AREA), np.uint8)
    timed = (big, np.roll(big, (1, 2), (0, 1)))
    costs = {name: milliseconds(estimate, timed) for name, estimate in estimators.items()}
    codec = "codec vectors (x264)"
    costs[codec] = float("nan")
    overall: dict[str, list[Errors]] = {name: [] for name in costs}
    heading = "| {} | EPE | 90 % | trusted | their EPE | caught | ms |\n|---|---:|---:|---:|---:|---:|---:|"
    for clip in generated(given.clips.split(","), studio):
        both = list(pairs(clip, given.frames))
        print(f"\n{heading.format(clip.name)}", flush=True)
        for name, estimate in estimators.items():
            errors = [
                measured(estimate(one.poor, two.poor), estimate(two.poor, one.poor), two.motion.forward)
                for one, two in both
                if two.motion
            ]
            overall[name] += errors
            print(row(name, errors, costs[name]), flush=True)
        exported = codec_vectors([both[0][0].poor, *(two.poor for _, two in both)])
        errors = [
            measured(flow, None, two.motion.backward)
            for flow, (_, two) in zip(exported, both, strict=True)
            if two.motion
        ]
        overall[codec] += errors
        print(row(codec, errors, costs[codec]), flush=True)
    print(f"\n{heading.format('all clips')}")
    for name, errors in overall.items():
        print(row(name, errors, costs[name]))


if __name__ == "__main__":
    main()
