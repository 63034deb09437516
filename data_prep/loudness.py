"""Loudness of whole tracks, and the gain that brings them to one level (ITU-R BS.1770-4, by pyloudnorm)."""

import math

import numpy as np
import numpy.typing as npt

SHORTEST_S = 0.4
"""One gating block of BS.1770; shorter sounds have no integrated loudness."""


def measure_lufs(wav: npt.NDArray[np.float32], rate_hz: int) -> float | None:
    """Return the integrated loudness of a track in LUFS; None where it is silent or shorter than 0.4 s.

    Args:
        wav: Sound, shape (channels, samples), at most five channels.
        rate_hz: Sample rate.
    """
    import pyloudnorm

    if wav.shape[1] < math.ceil(SHORTEST_S * rate_hz) + 1:
        return None
    lufs = float(pyloudnorm.Meter(rate_hz).integrated_loudness(wav.T))
    return lufs if math.isfinite(lufs) else None


def gain_db(
    wav: npt.NDArray[np.float32], lufs: float | None, target_lufs: float | None, peak_ceiling_dbfs: float
) -> float:
    """Return the gain in dB that brings a track to `target_lufs`, or as near as its highest sample allows.

    A track without a loudness, and every track where `target_lufs` is None, is left as it is.
    """
    if lufs is None or target_lufs is None:
        return 0.0
    peak = float(np.abs(wav).max())
    return min(target_lufs - lufs, peak_ceiling_dbfs - 20 * math.log10(peak))


def rms_dbfs(wav: npt.NDArray[np.float32]) -> float:
    """Return the RMS level over all channels in dB relative to full scale; minus infinity for digital silence."""
    mean_square = float(np.mean(np.square(wav, dtype=np.float64)))
    return 10 * math.log10(mean_square) if mean_square > 0 else -math.inf
