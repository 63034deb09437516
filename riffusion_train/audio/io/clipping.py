"""Clipping: the extremes of a sound, and the share of its samples that are cut off at full scale."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

_FULL_SCALE = 0.97
"""Lower peaks are not clipping: a lossy copy of a clipped track overshoots rather than falls below."""
_SHORTEST_RUN = 3
CLIPPED_SHARE = 1e-4
"""From this share on a track is called clipped: audible, with some flat tops in every second."""


class Extremes(NamedTuple):
    """The highest and the lowest sample of each channel, shape (channels,); NaN if any sample is NaN."""

    highest: npt.NDArray[np.float32]
    lowest: npt.NDArray[np.float32]

    @property
    def finite(self) -> bool:
        """Whether every sample is a finite number."""
        return bool(np.isfinite(self).all())

    @property
    def silent(self) -> bool:
        """Whether every sample is zero."""
        return not np.any(self)


def find_extremes(wav: npt.NDArray[np.float32]) -> Extremes:
    """Return the extremes of a sound with at least one sample, shape (channels, samples)."""
    return Extremes(wav.max(axis=1), wav.min(axis=1))


def clipped_share(wav: npt.NDArray[np.float32], extremes: Extremes | None = None) -> float:
    """Return the share of samples that lie in flat tops: runs of three or more at the highest or lowest value.

    Args:
        wav: Sound, shape (channels, samples).
        extremes: Its extremes, if they are known already.
    """
    clipped = 0
    for channel, top, bottom in zip(wav, *(extremes or find_extremes(wav)), strict=True):
        highest, lowest = float(top), float(bottom)
        if highest >= _FULL_SCALE:
            clipped += _in_runs(channel >= 0.9999 * highest)
        if lowest <= -_FULL_SCALE:
            clipped += _in_runs(channel <= 0.9999 * lowest)
    return clipped / wav.size


def _in_runs(flags: npt.NDArray[np.bool_]) -> int:
    """Return how many flags lie in runs of at least `_SHORTEST_RUN`."""
    positions = np.flatnonzero(flags)
    begins = np.flatnonzero(
        np.diff(positions, prepend=-2) != 1
    )  # a run begins where the position before is not flagged
    lengths = np.diff(begins, append=len(positions))
    return int(lengths[lengths >= _SHORTEST_RUN].sum())
