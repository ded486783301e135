"""Pictures by a worker's own means, for `gpu.py`: what a lost device or too little memory meets."""

from __future__ import annotations

from gpu_device import Setting
from gpu_models import EMBEDDED, picture
from torch import Tensor

from invsr_daemon import InvSR
from invsr_daemon.records import ModelSettings, TemporalSettings
from invsr_daemon.workers.device import DeviceRestorer, quantised
from invsr_daemon.workers.faults import device_faults

SETTINGS = ModelSettings(
    model=EMBEDDED,
    timesteps=(200,),
    scale=4.0,
    seed=0,
    tile=None,
    tile_batch=4,
    frame_batch=1,
    color_fix="none",
    guidance_scale=1.0,
    precision="fp32",
    temporal=TemporalSettings("off", 12, 2.0),
)


class Holding(DeviceRestorer):
    """A worker's device with a model that was opened elsewhere."""

    def __init__(self, setting: Setting, model: InvSR) -> None:
        super().__init__(str(setting.device))
        self._held = model

    def model(self, settings: ModelSettings) -> InvSR:
        return self._held


def picture_by(setting: Setting, model: InvSR, small: Tensor) -> None:
    """Restore [1,3,H,W] as a worker restores a picture."""
    pixels = quantised(small[0], 255)
    height, width = pixels.shape[:2]
    with device_faults(setting.device):
        Holding(setting, model).image(pixels, SETTINGS, (4 * width, 4 * height), lambda: None)


def error_without_memory(setting: Setting, model: InvSR) -> None:
    """Raises what a worker tells when memory does not suffice for the smallest tile."""
    picture_by(setting, model, picture(64, 64))
