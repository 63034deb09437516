"""Loudness and true peak (ITU-R BS.1770-4) of whole sounds and of streams, the gain to a target, and clipping."""

import functools
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt
import soxr

# --- loudness and true peak ------------------------------------------------------------------------------------------

BLOCK_S = 0.4
"""One gating block of BS.1770."""
_HOPS_PER_BLOCK = 4
_ABSOLUTE_GATE_LUFS = -70.0
_RELATIVE_GATE_LU = -10.0
_OFFSET_LUFS = -0.691
_OVERSAMPLING = 4
_NEGLIGIBLE = 1e-30
"""Filter states below this (-600 dB) are set to zero."""


class _HopEnergies:
    """Energies of the K-weighted sound by hops of a tenth of a second, four of which are a gating block.

    Args:
        rate_hz: Sample rate.
        channels: One or two.
    """

    def __init__(self, rate_hz: int, channels: int) -> None:
        self.block_samples = BLOCK_S * rate_hz
        self.complete: list[float] = []
        """Energy of each complete hop, summed over samples and channels."""
        self.pending = 0.0
        """Energy of the samples after the last complete hop."""
        self.samples = 0
        self._hop = BLOCK_S / _HOPS_PER_BLOCK * rate_hz
        self._filters = _k_weighting(rate_hz)
        self._state = np.zeros((channels, 6))

    @property
    def pending_hops(self) -> float:
        """Length of the samples after the last complete hop, in hops."""
        return self.samples / self._hop - len(self.complete)

    def push(self, wav: np.ndarray) -> None:
        """Take the next samples, (channels, samples)."""
        first = self.samples
        self.samples += wav.shape[1]
        hops = int(self.samples / self._hop + 1e-6)  # a hop need not be a whole number of samples
        ends = (np.arange(len(self.complete) + 1, hops + 1) * self._hop).astype(np.int64) - first
        edges = np.concatenate([[0], ends, [wav.shape[1]]])
        energies = _segment_energies(np.ascontiguousarray(wav), self._filters, edges, self._state)
        energies[0] += self.pending
        self.complete += energies[:-1].tolist()
        self.pending = float(energies[-1])

    def gated_lufs(self, hop_energies: list[float]) -> float | None:
        """Return the integrated loudness of at least four hops: gated blocks of four, three of which overlap."""
        blocks = np.convolve(np.array(hop_energies), np.ones(_HOPS_PER_BLOCK), "valid") / self.block_samples
        for gate in (lambda loud: _ABSOLUTE_GATE_LUFS, lambda loud: _lufs(loud.mean()) + _RELATIVE_GATE_LU):
            blocks = blocks[blocks > 0]
            if len(blocks):
                blocks = blocks[_lufs(blocks) > gate(blocks)]
        return float(_lufs(blocks.mean())) if len(blocks) else None

    def short_lufs(self) -> float | None:
        """Return the loudness of a sound shorter than a block by its mean square; None for silence."""
        energy = sum(self.complete) + self.pending
        return float(_lufs(np.array(energy / self.samples))) if energy > 0 else None


class LoudnessMeter:
    """Measures a sound block by block; memory grows by ten numbers for each second.

    The true peak is the largest sample at four times the rate (BS.1770-4, annex 2).

    Args:
        rate_hz: Sample rate.
        channels: One or two.
    """

    def __init__(self, rate_hz: int, channels: int) -> None:
        self._channels = channels
        self._hops = _HopEnergies(rate_hz, channels)
        self._peak = 0.0
        self._oversampler = soxr.ResampleStream(
            rate_hz, _OVERSAMPLING * rate_hz, channels, dtype="float32", quality="HQ"
        )

    def push(self, wav: np.ndarray) -> None:
        """Take the next samples, (channels, samples)."""
        if wav.shape[1] == 0:
            return
        self._peak = max(self._peak, float(np.abs(wav).max()))
        self._find_peak(np.ascontiguousarray(wav.T, np.float32), last=False)
        self._hops.push(wav)

    def finish(self) -> tuple[float | None, float]:
        """Return the integrated loudness in LUFS, None of silence, and the true peak, relative to full scale.

        A sound shorter than one gating block has the loudness of its mean square.
        """
        if self._hops.samples:
            self._find_peak(np.zeros((0, self._channels), np.float32), last=True)
        hops = self._hops
        lufs = hops.short_lufs() if len(hops.complete) < _HOPS_PER_BLOCK else hops.gated_lufs(hops.complete)
        return lufs, self._peak

    def _find_peak(self, frames: np.ndarray, *, last: bool) -> None:
        oversampled = self._oversampler.resample_chunk(frames, last=last)
        if oversampled.size:
            self._peak = max(self._peak, float(np.abs(oversampled).max()))


def measure_loudness(wav: np.ndarray, rate_hz: int) -> tuple[float | None, float]:
    """Return the integrated loudness and the true peak of a whole sound, (channels, samples); see `LoudnessMeter`."""
    meter = LoudnessMeter(rate_hz, wav.shape[0])
    meter.push(wav)
    return meter.finish()


