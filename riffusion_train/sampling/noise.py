"""Noise that is a function of a seed and a place, never of what was drawn before or of what else is made."""

import math

import torch
from torch import Tensor

from riffusion_train.dataset.order import normal

_PARALLEL = 0.9995


def initial_noise(seed: int, shape: tuple[int, int, int]) -> Tensor:
    """Return the noise that a seed stands for: float32 (C, h, w), the same on every device and in every batch."""
    return torch.from_numpy(normal(seed, "initial noise", shape))


def long_noise(seed: int, shape: tuple[int, int, int], width: int, *, first: int = 0) -> Tensor:
    """Return noise of any width, (C, h, width), that begins with `initial_noise` and goes on block by block.

    A wider one begins with the narrower one.

    Args:
        seed: The seed.
        shape: Of a block, (C, h, w).
        width: Columns wanted.
        first: Column to begin with.
    """
    block = shape[2]
    blocks = range(first // block, -(-(first + width) // block))
    drawn = [torch.from_numpy(normal(seed, "initial noise", shape, index)) for index in blocks]
    start = first - blocks[0] * block
    return torch.cat(drawn, -1)[..., start : start + width]


def slerp(one: Tensor, other: Tensor, share: float) -> Tensor:
    """Return the point `share` of the way from one tensor to another on the sphere (Shoemake 1985), which keeps the length.

    Nearly parallel ones are mixed on a straight line, as in the original Riffusion.
    """
    if share == 0:
        return one
    cosine = float((one * other).sum() / (one.norm() * other.norm()).clamp(min=1e-12))
    if abs(cosine) > _PARALLEL:
        return torch.lerp(one, other, share)
    angle = math.acos(cosine)
    return (math.sin((1 - share) * angle) * one + math.sin(share * angle) * other) / math.sin(angle)
