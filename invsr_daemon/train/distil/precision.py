"""Which precision this processor is quick in."""

from __future__ import annotations

from pathlib import Path

import torch

CPUINFO = Path("/proc/cpuinfo")
QUICK_FLAGS = {"amx_bf16", "avx512_bf16"}


def quick_precision(cpuinfo: Path = CPUINFO) -> torch.dtype:
    """bfloat16 where the processor multiplies it faster, or on CUDA; else float32."""
    if torch.cuda.is_available():
        return torch.bfloat16
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return torch.float32
    flags = next((set(line.split()) for line in lines if line.startswith("flags")), set())
    return torch.bfloat16 if flags & QUICK_FLAGS else torch.float32