def measure_lufs(wav: np.ndarray, rate_hz: int, *, whole_clip: bool = False) -> float | None:
    """Return the integrated loudness of a whole sound in LUFS; None where it is silent.

    Args:
        wav: Sound, (channels, samples), mono or stereo.
        rate_hz: Sample rate.
        whole_clip: Do justice to short clips, as pyloudnorm does: a sound shorter than one gating block counts as a block,
            and so does a last block that is cut off by at most half a hop. The standard counts neither, and a sound
            shorter than a block then has no loudness.
    """
    return stream_lufs([wav], wav.shape[0], rate_hz, whole_clip=whole_clip)


GRID_S = 0.2
"""Blocks of a sound that are so long, or a multiple of it, have the loudness of the whole to the last bit."""


def stream_lufs(blocks: Iterable[np.ndarray], channels: int, rate_hz: int, *, whole_clip: bool = False) -> float | None:
    """Return what `measure_lufs` does, of a sound in blocks, (channels, samples) each."""
    meter = _HopEnergies(rate_hz, channels)
    for block in blocks:
        meter.push(block)
    if whole_clip and meter.samples < meter.block_samples:
        lufs = meter.short_lufs()
        return lufs if lufs is not None and lufs > _ABSOLUTE_GATE_LUFS else None
    energies = meter.complete
    if whole_clip and meter.pending_hops >= 0.5:
        energies = [*energies, meter.pending]
    return meter.gated_lufs(energies) if len(energies) >= _HOPS_PER_BLOCK else None


def loudness_gain(lufs: float | None, true_peak: float, target_lufs: float | None, ceiling_dbtp: float) -> float:
    """Return the factor that brings a sound to a loudness, or as near as its true peak allows; nothing is limited.

    Args:
        lufs: Its integrated loudness; None for silence, which stays as it is.
        true_peak: Its true peak, relative to full scale.
        target_lufs: The target loudness; None keeps the level unless it exceeds the ceiling.
        ceiling_dbtp: The highest true peak, in dB relative to full scale.
    """
    if lufs is None or true_peak <= 0:
        return 1.0
    most = 10 ** (ceiling_dbtp / 20) / true_peak
    gain = 1.0 if target_lufs is None else 10 ** ((target_lufs - lufs) / 20)
    return min(gain, most)


def gain_db(
    wav: npt.NDArray[np.float32], lufs: float | None, target_lufs: float | None, peak_ceiling_dbfs: float
) -> float:
    """Return the gain in dB that brings a track to `target_lufs`, or as near as its highest sample allows.

    A track without a loudness, and every track where `target_lufs` is None, keeps its level.
    """
    return gain_of_extremes(find_extremes(wav), lufs, target_lufs, peak_ceiling_dbfs)


def gain_of_extremes(
    extremes: "Extremes", lufs: float | None, target_lufs: float | None, peak_ceiling_dbfs: float
) -> float:
    """Return what `gain_db` does, of a track with these extremes."""
    if lufs is None or target_lufs is None:
        return 0.0
    peak = max(float(extremes.highest.max()), -float(extremes.lowest.min()))
    return min(target_lufs - lufs, peak_ceiling_dbfs - 20 * math.log10(peak))


def rms_dbfs(wav: npt.NDArray[np.float32]) -> float:
    """Return the RMS level over all channels in dB relative to full scale; minus infinity for digital silence."""
    mean_square = float(sum(np.dot(channel, channel) for channel in wav)) / wav.size
    return 10 * math.log10(mean_square) if mean_square > 0 else -math.inf


@functools.cache
def _k_weighting(rate_hz: int) -> npt.NDArray[np.float64]:
    """Return the shelf and the high-pass of BS.1770: b0, b1, b2, a1 and a2 of each, to the bit as pyloudnorm designs them.

    The formulas are Bristow-Johnson's, of the Audio EQ Cookbook. pyloudnorm itself imports scipy.signal, which takes long.
    """
    amplitude = 10 ** (4.0 / 40.0)
    shelf, cut = _angle(1500.0, 1 / np.sqrt(2), rate_hz), _angle(38.0, 0.5, rate_hz)
    cosine, slope = np.cos(shelf[0]), 2 * np.sqrt(amplitude) * shelf[1]
    up, down = amplitude + 1, amplitude - 1
    high_shelf = (
        amplitude * (up + down * cosine + slope),
        -2 * amplitude * (down + up * cosine),
        amplitude * (up + down * cosine - slope),
        up - down * cosine + slope,
        2 * (down - up * cosine),
        up - down * cosine - slope,
    )
    cosine, slope = np.cos(cut[0]), cut[1]
    high_pass = ((1 + cosine) / 2, -(1 + cosine), (1 + cosine) / 2, 1 + slope, -2 * cosine, 1 - slope)
    stages = np.array([high_shelf, high_pass])
    return np.delete(stages / stages[:, 3:4], 3, axis=1)


