"""Noise taken off images before they are inverted.

White noise on the levels hurts twice: it is heard itself, and it makes quiet bands louder, as the fourth power of a
disturbed level is on average larger. How much noise there is shows where an image is smoothest; clean images, and
those of a model, are hardly touched.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from riffusion_train.config.spectrogram import SpectrogramConfig

_BLOCK = 16
"""Side of the blocks whose roughness is compared, in pixels."""

_SMOOTHEST = 0.1
"""Share of the blocks that is taken to hold nothing but noise."""

_FEWEST_BLOCKS = 20

_OWN_ROUGHNESS = 2.0 / 255
"""What the smoothest parts of clean music look like; measured: 0.5 to 2.0 levels."""

_ALONG_TIME_SHARE = 0.375
"""Share of white noise's variance in a pixel's distance from the (1, 2, 1) / 4 mean around it: (1/4)^2 + (1/2)^2 + (1/4)^2."""


def noise_variance(darkness: Tensor, config: SpectrogramConfig) -> Tensor:
    """Estimate the variance of white noise on each image beyond what clean music shows, (clips,).

    Columns must overlap fourfold for this: further apart, music itself is as rough as noise, and the answer is 0.

    Args:
        darkness: (clips, channels, frames, n_mels).
        config: The codec's parameters.
    """
    clips, _, frames, bands = darkness.shape
    none = darkness.new_zeros(clips)
    if config.win_length < 4 * config.hop_length or min(frames, bands) < 2 * _BLOCK:
        return none
    rough = darkness.diff(n=2, dim=2).diff(n=2, dim=3).square() / 36  # 36: the energy of (1, -2, 1) x (1, -2, 1)
    inside = darkness[:, :, 1:-1, 1:-1]
    # Noise on white or black is cut off at one side.
    whole = F.avg_pool2d(((inside > 0.06) & (inside < 0.99)).float(), _BLOCK) > 0.9
    blocks = F.avg_pool2d(rough, _BLOCK)
    found = [row[there] for row, there in zip(blocks, whole, strict=True)]
    variance = torch.stack([row.quantile(_SMOOTHEST) if len(row) >= _FEWEST_BLOCKS else none[0] for row in found])
    return (variance - _OWN_ROUGHNESS**2).clamp(min=0)


def denoise(darkness: Tensor, config: SpectrogramConfig) -> Tensor:
    """Return images with the noise on them taken off, (clips, channels, frames, n_mels); clean ones as they are.

    A pixel is drawn towards the mean of itself and its neighbours in time as far as the differences around it are no
    larger than noise makes them (a local Wiener filter, Lee 1980), and the rise that noise brings to a power of
    levels is taken off in second order.
    """
    variance = noise_variance(darkness, config)[:, None, None, None]
    if not bool(variance.any()):
        return darkness
    flat = darkness.flatten(0, 1)
    ahead = F.pad(flat[:, None], (0, 0, 1, 1), mode="replicate")[:, 0]
    mean = ((ahead[:, :-2] + ahead[:, 2:]) / 4 + flat / 2).view_as(darkness)
    apart = darkness - mean
    local = F.avg_pool2d(F.pad(apart.square().flatten(0, 1)[:, None], (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    keep = 1 - _ALONG_TIME_SHARE * variance / local.view_as(darkness).clamp(min=1e-12)
    smooth = mean + keep.clamp(0, 1) * apart
    power = 1 / config.power
    rise = power * (power - 1) / 2 * variance  # of E[(v + n)^power] over v^power, times v^2
    kept = (1 - rise / smooth.square().clamp(min=1e-12)).clamp(min=0).pow(config.power)
    return torch.where(variance > 0, smooth * kept, darkness)
