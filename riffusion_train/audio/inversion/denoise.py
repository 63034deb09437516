"""Noise removed from images before they are inverted.

White noise on the levels does harm twice: it is audible itself, and it makes quiet bands louder, as the fourth power of a
noisy level is larger on average. Its variance is estimated where an image is smoothest; clean images, and those of a model,
hardly change.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from riffusion_train.config.spectrogram import SpectrogramConfig

_BLOCK = 16
"""Side of the blocks whose roughness is compared, in pixels."""

_SMOOTHEST = 0.1
"""Share of the blocks that is assumed to contain only noise."""

_FEWEST_BLOCKS = 20

_OWN_ROUGHNESS = 2.0 / 255
"""Roughness of the smoothest parts of clean music; measured: 0.5 to 2.0 levels."""

_PATCH = (16, 8)
"""Columns and bands of the blocks that are transformed."""

_STEP = 4
"""Distance between neighbouring blocks, in both directions."""

_THRESHOLD = 1.8
"""Coefficients below so many standard deviations of the noise are dropped; the usual 2.7 removes more music than noise."""


def noise_variance(intensity: Tensor, config: SpectrogramConfig) -> Tensor:
    """Estimate the variance of white noise on each image in excess of clean music's roughness, (clips,).

    Columns must overlap at least fourfold: further apart, music itself is as rough as noise, and the estimate is 0.

    Args:
        intensity: From 0 for white to 1 for black, (clips, channels, frames, n_mels).
        config: The codec's parameters.
    """
    clips, _, frames, bands = intensity.shape
    none = intensity.new_zeros(clips)
    if config.win_length < 4 * config.hop_length or min(frames, bands) < 2 * _BLOCK:
        return none
    # Second differences along both axes, which music hardly has where it is smooth.
    rough = intensity.diff(n=2, dim=2).diff(n=2, dim=3).square() / 36  # 36: the energy of (1, -2, 1) x (1, -2, 1)
    inside = intensity[:, :, 1:-1, 1:-1]
    # Noise on white or black is clipped on one side: only blocks of levels in between count.
    whole = F.avg_pool2d(((inside > 0.06) & (inside < 0.99)).float(), _BLOCK) > 0.9
    blocks = F.avg_pool2d(rough, _BLOCK)
    usable = [row[inner] for row, inner in zip(blocks, whole, strict=True)]
    variance = torch.stack([row.quantile(_SMOOTHEST) if len(row) >= _FEWEST_BLOCKS else none[0] for row in usable])
    return (variance - _OWN_ROUGHNESS**2).clamp(min=0)


def remove_noise(intensity: Tensor, config: SpectrogramConfig) -> Tensor:
    """Return intensities without their noise, (clips, channels, frames, n_mels); clean ones stay as they are.

    In the discrete cosine transform of overlapping blocks, music is few large coefficients and noise many small ones. The
    first pass drops the small ones (Yu and Sapiro, DCT image denoising, 2011); its result is the estimate of the music for
    the Wiener filter of the second pass (Dabov et al. 2007, the two steps of BM3D).
    """
    variance = noise_variance(intensity, config)
    if not bool(variance.any()):
        return intensity
    deviation = variance.sqrt().repeat_interleave(intensity.shape[1])[:, None, None, None]
    frames, bands = intensity.shape[-2:]
    times, pitches = _PATCH
    # So that every pixel is in equally many blocks, and a whole number of steps leads to the end.
    margins = (pitches, pitches + -bands % _STEP, times, times + -frames % _STEP)
    planes = F.pad(intensity.flatten(0, 1)[:, None], margins, mode="reflect")
    kernels = (_cosines(times)[:, None, :, None] * _cosines(pitches)[None, :, None, :]).reshape(-1, 1, times, pitches)
    kernels = kernels.to(intensity)
    # First pass: coefficients of all blocks, (planes, times * pitches, rows, columns), and a hard threshold.
    coefficients = F.conv2d(planes, kernels, stride=_STEP)
    large = coefficients.abs() > _THRESHOLD * deviation
    large[:, 0] = True  # the mean of a block
    first = _assemble(coefficients, large.to(coefficients.dtype), kernels)
    # Second pass: the Wiener gain, signal / (signal + noise), from the power of the first estimate.
    power = F.conv2d(first, kernels, stride=_STEP).square()
    smooth = _assemble(coefficients, power / (power + deviation.square()), kernels)
    inside = smooth[..., times : times + frames, pitches : pitches + bands].view_as(intensity).clamp(0, 1)
    return torch.where(variance[:, None, None, None] > 0, inside, intensity)


def _assemble(coefficients: Tensor, gain: Tensor, kernels: Tensor) -> Tensor:
    """Return planes, (planes, 1, frames, bands), from the coefficients of their blocks and a gain for each of them.

    Overlapping blocks are averaged with weight 1 / |gain|^2: the smoother ones count for more (as in BM3D).
    """
    weight = 1 / gain.square().sum(1, keepdim=True).clamp(min=1)
    planes = F.conv_transpose2d(coefficients * gain * weight, kernels, stride=_STEP)
    return planes / F.conv_transpose2d(weight, torch.ones_like(kernels[:1]), stride=_STEP).clamp(min=1e-9)


def _cosines(size: int) -> Tensor:
    """Return the orthonormal discrete cosine transform (DCT-II), (size, size)."""
    index = torch.arange(size, dtype=torch.float32)
    rows = torch.cos(math.pi / size * (index + 0.5) * index[:, None]) * math.sqrt(2 / size)
    rows[0] /= math.sqrt(2)
    return rows