def _angle(corner_hz: float, quality: float, rate_hz: int) -> tuple[float, float]:
    """Return the angle of a corner on the unit circle, and the cookbook's alpha."""
    angle = 2.0 * np.pi * (corner_hz / rate_hz)
    return angle, np.sin(angle) / (2.0 * quality)


@numba.njit(cache=True, fastmath={"contract"})  # type: ignore[untyped-decorator]
def _segment_energies(wav: Any, stages: Any, edges: Any, state: Any) -> Any:
    """Return the energy of the K-weighted sound between the edges, summed over channels.

    Both filters are in direct form I, in which only one multiplication waits for the newest output (Smith, Introduction to
    Digital Filters, 2007). One loop filters and sums in a tenth of pyloudnorm's time.

    Args:
        wav: (channels, samples).
        stages: As of `_k_weighting`.
        edges: Samples where a segment ends and the next begins, segments + 1.
        state: Last two samples of the input, the first filter's output and the second's, (channels, 6); it is updated.
    """
    energies = np.zeros(len(edges) - 1)
    b0, b1, b2, a1, a2 = stages[0]
    d0, d1, d2, c1, c2 = stages[1]
    for channel in range(len(wav)):
        x1, x2, y1, y2, z1, z2 = state[channel]
        for segment in range(len(energies)):
            total = 0.0
            for sample in range(edges[segment], edges[segment + 1]):
                x = np.float64(wav[channel, sample])
                y = b0 * x + b1 * x1 + b2 * x2 - a2 * y2 - a1 * y1
                z = d0 * y + d1 * y1 + d2 * y2 - c2 * z2 - c1 * z1
                total += z * z
                x2, x1, y2, y1, z2, z1 = x1, x, y1, y, z1, z
            energies[segment] += total
            # Or silence ends in denormal numbers, with which the processor is slow.
            if max(abs(y1), abs(y2), abs(z1), abs(z2)) < _NEGLIGIBLE:
                y1 = y2 = z1 = z2 = 0.0
        state[channel, 0], state[channel, 1], state[channel, 2] = x1, x2, y1
        state[channel, 3], state[channel, 4], state[channel, 5] = y2, z1, z2
    return energies


def _lufs(mean_square: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return _OFFSET_LUFS + 10 * np.log10(mean_square)


# --- clipping --------------------------------------------------------------------------------------------------------

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


def stream_extremes(blocks: Iterable[npt.NDArray[np.float32]]) -> Extremes:
    """Return the extremes of a sound in blocks, (channels, samples) each, with at least one sample."""
    found = [find_extremes(block) for block in blocks]
    return Extremes(np.max([one.highest for one in found], axis=0), np.min([one.lowest for one in found], axis=0))


def clipped_share(wav: npt.NDArray[np.float32], extremes: Extremes | None = None) -> float:
    """Return the share of samples that lie in flat tops: runs of three or more at the highest or lowest value.

    Args:
        wav: Sound, shape (channels, samples).
        extremes: Its extremes, if they are known already.
    """
    return stream_clipped_share([wav], extremes or find_extremes(wav))


def stream_clipped_share(blocks: Iterable[npt.NDArray[np.float32]], extremes: Extremes) -> float:
    """Return what `clipped_share` does, of a sound in blocks, (channels, samples) each."""
    tops = [_Runs() for _ in extremes.highest]
    bottoms = [_Runs() for _ in extremes.lowest]
    total = 0
    for block in blocks:
        total += block.size
        for number, channel in enumerate(block):
            highest, lowest = float(extremes.highest[number]), float(extremes.lowest[number])
            if highest >= _FULL_SCALE:
                tops[number].push(channel >= 0.9999 * highest)
            if lowest <= -_FULL_SCALE:
                bottoms[number].push(channel <= 0.9999 * lowest)
    return sum(runs.finish() for runs in (*tops, *bottoms)) / total


class _Runs:
    """Counts the flags that lie in runs of at least `_SHORTEST_RUN`, which may go on from block to block."""

    def __init__(self) -> None:
        self._counted = 0
        self._open = 0
        """Length of the run that the last block ends with."""

    def push(self, flags: npt.NDArray[np.bool_]) -> None:
        positions = np.flatnonzero(flags)
        if not len(positions) or positions[0] != 0:
            self.finish()
        if not len(positions):
            return
        # A run begins where the position before is not flagged.
        begins = np.flatnonzero(np.diff(positions, prepend=-2) != 1)
        lengths = np.diff(begins, append=len(positions))
        lengths[0] += self._open
        self._open = int(lengths[-1]) if positions[-1] == len(flags) - 1 else 0
        closed = lengths[:-1] if self._open else lengths
        self._counted += int(closed[closed >= _SHORTEST_RUN].sum())

    def finish(self) -> int:
        """End the open run; return how many flags lie in runs up to here."""
        self._counted += self._open if self._open >= _SHORTEST_RUN else 0
        self._open = 0
        return self._counted
