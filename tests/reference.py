"""Reference cases: what the reference implementation gave for a small model, and how close we come."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import safe_open

from invsr_daemon import InvSR
from invsr_daemon.restorers.noise import GivenNoise, NoiseSource, ZeroNoise


def run_case(model_dir: str | Path, case_file: str | Path) -> float:
    """Largest absolute error of one case, fp32 on the CPU.

    The file holds `input` [1,3,h,w] and `output` [1,3,4h,4w] in [0,1], for `eps: given` the draws of
    every tile, and the settings as metadata.
    """
    with safe_open(case_file, framework="pt") as case:
        settings = case.metadata()
        tensors = {name: case.get_tensor(name) for name in case.keys()}  # noqa: SIM118 (not a dict)
    noise: NoiseSource = ZeroNoise()
    if settings["eps"] == "given":
        noise = GivenNoise(tensors["eps_noise_predictor"], tensors["eps_vae"])
    restored = InvSR.load(model_dir).restore(
        tensors["input"],
        timesteps=json.loads(settings["timesteps"]),
        noise=noise,
        tile=int(settings["tile"]),
        tile_batch=int(settings["tile_batch"]),
        color_fix=settings["color_fix"],
        guidance_scale=float(settings["guidance_scale"]),
    )
    return float((restored - tensors["output"]).abs().max())
