"""Between mel magnitudes and pixels: what a level means, and which channel is in which colour."""

import dataclasses
from typing import Any

import numba
import numpy as np
import PIL.Image
import torch
from torch import Tensor

from riffusion_train.audio.inversion import kernels
from riffusion_train.config.spectrogram import Channels, Rounding, Scale, SpectrogramConfig
from riffusion_train.runtime.errors import InputError

_FOURTH_ROOT = 0.25


@dataclasses.dataclass(frozen=True)
class Planes:
    """The content of images.

    Attributes:
        intensity: 0 for white to 1 for black, (clips, channels, frames, n_mels), the lowest band first.
        cosine: Cosine of the phase between left and right, (clips, frames, n_mels); None where the images have none.
    """

    intensity: Tensor
    cosine: Tensor | None


def draw_images(mels: Tensor, cosine: Tensor | None, config: SpectrogramConfig) -> tuple[Tensor, Tensor]:
    """Draw mel magnitudes as images: pixel = 255 - 255 (magnitude / reference) ** power.

    Args:
        mels: (clips, channels, frames, n_mels).
        cosine: Cosine of the phase between the channels, (clips, frames, n_mels), with `Channels.stereo_phase`.
        config: The codec's parameters.

    Returns:
        Images, uint8 (clips, n_mels, frames) or (clips, n_mels, frames, 3), and the magnitudes of black, (clips,), 0 for
        digital silence under a scale per image.
    """
    maxima = mels.amax((1, 2, 3))
    if not bool(torch.isfinite(maxima).all()):
        raise InputError("the sound holds samples that are not numbers (NaN or infinite); fix or leave out the file")
    if config.scale is Scale.absolute:
        maxima = torch.full_like(maxima, config.reference_value)
    # Digital silence is divided by one, not by zero, and becomes white.
    black = torch.where(maxima > 0, maxima, torch.ones_like(maxima))[:, None, None, None]
    if config.channels is Channels.mono and config.power == _FOURTH_ROOT and kernels.on_host(mels):
        images = torch.empty(len(mels), mels.shape[3], mels.shape[2], dtype=torch.uint8)
        _draw_grey(mels[:, 0].numpy(), black.view(-1).numpy(), config.rounding is Rounding.nearest, images.numpy())
        return images, maxima
    levels = 255 - _power(mels / black, config.power) * 255
    planes = list(_as_uint8(levels, config).unbind(1))
    if config.channels is Channels.mono:
        return planes[0].mT.flip(1).contiguous(), maxima
    if cosine is None:
        planes.insert(0, torch.zeros_like(planes[0]))
    else:
        planes.append(_as_uint8((1 + cosine) * 127.5, config))
    return torch.stack([plane.mT.flip(1) for plane in planes], -1), maxima


def read_planes(images: Tensor, config: SpectrogramConfig) -> Planes:
    """Read images of any width as `draw_images` makes them, or as a model does, with unequal colours and any levels.

    The colours of a mono image are averaged; a grey image for a stereo codec is both channels, in phase.

    Args:
        images: uint8, or floats from 0 to 1 that are clipped to that range, (clips, n_mels, width) or
            (clips, n_mels, width, 3).
        config: The codec's parameters.

    Raises:
        InputError: If the images do not have the height or kind that the codec makes.
    """
    shape = "x".join(str(size) for size in images.shape[2:0:-1])
    coloured = images.ndim == 4 and images.shape[3] == 3
    if not (images.ndim == 3 or coloured) or images.shape[1] != config.n_mels or images.shape[2] < 2:
        raise InputError(
            f"an image of {shape} px does not fit '{config.name}', which is {config.n_mels} px high; name its preset"
        )
    if images.dtype == torch.uint8:
        levels = images.float() / 255
    elif images.is_floating_point():
        levels = images.float()
    else:
        raise InputError(
            f"an image of {images.dtype} has no known white level; give uint8 levels, or floats from 0 to 1"
        )
    if not bool(torch.isfinite(levels).all()):
        raise InputError("the image holds values that are not numbers (NaN or infinite)")
    levels = levels.clamp(0, 1).flip(1).transpose(1, 2)  # (clips, frames, n_mels[, 3])
    return _planes(levels, config.channels)


def as_tensor(image: np.ndarray | PIL.Image.Image | Tensor) -> Tensor:
    """Return one image as a tensor, (height, width) or (height, width, 3); transparency and palettes become colours."""
    if isinstance(image, PIL.Image.Image):
        image = np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))
    if isinstance(image, np.ndarray):
        return torch.from_numpy(np.ascontiguousarray(image) if image.flags.writeable else image.copy())
    return image


def _planes(levels: Tensor, channels: Channels) -> Planes:
    grey = levels.ndim == 3
    if channels is Channels.mono:
        return Planes(1 - (levels if grey else levels.mean(3))[:, None], None)
    if grey:
        intensity = 1 - levels[:, None].expand(-1, 2, -1, -1)
        return Planes(intensity, torch.ones_like(levels) if channels is Channels.stereo_phase else None)
    planes = levels.movedim(3, 1)
    if channels is Channels.stereo_phase:
        return Planes(1 - planes[:, :2], 2 * planes[:, 2] - 1)
    return Planes(1 - planes[:, 1:], None)


def _as_uint8(levels: Tensor, config: SpectrogramConfig) -> Tensor:
    if config.rounding is Rounding.nearest:
        levels = levels.round()
    return levels.clamp(0, 255).to(torch.uint8)


def _power(values: Tensor, exponent: float) -> Tensor:
    """Raise to a power; a fourth root by two square roots, which are exact to the last bit on any device."""
    return values.sqrt().sqrt() if exponent == _FOURTH_ROOT else values.pow(exponent)


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _draw_grey(mels: Any, black: Any, nearest: bool, images: Any) -> None:
    """Draw mono images with the fourth root, as `draw_images` does, in one loop: mels (clips, frames, bands)."""
    bands = mels.shape[2]
    for clip in range(len(mels)):
        for frame in range(mels.shape[1]):
            for band in range(bands):
                share = np.sqrt(np.sqrt(mels[clip, frame, band] / black[clip]))
                level = max(np.float32(255) - share * np.float32(255), np.float32(0))
                images[clip, bands - 1 - band, frame] = np.uint8(np.rint(level) if nearest else level)
