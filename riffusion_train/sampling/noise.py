"""Noise as a function of a seed and a position, independent of what was drawn before and of what else is made."""

import math

import torch
from torch import Tensor

from riffusion_train.dataset.order import normal

_PARALLEL = 0.9995
"""Cosine above which two tensors count as parallel: the sine of their angle, a divisor, is too small."""


def initial_noise(seed: int, shape: tuple[int, int, int]) -> Tensor:
    """Return the noise of a seed, float32 (C, h, w): the same on every device and in every batch."""
    return torch.from_numpy(normal(seed, "initial noise", shape))


def long_noise(seed: int, shape: tuple[int, int, int], width: int, *, first: int = 0) -> Tensor:
    """Return noise of any width, (C, h, width), that begins with `initial_noise` and continues block by block.

    Wider noise begins with the narrower one.

    Args:
        seed: The seed.
        shape: Shape of a block, (C, h, w).
        width: Number of columns.
        first: First column.
    """
    block = shape[2]
    # Only the blocks that [first, first + width) touches are drawn, each by its own index.
    blocks = range(first // block, -(-(first + width) // block))
    drawn = [torch.from_numpy(normal(seed, "initial noise", shape, index)) for index in blocks]
    start = first - blocks[0] * block
    return torch.cat(drawn, -1)[..., start : start + width]


def step_noise(seed: int, step: int, shape: tuple[int, int, int], width: int) -> Tensor:
    """Return the noise that a solver adds in a step, (C, h, width): a function of the seed, the step and the column.

    So a step is the same in a batch, in a stream, and at the beginning of a longer canvas.

    Args:
        seed: The seed.
        step: The step's number among all from pure noise to the image.
        shape: Shape of a block, (C, h, w).
        width: Number of columns.
    """
    blocks = range(-(-width // shape[2]))
    drawn = [torch.from_numpy(normal(seed, "step noise", shape, step, block)) for block in blocks]
    return torch.cat(drawn, -1)[..., :width]


def slerp(one: Tensor, other: Tensor, share: float) -> Tensor:
    """Interpolate between two tensors on the sphere (Shoemake 1985), which keeps the length.

    Nearly parallel ones are interpolated on a straight line, as in the original Riffusion.

    Args:
        one: Any tensor.
        other: One of the same shape.
        share: 0 is `one`, 1 is `other`.
    """
    if share == 0:
        return one
    cosine = float((one * other).sum() / (one.norm() * other.norm()).clamp(min=1e-12))
    if abs(cosine) > _PARALLEL:
        return torch.lerp(one, other, share)
    angle = math.acos(cosine)
    return (math.sin((1 - share) * angle) * one + math.sin(share * angle) * other) / math.sin(angle)
