"""Loudness of whole tracks, and the gain that brings them to one level (ITU-R BS.1770-4)."""

import functools
import math
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

BLOCK_S = 0.4
"""One gating block of BS.1770; shorter sounds have no integrated loudness."""
_HOPS_A_BLOCK = 4
_ABSOLUTE_GATE_LUFS = -70.0
_RELATIVE_GATE_LU = -10.0
_OFFSET_LUFS = -0.691
_FORGOTTEN = 1e-30
"""What is left of a filter's state when it counts no more: -600 dB."""


def measure_lufs(wav: npt.NDArray[np.float32], rate_hz: int) -> float | None:
    """Return the integrated loudness of a track in LUFS; None where it is silent or shorter than 0.4 s.

    The filters are pyloudnorm's, run in one loop that also sums the energy by hops, of which the blocks of the standard are
    made: a tenth of pyloudnorm's time, which was a quarter of the preparation of short clips. A block that the end cuts
    off does not count, as the standard says (pyloudnorm counts some).

    Args:
        wav: Sound, shape (channels, samples), mono or stereo.
        rate_hz: Sample rate.
    """
    hop = BLOCK_S / _HOPS_A_BLOCK * rate_hz
    edges = (np.arange(int(wav.shape[1] / hop + 1e-6) + 1) * hop).astype(np.int64)
    if len(edges) <= _HOPS_A_BLOCK:
        return None
    energy = _hop_energies(wav, _k_weighting(rate_hz), edges)
    blocks = np.convolve(energy, np.ones(_HOPS_A_BLOCK), "valid") / (BLOCK_S * rate_hz)
    for gate in (lambda loud: _ABSOLUTE_GATE_LUFS, lambda loud: _lufs(loud.mean()) + _RELATIVE_GATE_LU):
        blocks = blocks[blocks > 0]
        if len(blocks):
            blocks = blocks[_lufs(blocks) > gate(blocks)]
    return float(_lufs(blocks.mean())) if len(blocks) else None


@numba.njit(cache=True, fastmath={"contract"})  # type: ignore[untyped-decorator]
def _hop_energies(wav: Any, stages: Any, edges: Any) -> Any:
    """Return the energy of the K-weighted sound between the edges, summed over channels.

    Both filters in their direct form I, whose newest output is waited for by one multiplication alone (Smith, Introduction
    to digital filters, 2007).
    """
    energies = np.zeros(len(edges) - 1)
    b0, b1, b2, a1, a2 = stages[0]
    d0, d1, d2, c1, c2 = stages[1]
    for channel in range(len(wav)):
        x1 = x2 = y1 = y2 = z1 = z2 = 0.0
        for hop in range(len(energies)):
            total = 0.0
            for sample in range(edges[hop], edges[hop + 1]):
                x = np.float64(wav[channel, sample])
                y = b0 * x + b1 * x1 + b2 * x2 - a2 * y2 - a1 * y1
                z = d0 * y + d1 * y1 + d2 * y2 - c2 * z2 - c1 * z1
                total += z * z
                x2, x1, y2, y1, z2, z1 = x1, x, y1, y, z1, z
            energies[hop] += total
            # Or a silence ends in numbers so small that the processor is slow with them.
            if max(abs(y1), abs(y2), abs(z1), abs(z2)) < _FORGOTTEN:
                y1 = y2 = z1 = z2 = 0.0
    return energies


@functools.cache
def _k_weighting(rate_hz: int) -> npt.NDArray[np.float64]:
    """Return the shelf and the high-pass of BS.1770, pyloudnorm's: b0, b1, b2, a1 and a2 of each."""
    import pyloudnorm

    stages = pyloudnorm.Meter(rate_hz)._filters.values()
    return np.array([[*(stage.passband_gain * stage.b), *stage.a[1:]] for stage in stages])


def _lufs(mean_square: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return _OFFSET_LUFS + 10 * np.log10(mean_square)


def gain_db(
    wav: npt.NDArray[np.float32], lufs: float | None, target_lufs: float | None, peak_ceiling_dbfs: float
) -> float:
    """Return the gain in dB that brings a track to `target_lufs`, or as near as its highest sample allows.

    A track without a loudness, and every track where `target_lufs` is None, is left as it is.
    """
    if lufs is None or target_lufs is None:
        return 0.0
    peak = max(float(wav.max()), -float(wav.min()))
    return min(target_lufs - lufs, peak_ceiling_dbfs - 20 * math.log10(peak))


def rms_dbfs(wav: npt.NDArray[np.float32]) -> float:
    """Return the RMS level over all channels in dB relative to full scale; minus infinity for digital silence."""
    mean_square = float(sum(np.dot(channel, channel) for channel in wav)) / wav.size
    return 10 * math.log10(mean_square) if mean_square > 0 else -math.inf
