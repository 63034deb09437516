"""The decoder's short-time Fourier transform and its inverse, for sounds with two ends and for loops; and the first phase.

The phase comes from the magnitudes by phase-gradient heap integration: Průša, Balazs, Søndergaard, A Noniterative Method for
Reconstruction of Phase from STFT Magnitude, IEEE/ACM TASLP 25 (2017). For a Gaussian window the gradient of the phase is known
from the gradient of the log-magnitude. It is integrated from the loudest point outwards, always continuing from the loudest
point reached so far, so that errors accumulate where they are inaudible (algorithm 1). Instead of a heap there is a list for
each fiftieth of a decibel: the order of two almost equally loud points does not matter, and a list gives its first point in
constant time. Each point depends on the one before it, so that array libraries do not help; numba compiles the loop at its
first use.
"""

import math
from typing import Any

import numba
import numpy as np
import soxr
import torch
import torch.nn.functional as F
from torch import Tensor

# --- the transforms --------------------------------------------------------------------------------------------------


class _WindowedFrames:
    """Frames under a periodic Hann window, padded to whole hops, so that overlap-add is a sum of shifted blocks.

    Args:
        win_length: Length of the window in samples.
        hop_length: Samples between frames.
        n_fft: Length of the FFT in samples.
        device: Device of the signals.
    """

    def __init__(self, win_length: int, hop_length: int, n_fft: int, device: torch.device | str = "cpu") -> None:
        self.win_length = win_length
        self.hop_length = hop_length
        self.n_fft = n_fft
        self.margin = win_length // 2
        self.blocks = -(-win_length // hop_length)
        self._frame_length = self.blocks * hop_length
        window = torch.hann_window(win_length, periodic=True, dtype=torch.float64).float()
        self._window = F.pad(window, (0, self._frame_length - win_length)).to(device)

    @property
    def bins(self) -> int:
        """Number of frequencies, `n_fft // 2 + 1`."""
        return self.n_fft // 2 + 1


class DecodingStft(_WindowedFrames):
    """STFT of a signal with a margin of half a window at either end.

    Column t of a spectrogram (..., frames, bins) is centred on sample `t * hop_length` of the sound. The margins are free
    to fit the columns at the edges, where the analysis saw a reflection. Phases refer to the first sample of a frame.
    """

    def __init__(self, win_length: int, hop_length: int, n_fft: int, device: torch.device | str = "cpu") -> None:
        super().__init__(win_length, hop_length, n_fft, device)
        self._weight: tuple[int, Tensor] | None = None  # of the last number of frames; iterations repeat it

    def forward(self, signal: Tensor, frames: int) -> Tensor:
        """Analyse signals with their margins, (..., samples) -> complex (..., frames, bins)."""
        framed = signal.unfold(-1, self.win_length, self.hop_length)[..., :frames, :]
        padded = signal.new_zeros(*framed.shape[:-1], self.n_fft)
        torch.mul(framed, self._window[: self.win_length], out=padded[..., : self.win_length])
        return torch.fft.rfft(padded)

    def inverse(self, spectrum: Tensor) -> Tensor:
        """Return the signals, with margins, whose transform is nearest to `spectrum` (Griffin and Lim 1984, eq. 6)."""
        framed = torch.fft.irfft(spectrum, n=self.n_fft)[..., : self._frame_length]
        framed = framed[..., : self.win_length] * self._window[: self.win_length]
        framed = (
            F.pad(framed, (0, self._frame_length - self.win_length)) if self._frame_length > self.win_length else framed
        )
        return self._overlap_add(framed) * self._inverse_weight(spectrum.shape[-2])

    def first_phase(self, magnitudes: Tensor, seed: int, known: Tensor | None = None) -> Tensor:
        """Return the phase that heap integration finds, complex numbers of magnitude one (frames, bins).

        Args:
            magnitudes: (frames, bins).
            seed: Seed of the phase where the sound is next to silent.
            known: Spectrum of the first frames, whose phase is known, complex (fewer frames, bins).
        """
        return heap_integrated_phase(magnitudes, self.win_length, self.hop_length, self.n_fft, seed, known=known)

    def signal_length(self, frames: int) -> int:
        """Return the number of samples, margins included, of a signal of `frames` columns."""
        return (frames + self.blocks - 1) * self.hop_length

    def _inverse_weight(self, frames: int) -> Tensor:
        """Return 1 / (sum of the squared windows over each sample), (samples,)."""
        if self._weight is None or self._weight[0] != frames:
            weight = self._overlap_add(self._window.square().expand(frames, -1))
            self._weight = (frames, 1 / weight.clamp(min=1e-3 * float(weight.max())))
        return self._weight[1]

    def _overlap_add(self, framed: Tensor) -> Tensor:
        frames = framed.shape[-2]
        blocks = framed.unflatten(-1, (self.blocks, self.hop_length))
        signal = framed.new_zeros(*framed.shape[:-2], frames + self.blocks - 1, self.hop_length)
        for block in range(self.blocks):
            signal[..., block : block + frames, :] += blocks[..., block, :]
        return signal.flatten(-2)


_CONTEXT = 8
"""Columns beyond either end of a loop that heap integration sees."""


class CircularStft(_WindowedFrames):
    """STFT of a signal that repeats, instead of `DecodingStft`.

    Column t is centred on sample `t * hop_length` of the sound; a signal begins half a window earlier, so that the phases
    refer to the first sample of a frame. A signal of n columns has n hops, without margins.
    """

    def forward(self, signal: Tensor, frames: int) -> Tensor:
        """Analyse signals, (..., frames * hop_length) -> complex (..., frames, bins)."""
        turns = -(-self.win_length // signal.shape[-1])
        wrapped = torch.cat([signal, *[signal] * turns], -1)[..., : signal.shape[-1] + self.win_length - 1]
        framed = wrapped.unfold(-1, self.win_length, self.hop_length)[..., :frames, :] * self._window[: self.win_length]
        return torch.fft.rfft(framed, n=self.n_fft)

    def inverse(self, spectrum: Tensor) -> Tensor:
        """Return the signals whose transform is nearest to `spectrum` (Griffin and Lim 1984, eq. 6), circularly."""
        framed = torch.fft.irfft(spectrum, n=self.n_fft)[..., : self.win_length] * self._window[: self.win_length]
        framed = F.pad(framed, (0, self._frame_length - self.win_length))
        frames = spectrum.shape[-2]
        weight = self._overlap_add(self._window.square().expand(frames, -1))
        return self._overlap_add(framed) / weight.clamp(min=1e-3 * float(weight.max()))

    def signal_length(self, frames: int) -> int:
        """Return the number of samples of a signal of `frames` columns."""
        return frames * self.hop_length

    def first_phase(self, magnitudes: Tensor, seed: int, known: Tensor | None = None) -> Tensor:
        """Return phases of a loop, complex numbers of magnitude one (frames, bins).

        Heap integration runs once around the loop and a little further. It comes back to the first column with another phase
        than it started with; the phases of each frequency are corrected by that error, evenly over the loop, which detunes
        it by less than half a turn per loop: a tenth of a Hertz for five seconds.

        Args:
            magnitudes: (frames, bins).
            seed: Seed of the phase where the sound is next to silent.
            known: Must be None; nothing comes before a loop.
        """
        if known is not None:
            raise ValueError("nothing comes before a loop")
        frames = len(magnitudes)
        order = torch.arange(-_CONTEXT, frames + _CONTEXT + 1) % frames
        phasors = heap_integrated_phase(magnitudes[order], self.win_length, self.hop_length, self.n_fft, seed)
        inner = phasors[_CONTEXT : _CONTEXT + frames]
        # The phase error of each frequency after one round, (bins,), taken off in proportion to the column.
        error = torch.angle(phasors[_CONTEXT + frames] * inner[0].conj())
        turned = torch.arange(frames)[:, None] / frames * error
        return inner * torch.polar(torch.ones_like(turned), -turned)

    def _overlap_add(self, framed: Tensor) -> Tensor:
        frames = framed.shape[-2]
        blocks = framed.unflatten(-1, (self.blocks, self.hop_length))
        signal = framed.new_zeros(*framed.shape[:-2], frames, self.hop_length)
        for block in range(self.blocks):
            signal += blocks[..., block, :].roll(block, -2)
        return signal.flatten(-2)


def resample_loop(wav: np.ndarray, from_hz: int, to_hz: int, hop_length: int) -> np.ndarray:
    """Change the sample rate of a loop, (channels, whole hops), by soxr, which sees the loop continue beyond both ends.

    Args:
        wav: The loop.
        from_hz: Its rate.
        to_hz: The new rate.
        hop_length: Samples of a hop at `from_hz`; a hop must be a whole number of samples at `to_hz`.
    """
    if from_hz == to_hz:
        return np.asarray(wav, np.float32)
    samples = wav.shape[1]
    context = hop_length * math.ceil(min(samples, from_hz // 4) / hop_length)
    order = np.arange(-context, samples + context) % samples
    long = soxr.resample(np.ascontiguousarray(wav[:, order].T), from_hz, to_hz, quality="HQ").T
    first, length = context * to_hz // from_hz, samples * to_hz // from_hz
    return np.ascontiguousarray(long[:, first : first + length], np.float32)


def stretch_loop(wav: np.ndarray, samples: int) -> np.ndarray:
    """Return a loop of exactly `samples` samples, (channels, n) -> (channels, samples), by its Fourier series.

    It is exact for periodic signals, and changes the pitch by the ratio of the lengths.
    """
    import scipy.signal  # type: ignore[import-untyped]

    return np.asarray(scipy.signal.resample(wav.astype(np.float64), samples, axis=1), np.float32)


# --- phase from magnitudes -------------------------------------------------------------------------------------------

_HANN_GAMMA = 0.25645
"""A Hann window of length w is closest to the Gaussian window exp(-pi t^2 / (gamma w^2)) with this gamma (paper, table I)."""

_SILENT = 1e-10
_LEVELS = 4096
"""Steps of loudness between the tolerance and the loudest point."""
_DONE = -1


def heap_integrated_phase(
    magnitudes: torch.Tensor,
    win_length: int,
    hop_length: int,
    n_fft: int,
    seed: int = 0,
    *,
    known: torch.Tensor | None = None,
    tolerance: float = 3e-4,
) -> torch.Tensor:
    """Estimate the phase of a Hann-window STFT from its magnitudes.

    Args:
        magnitudes: (frames, bins).
        win_length: Length of the window in samples.
        hop_length: Samples between frames.
        n_fft: Length of the FFT in samples.
        seed: Seed of the random phase of points quieter than `tolerance` times the maximum.
        known: Spectrum of the first frames, whose phase is known, complex (fewer frames, bins); the others continue it.
        tolerance: Magnitude, relative to the maximum, below which the gradient is meaningless.

    Returns:
        Complex numbers of magnitude one, (frames, bins), the phase counted from the first sample of each frame.
    """
    maximum = max(float(magnitudes.max()), 1e-30)
    log_magnitudes = torch.log(magnitudes.clamp(min=_SILENT * maximum)).numpy()
    frames, bins = log_magnitudes.shape
    phase = np.random.default_rng(seed).uniform(0, 2 * math.pi, (frames, bins))
    # gamma w^2 / (a M) of the paper, with hop a and FFT length M: from slopes of loudness to slopes of phase.
    ratio = _HANN_GAMMA * win_length**2 / (hop_length * n_fft)
    floor = np.float32(math.log(tolerance * maximum))
    to_first_sample = math.pi * np.arange(bins) * win_length / n_fft  # from the centre of the frame
    given = 0  # frames whose phase is known
    if known is not None:
        given = len(known)
        phase[:given] = np.angle(known.numpy()) + to_first_sample
    # The local maxima, the loudest first: where integration may have to start.
    peaks = np.empty(frames * bins, np.int64)
    peaks = peaks[: _find_peaks(log_magnitudes, floor, peaks)]
    peaks = peaks[np.argsort(-log_magnitudes.reshape(-1)[peaks])]
    # The level of each point, the index of its list.
    scale = (_LEVELS - 1) / max(float(log_magnitudes.max() - floor), 1e-6)
    levels = ((log_magnitudes - floor) * np.float64(scale)).astype(np.int16)
    levels[log_magnitudes < floor] = _DONE
    queue, behind = np.full(_LEVELS, -1, np.int64), np.empty(frames * bins, np.int64)
    _integrate(log_magnitudes, phase, levels.reshape(-1), peaks, queue, behind, ratio, hop_length / n_fft, given)
    phase -= to_first_sample
    return torch.polar(torch.ones_like(magnitudes), torch.from_numpy(np.mod(phase, 2 * math.pi)).float())


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _time_step(log_magnitudes: Any, t: int, k: int, ratio: float, hop_share: float) -> float:
    """Return the phase's derivative along time at a point, in radians per frame."""
    last = log_magnitudes.shape[1] - 1
    slope = 0.0 if k in (0, last) else (log_magnitudes[t, k + 1] - log_magnitudes[t, k - 1]) / 2
    return slope / ratio + 2 * math.pi * hop_share * k


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _frequency_step(log_magnitudes: Any, t: int, k: int, ratio: float) -> float:
    """Return the phase's derivative along frequency at a point, in radians per bin."""
    before, after = max(t - 1, 0), min(t + 1, log_magnitudes.shape[0] - 1)
    if before == after:
        return 0.0
    return -ratio * (log_magnitudes[after, k] - log_magnitudes[before, k]) / (after - before)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _push(queue: Any, behind: Any, level: int, point: int) -> None:
    """Put a point at the front of its level's list."""
    behind[point] = queue[level]
    queue[level] = point


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _grow(
    log_magnitudes: Any,
    phase: Any,
    levels: Any,
    queue: Any,
    behind: Any,
    size: int,
    top: int,
    ratio: float,
    hop_share: float,
) -> None:
    """Integrate outwards from the `size` points in the queue, of level `top` at most, until it is empty."""
    frames, bins = log_magnitudes.shape
    angles = phase.reshape(-1)
    while size > 0:
        while queue[top] < 0:
            top -= 1
        here = queue[top]
        queue[top] = behind[here]
        size -= 1
        t, k = here // bins, here % bins
        time_step = _time_step(log_magnitudes, t, k, ratio, hop_share)
        frequency_step = _frequency_step(log_magnitudes, t, k, ratio)
        for side in range(4):
            along_time = side < 2
            sign = 1 if side % 2 == 0 else -1
            t2, k2 = (t + sign, k) if along_time else (t, k + sign)
            if t2 < 0 or t2 >= frames or k2 < 0 or k2 >= bins:
                continue
            there = t2 * bins + k2
            level = levels[there]
            if level == _DONE:
                continue
            # The mean of the derivatives at both points: the trapezoidal rule.
            if along_time:
                step = time_step + _time_step(log_magnitudes, t2, k2, ratio, hop_share)
            else:
                step = frequency_step + _frequency_step(log_magnitudes, t2, k2, ratio)
            angles[there] = angles[here] + sign * step / 2
            levels[there] = _DONE
            _push(queue, behind, level, there)
            top = max(top, level)
            size += 1


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _find_peaks(log_magnitudes: Any, floor: float, peaks: Any) -> int:
    """Write the indices of the local maxima of at least `floor` to `peaks`; return their number."""
    frames, bins = log_magnitudes.shape
    size = 0
    for t in range(frames):
        for k in range(bins):
            here = log_magnitudes[t, k]
            if (
                here >= floor
                and (t == 0 or here >= log_magnitudes[t - 1, k])
                and (t == frames - 1 or here >= log_magnitudes[t + 1, k])
                and (k == 0 or here >= log_magnitudes[t, k - 1])
                and (k == bins - 1 or here >= log_magnitudes[t, k + 1])
            ):
                peaks[size] = t * bins + k
                size += 1
    return size


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _integrate(
    log_magnitudes: Any,
    phase: Any,
    levels: Any,
    peaks: Any,
    queue: Any,
    behind: Any,
    ratio: float,
    hop_share: float,
    given: int,
) -> None:
    """Fill `phase` after the first `given` frames, except for points that are too quiet.

    Args:
        log_magnitudes: (frames, bins).
        phase: The same shape.
        levels: Level of each point, (frames * bins,); `_DONE` where it is too quiet.
        peaks: The local maxima, the loudest first.
        queue: First point of each level, (_LEVELS,), all -1.
        behind: The next point in the list of each point, (frames * bins,), to be written.
        ratio: Factor from slopes of loudness to slopes of phase.
        hop_share: Hop length / FFT length.
        given: Frames whose phase is known.
    """
    angles = phase.reshape(-1)
    size = 0
    # First continue the known frames.
    for point in range(given * log_magnitudes.shape[1]):
        if levels[point] != _DONE:
            _push(queue, behind, levels[point], point)
            levels[point] = _DONE
            size += 1
    _grow(log_magnitudes, phase, levels, queue, behind, size, _LEVELS - 1, ratio, hop_share)
    # What is left are islands in the silence, each with a peak; their phase is arbitrary.
    for start in peaks:
        level = levels[start]
        if level == _DONE:
            continue
        angles[start] = 0.0
        levels[start] = _DONE
        _push(queue, behind, level, start)
        _grow(log_magnitudes, phase, levels, queue, behind, 1, level, ratio, hop_share)
