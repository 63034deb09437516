"""A long sound as several images that overlap, and the way back to one strip.

Each slice is an image of the codec's own size, made as every other clip is, so that a model may work on it. The columns at
its edges saw a reflection where the neighbour has sound; the overlap lets the neighbours fade into each other there. Joining
happens on the images and before the phase is rebuilt, so that no seam is heard.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from riffusion_train.config.errors import InputError

OVERLAP_PX = 16
"""Columns that neighbouring slices share unless told otherwise; more than the window of any preset covers."""


@dataclasses.dataclass(frozen=True)
class Slice:
    """One image of a strip.

    Attributes:
        image: (n_mels, width) or (n_mels, width, 3), uint8.
        start_px: Its first column in the strip.
        max_value: The magnitude of black; None or 0 where nobody knows it.
    """

    image: np.ndarray
    start_px: int
    max_value: float | None


def slice_starts(strip_px: int, width_px: int, overlap_px: int) -> list[int]:
    """Return the first columns of slices that cover a strip; the last one may reach beyond its end.

    Raises:
        InputError: If the overlap leaves no step forward.
    """
    if not 0 <= overlap_px <= width_px // 2:
        raise InputError(f"overlap={overlap_px} must lie between 0 and half of the width, {width_px // 2}")
    step = width_px - overlap_px
    return [0, *range(step, max(strip_px - overlap_px, 0), step)]


def join_slices(slices: Sequence[Slice], power: float, where: str) -> tuple[np.ndarray, float | None]:
    """Join slices into one strip; where they overlap, they fade into each other.

    Args:
        slices: At least one, in any order.
        power: Exponent of the codec, by which images of different maxima are brought to the largest one.
        where: Name of the whole, for messages.

    Returns:
        The strip, floats in [0, 1] of the shape (n_mels, width) or (n_mels, width, 3), and its maximum; None where a
        slice that is not white does not give its own.

    Raises:
        InputError: If a slice is missing between two others, or their heights differ.
    """
    ordered = sorted(slices, key=lambda piece: piece.start_px)
    heights = sorted({len(piece.image) for piece in ordered})
    if len(heights) > 1:
        raise InputError(
            f"{where}: the images are {' and '.join(map(str, heights))} px high; they must be of one codec"
        )
    for before, after in itertools.pairwise(ordered):
        end_px = before.start_px + before.image.shape[1]
        if after.start_px > end_px:
            raise InputError(f"{where}: columns {end_px} to {after.start_px} are in no image; add the missing slice")
    colour = any(piece.image.ndim == 3 for piece in ordered)
    pieces = [_darkness(piece.image, colour) for piece in ordered]  # each (n_mels, width, channels)
    known = all(piece.max_value or not dark.any() for piece, dark in zip(ordered, pieces, strict=True))
    largest = max((piece.max_value or 0.0) for piece in ordered)
    if known and largest > 0:
        pieces = [
            dark * np.float32(((piece.max_value or 0.0) / largest) ** power)
            for piece, dark in zip(ordered, pieces, strict=True)
        ]
    starts = [piece.start_px - ordered[0].start_px for piece in ordered]
    width = max(start + dark.shape[1] for start, dark in zip(starts, pieces, strict=True))
    total = np.zeros((heights[0], width, pieces[0].shape[2]), np.float32)
    weights = np.zeros(width, np.float32)
    for index, (start, dark) in enumerate(zip(starts, pieces, strict=True)):
        end = start + dark.shape[1]
        rising = starts[index - 1] + pieces[index - 1].shape[1] - start if index else 0
        falling = end - starts[index + 1] if index + 1 < len(starts) else 0
        weight = _fade(dark.shape[1], max(rising, 0), max(falling, 0))
        total[:, start:end] += dark * weight[:, None]
        weights[start:end] += weight
    strip = 1 - total / weights[:, None]
    return strip if colour else strip[..., 0], (largest or None) if known else None


def _darkness(image: np.ndarray, colour: bool) -> np.ndarray:
    dark = 1 - image.astype(np.float32) / 255
    if dark.ndim == 2:
        dark = dark[..., None]
    return np.repeat(dark, 3, 2) if colour and dark.shape[2] == 1 else dark


def _fade(width: int, rising: int, falling: int) -> np.ndarray:
    """Return weights that grow over the first columns and fall over the last ones, and are never quite 0."""
    ahead = (np.arange(width) + 1) / (rising + 1)
    return np.minimum(1, np.minimum(ahead, (width - np.arange(width)) / (falling + 1))).astype(np.float32)
