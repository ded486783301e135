"""What judges a restored picture beside its pixels: deep features, and a discriminator.

All work on pictures [B,3,H,W] in [-1,1], H and W multiples of 8.
"""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from ..errors import ConfigError
from ..records import BT601_LUMA
from ..restorers.invsr.compact import ResidualBlock

RESIDUAL_BLOCKS = (ResidualBlock, ResnetBlock2D)
# What torchvision keeps of VGG-16 after its first download.
VGG_WEIGHTS = "vgg16-*.pth"
# Brings high frequencies to about the pictures' own range.
HIGH_FREQUENCY_GAIN = 4.0
LUMA_FLOOR = (2 / 255) ** 2  # an error of one level of 255, squared: less is none
TEXTURE_SCALES = 2
TEXTURE_WINDOW = 8
TEXTURE_FLOOR = (1 / 255) ** 2  # half a level of 255, squared: weaker detail is none


def feature_distance(autoencoder: Any, restored: Tensor, sharp: Tensor) -> Tensor:
    """How far two pictures lie apart in the features of an autoencoder's encoder, per picture [B].

    In the manner of LPIPS (Zhang et al. 2018, section 3): activations after every residual block,
    normalised over channels, compared position by position. It is not LPIPS: the network is the base
    model's own encoder, trained on reconstruction, and no layer weights were fitted.
    """
    distance = restored.new_zeros(restored.shape[0])
    with torch.no_grad():
        wanted = _features(autoencoder, sharp)
    for found, target in zip(_features(autoencoder, restored), wanted, strict=True):
        distance = distance + (found - target).square().sum(1).mean((1, 2))
    return distance / len(wanted)


def _features(autoencoder: Any, pictures: Tensor) -> list[Tensor]:
    blocks = [module for module in autoencoder.encoder.modules() if isinstance(module, RESIDUAL_BLOCKS)]
    outputs: list[Tensor] = []
    hooks = [block.register_forward_hook(lambda *call: outputs.append(call[-1])) for block in blocks]
    try:
        autoencoder.encode(pictures)
    finally:
        for hook in hooks:
            hook.remove()
    return [functional.normalize(output.float(), dim=1) for output in outputs]


def load_lpips(device: torch.device) -> nn.Module:
    """LPIPS (Zhang et al. 2018) on VGG-16, frozen: two pictures to [B,1,1,1].

    Nothing is downloaded: raises ConfigError if its library or VGG's weights are not on this machine.
    """
    if find_spec("lpips") is None:
        raise ConfigError("loss.lpips: the library lpips is not installed")
    weights = Path(torch.hub.get_dir()) / "checkpoints"
    if not any(weights.glob(VGG_WEIGHTS)):
        raise ConfigError(f"loss.lpips: there is no {VGG_WEIGHTS} in {weights}, and nothing is downloaded")
    network: nn.Module = importlib.import_module("lpips").LPIPS(net="vgg", verbose=False)
    return network.requires_grad_(False).eval().to(device)


def luma_distance(restored: Tensor, sharp: Tensor) -> Tensor:
    """PSNR of luma upside down, in nepers: the logarithm of each picture's squared error, [B].

    Of a logarithm every picture's share is as large as any other's; of squared errors themselves, pictures
    that are full of detail or noise have nearly all.
    """
    apart = torch.einsum("bchw,c->bhw", restored - sharp, restored.new_tensor(BT601_LUMA))
    return (apart.square().mean((1, 2)) + LUMA_FLOOR).log()


def texture_distance(restored: Tensor, sharp: Tensor) -> Tensor:
    """How far the local strength of detail in two pictures lies apart, per picture [B]; phase does not count.

    Strength is the root mean square of the high frequencies of luma around every fourth pixel, at full and
    at half size; strengths are compared by the absolute difference of their logarithms. A restoration that
    is only faithful is too weak wherever it cannot know the detail. NIQE's coefficients (Mittal et al.
    2013) are normalised by much the same strength.
    """
    distance = restored.new_zeros(restored.shape[0])
    restored, sharp = restored.mean(1, keepdim=True), sharp.mean(1, keepdim=True)
    for _ in range(TEXTURE_SCALES):
        apart = (_log_strength(restored) - _log_strength(sharp)).abs()
        distance = distance + apart.mean((1, 2, 3))
        restored, sharp = functional.avg_pool2d(restored, 2), functional.avg_pool2d(sharp, 2)
    return distance / TEXTURE_SCALES


def _log_strength(luma: Tensor) -> Tensor:
    energy = functional.avg_pool2d(_high_frequencies(luma).square(), TEXTURE_WINDOW, stride=4)
    return 0.5 * (energy + TEXTURE_FLOOR).log()


class Discriminator(nn.Module):
    """Logits for patches of a picture being sharp by nature: [B,3,H,W] -> [B,1,H/8,W/8].

    Spectrally normalised convolutions (Miyato et al. 2018) at 1/4 and 1/8 resolution, over the picture's
    high frequencies alone: with the whole picture it learned nothing in hundreds of steps, without its low
    frequencies it tells nearly every pair apart after fifty.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.PixelUnshuffle(4),
            _convolution(48, width, 3),
            _convolution(width, width, 3),
            _convolution(width, 2 * width, 4, stride=2),
            _convolution(2 * width, 2 * width, 3),
            spectral_norm(nn.Conv2d(2 * width, 1, 3, padding=1)),
        )

    def forward(self, pictures: Tensor) -> Tensor:
        logits: Tensor = self.layers(HIGH_FREQUENCY_GAIN * _high_frequencies(pictures))
        return logits.float()


def _high_frequencies(pictures: Tensor) -> Tensor:
    """What a 3x3 mean takes away."""
    return pictures - functional.avg_pool2d(functional.pad(pictures, (1, 1, 1, 1), "reflect"), 3, 1)


def _convolution(channels_in: int, channels_out: int, kernel: int, stride: int = 1) -> nn.Module:
    convolution = nn.Conv2d(channels_in, channels_out, kernel, stride, padding=1)
    return nn.Sequential(spectral_norm(convolution), nn.LeakyReLU(0.2))


def generator_loss(logits: Tensor) -> Tensor:
    """The restorer's side of the hinge loss (Lim and Ye 2017), per picture [B]."""
    return -logits.mean((1, 2, 3))


def discriminator_loss(sharp: Tensor, restored: Tensor) -> Tensor:
    """The discriminator's side of the hinge loss, a scalar, from both logits."""
    return functional.relu(1 - sharp).mean() + functional.relu(1 + restored).mean()
