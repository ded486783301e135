"""Real-ESRGAN x4plus by ncnn on the CPU: the half of `real_esrgan.py` that runs in an environment of its own.

    python benchmarks/real_esrgan_ncnn.py MODEL [--threads N]

MODEL is the path of the network without its suffixes (.param, .bin). Lines on stdin, INPUT.png TAB
OUTPUT.png, are answered one by one with the seconds that the network took. The picture goes through in
one piece, so that tiles leave no trace in it. Needs ncnn, numpy and Pillow, nothing of this project.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import ncnn
import numpy as np
from PIL import Image


def load(model: Path, threads: int) -> ncnn.Net:
    """The network in single precision. Raises FileNotFoundError or ValueError if it cannot be had."""
    network = ncnn.Net()
    network.opt.use_vulkan_compute = False
    network.opt.use_fp16_packed = False
    network.opt.use_fp16_storage = False
    network.opt.use_fp16_arithmetic = False
    network.opt.num_threads = threads
    for suffix, read in ((".param", network.load_param), (".bin", network.load_model)):
        file = model.with_name(model.name + suffix)
        if not file.is_file():
            raise FileNotFoundError(file)
        if read(str(file)):
            raise ValueError(f"ncnn cannot read {file}")
    return network


def enlarge(network: ncnn.Net, source: Path, target: Path) -> float:
    """Four times the source, in 8 bits, as `target`; the seconds without reading and writing."""
    with Image.open(source) as picture:
        whole = np.asarray(picture.convert("RGB"), dtype=np.float32).transpose(2, 0, 1) / 255
    pixels = np.ascontiguousarray(whole)  # needs a name: ncnn.Mat borrows its memory and does not keep it
    began = time.perf_counter()
    extractor = network.create_extractor()
    extractor.input("data", ncnn.Mat(pixels))
    failed, output = extractor.extract("output")
    if failed:
        raise RuntimeError(f"ncnn failed on {source} with code {failed}")
    restored = np.array(output)
    seconds = time.perf_counter() - began
    rounded = (restored.clip(0, 1) * 255).round().astype(np.uint8)
    Image.fromarray(np.ascontiguousarray(rounded.transpose(1, 2, 0))).save(target)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    network = load(arguments.model, arguments.threads)
    for line in sys.stdin:
        source, target = line.rstrip("\n").split("\t")
        print(enlarge(network, Path(source), Path(target)), flush=True)


if __name__ == "__main__":
    main()
