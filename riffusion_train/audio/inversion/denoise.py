"""Noise taken off images before they are inverted.

White noise on the levels hurts twice: it is heard itself, and it makes quiet bands louder, as the fourth power of a
disturbed level is on average larger. How much noise there is shows where an image is smoothest; clean images, and
those of a model, are hardly touched.
"""

import math

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

_PATCH = (16, 8)
"""Columns and bands of the blocks that are transformed."""

_STEP = 4
"""From block to block, both ways."""

_THRESHOLD = 1.8
"""Numbers below so many standard deviations of the noise are dropped; at the usual 2.7 more music goes than noise."""


def noise_variance(intensity: Tensor, config: SpectrogramConfig) -> Tensor:
    """Estimate the variance of white noise on each image beyond what clean music shows, (clips,).

    Columns must overlap fourfold for this: further apart, music itself is as rough as noise, and the answer is 0.

    Args:
        intensity: (clips, channels, frames, n_mels).
        config: The codec's parameters.
    """
    clips, _, frames, bands = intensity.shape
    none = intensity.new_zeros(clips)
    if config.win_length < 4 * config.hop_length or min(frames, bands) < 2 * _BLOCK:
        return none
    rough = intensity.diff(n=2, dim=2).diff(n=2, dim=3).square() / 36  # 36: the energy of (1, -2, 1) x (1, -2, 1)
    inside = intensity[:, :, 1:-1, 1:-1]
    # Noise on white or black is cut off at one side.
    whole = F.avg_pool2d(((inside > 0.06) & (inside < 0.99)).float(), _BLOCK) > 0.9
    blocks = F.avg_pool2d(rough, _BLOCK)
    found = [row[there] for row, there in zip(blocks, whole, strict=True)]
    variance = torch.stack([row.quantile(_SMOOTHEST) if len(row) >= _FEWEST_BLOCKS else none[0] for row in found])
    return (variance - _OWN_ROUGHNESS**2).clamp(min=0)


def remove_noise(intensity: Tensor, config: SpectrogramConfig) -> Tensor:
    """Return images with the noise on them taken off, (clips, channels, frames, n_mels); clean ones as they are.

    Overlapping blocks are looked at by the discrete cosine transform, in which music is few large numbers and noise many small
    ones: the small ones are dropped (Yu and Sapiro 2011, DCT image denoising), and what is left tells how much of each number
    to keep in a second pass, as Wiener's filter does (Dabov et al. 2007, the two steps of BM3D).
    """
    variance = noise_variance(intensity, config)
    if not bool(variance.any()):
        return intensity
    deviation = variance.sqrt().repeat_interleave(intensity.shape[1])[:, None, None, None]
    frames, bands = intensity.shape[-2:]
    times, pitches = _PATCH
    # Every pixel lies in as many blocks as any other, and whole steps lead to the end.
    margins = (pitches, pitches + -bands % _STEP, times, times + -frames % _STEP)
    planes = F.pad(intensity.flatten(0, 1)[:, None], margins, mode="reflect")
    kernels = (_cosines(times)[:, None, :, None] * _cosines(pitches)[None, :, None, :]).reshape(-1, 1, times, pitches)
    kernels = kernels.to(intensity)
    found = F.conv2d(planes, kernels, stride=_STEP)
    large = found.abs() > _THRESHOLD * deviation
    large[:, 0] = True  # the mean of a block
    first = _assemble(found, large.to(found.dtype), kernels)
    sure = F.conv2d(first, kernels, stride=_STEP).square()
    smooth = _assemble(found, sure / (sure + deviation.square()), kernels)
    inside = smooth[..., times : times + frames, pitches : pitches + bands].view_as(intensity).clamp(0, 1)
    return torch.where(variance[:, None, None, None] > 0, inside, intensity)


def _assemble(found: Tensor, share: Tensor, kernels: Tensor) -> Tensor:
    """Return planes from the numbers of their blocks and how much of each to keep.

    Where blocks overlap, those that keep little, being the smoother ones, count for more.
    """
    weight = 1 / share.square().sum(1, keepdim=True).clamp(min=1)
    planes = F.conv_transpose2d(found * share * weight, kernels, stride=_STEP)
    return planes / F.conv_transpose2d(weight, torch.ones_like(kernels[:1]), stride=_STEP).clamp(min=1e-9)


def _cosines(size: int) -> Tensor:
    """Return the orthonormal discrete cosine transform (DCT-II), (size, size)."""
    index = torch.arange(size, dtype=torch.float32)
    rows = torch.cos(math.pi / size * (index + 0.5) * index[:, None]) * math.sqrt(2 / size)
    rows[0] /= math.sqrt(2)
    return rows
