"""Loudness (ITU-R BS.1770-4) and true peak of a sound that comes in blocks, and the gain that brings it to a target."""

import math

import numpy as np
import soxr

BLOCK_S = 0.4
"""One gating block of BS.1770."""
_HOPS_A_BLOCK = 4
_ABSOLUTE_GATE_LUFS = -70.0
_RELATIVE_GATE_LU = -10.0
_OFFSET_LUFS = -0.691
_OVERSAMPLING = 4


class LoudnessMeter:
    """Measures a sound block by block, in memory that does not grow with its length but for ten numbers a second.

    The filters are pyloudnorm's; the true peak is the largest sample at four times the rate (BS.1770-4, annex 2).

    Args:
        rate_hz: Sample rate.
        channels: One or two.
    """

    def __init__(self, rate_hz: int, channels: int) -> None:
        import pyloudnorm

        stages = pyloudnorm.Meter(rate_hz)._filters.values()
        self._sections = np.array([np.concatenate([stage.passband_gain * stage.b, stage.a]) for stage in stages])
        self._state = np.zeros((len(self._sections), channels, 2))
        self._hop = round(BLOCK_S / _HOPS_A_BLOCK * rate_hz)
        self._waiting = np.zeros((channels, 0))
        self._energies: list[float] = []
        self._rest = 0.0
        self._samples = 0
        self._peak = 0.0
        self._finer = soxr.ResampleStream(rate_hz, _OVERSAMPLING * rate_hz, channels, dtype="float32", quality="HQ")

    def push(self, wav: np.ndarray) -> None:
        """Take the next samples, (channels, samples)."""
        import scipy.signal  # type: ignore[import-untyped]

        if wav.shape[1] == 0:
            return
        self._samples += wav.shape[1]
        self._peak = max(self._peak, float(np.abs(wav).max()))
        self._oversampled(np.ascontiguousarray(wav.T, np.float32), last=False)
        weighted, self._state = scipy.signal.sosfilt(self._sections, wav.astype(np.float64), zi=self._state)
        waiting = np.concatenate([self._waiting, weighted], axis=1)
        whole = waiting.shape[1] // self._hop
        squares = np.square(waiting[:, : whole * self._hop]).sum(axis=0).reshape(whole, self._hop).sum(axis=1)
        self._energies += squares.tolist()
        self._waiting = waiting[:, whole * self._hop :]

    def finish(self) -> tuple[float | None, float]:
        """Return the integrated loudness in LUFS, None of silence, and the true peak, relative to full scale.

        A sound shorter than one gating block has the loudness of its mean square.
        """
        channels = self._waiting.shape[0]
        if self._samples:
            self._oversampled(np.zeros((0, channels), np.float32), last=True)
        total = np.array(self._energies)
        if len(total) < _HOPS_A_BLOCK:
            energy = float(total.sum()) + float(np.square(self._waiting).sum())
            short = energy / self._samples if self._samples else 0.0
            return (_lufs(short) if short > 0 else None), self._peak
        blocks = np.convolve(total, np.ones(_HOPS_A_BLOCK), "valid") / (_HOPS_A_BLOCK * self._hop)
        blocks = blocks[blocks > 10 ** ((_ABSOLUTE_GATE_LUFS - _OFFSET_LUFS) / 10)]
        if not len(blocks):
            return None, self._peak
        blocks = blocks[blocks > blocks.mean() * 10 ** (_RELATIVE_GATE_LU / 10)]
        return _lufs(float(blocks.mean())), self._peak

    def _oversampled(self, frames: np.ndarray, *, last: bool) -> None:
        finer = self._finer.resample_chunk(frames, last=last)
        if finer.size:
            self._peak = max(self._peak, float(np.abs(finer).max()))


def measure_loudness(wav: np.ndarray, rate_hz: int) -> tuple[float | None, float]:
    """Return the integrated loudness and the true peak of a whole sound, (channels, samples); see `LoudnessMeter`."""
    meter = LoudnessMeter(rate_hz, wav.shape[0])
    meter.push(wav)
    return meter.finish()


def loudness_gain(lufs: float | None, true_peak: float, target_lufs: float | None, ceiling_dbtp: float) -> float:
    """Return the factor that brings a sound to a loudness, or as near as its true peak allows; nothing is limited.

    Args:
        lufs: Its integrated loudness; None of silence, which stays as it is.
        true_peak: Its true peak, relative to full scale.
        target_lufs: The loudness wanted; None keeps the level unless it passes the ceiling.
        ceiling_dbtp: The highest true peak, in dB relative to full scale.
    """
    if lufs is None or true_peak <= 0:
        return 1.0
    most = 10 ** (ceiling_dbtp / 20) / true_peak
    wanted = 1.0 if target_lufs is None else 10 ** ((target_lufs - lufs) / 20)
    return min(wanted, most)


def _lufs(mean_square: float) -> float:
    return _OFFSET_LUFS + 10 * math.log10(mean_square)
