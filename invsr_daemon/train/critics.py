"""What judges a restored picture beside its pixels: deep features, and a discriminator.

Both work on pictures [B,3,H,W] in [-1,1], H and W multiples of 8.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from ..model.compact import CompactAutoencoder, ResidualBlock


def feature_distance(autoencoder: CompactAutoencoder, restored: Tensor, sharp: Tensor) -> Tensor:
    """How far two pictures lie apart in the features of this project's own encoder, per picture [B].

    In the manner of LPIPS (Zhang et al. 2018, section 3): activations after every residual block,
    normalised over channels, compared position by position. It is not LPIPS: the network is the
    embedded autoencoder's encoder, trained on reconstruction, and no layer weights were fitted.
    """
    distance = restored.new_zeros(restored.shape[0])
    with torch.no_grad():
        wanted = _features(autoencoder, sharp)
    for found, target in zip(_features(autoencoder, restored), wanted, strict=True):
        distance = distance + (found - target).square().sum(1).mean((1, 2))
    return distance / len(wanted)


def _features(autoencoder: CompactAutoencoder, pictures: Tensor) -> list[Tensor]:
    features = []
    h = pictures
    for layer in autoencoder.encoder:
        h = layer(h)
        if isinstance(layer, ResidualBlock):
            features.append(functional.normalize(h.float(), dim=1))
    return features


class Discriminator(nn.Module):
    """Logits for patches of a picture being sharp by nature: [B,3,H,W] -> [B,1,H/8,W/8].

    Spectrally normalised convolutions (Miyato et al. 2018) at 1/4 and 1/8 resolution.
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
        logits: Tensor = self.layers(pictures)
        return logits.float()


def _convolution(channels_in: int, channels_out: int, kernel: int, stride: int = 1) -> nn.Module:
    convolution = nn.Conv2d(channels_in, channels_out, kernel, stride, padding=1)
    return nn.Sequential(spectral_norm(convolution), nn.LeakyReLU(0.2))


def generator_loss(logits: Tensor) -> Tensor:
    """The restorer's side of the hinge loss (Lim and Ye 2017), per picture [B]."""
    return -logits.mean((1, 2, 3))


def discriminator_loss(sharp: Tensor, restored: Tensor) -> Tensor:
    """The discriminator's side of the hinge loss, a scalar, from both logits."""
    return functional.relu(1 - sharp).mean() + functional.relu(1 + restored).mean()
