"""Phase from magnitudes by phase-gradient heap integration.

Průša, Balazs, Søndergaard: A Noniterative Method for Reconstruction of Phase from STFT Magnitude, IEEE/ACM TASLP 25 (2017).
For a Gaussian window the gradient of the phase is known from the gradient of the log-magnitude. It is integrated from the
loudest point outwards, always on from the loudest point reached so far, so that errors gather where nobody hears them.
"""

import math
from typing import Any

import numba
import numpy as np
import torch

HANN_GAMMA = 0.25645
"""A Hann window of length w is closest to the Gaussian window exp(-pi t^2 / (gamma w^2)) with this gamma (paper, table I)."""

_SILENT = 1e-10


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
        seed: Points quieter than `tolerance` times the maximum get a random phase that is a function of this seed.
        known: Numbers of the first frames whose phase is known, complex (fewer frames, bins); the others go on from them.
        tolerance: Magnitude, relative to the maximum, below which the gradient means nothing.

    Returns:
        Complex numbers of magnitude one, (frames, bins), the phase counted from the first sample of each frame.
    """
    maximum = max(float(magnitudes.max()), 1e-30)
    log_magnitudes = torch.log(magnitudes.clamp(min=_SILENT * maximum)).numpy()
    frames, bins = log_magnitudes.shape
    phase = np.random.default_rng(seed).uniform(0, 2 * math.pi, (frames, bins))
    ratio = HANN_GAMMA * win_length**2 / (hop_length * n_fft)
    floor = np.float32(math.log(tolerance * maximum))
    to_first_sample = math.pi * np.arange(bins) * win_length / n_fft  # from the centre of the frame
    given = 0
    if known is not None:
        given = len(known)
        phase[:given] = np.angle(known.numpy()) + to_first_sample
    _integrate(log_magnitudes, phase, ratio, hop_length / n_fft, floor, given)
    phase -= to_first_sample
    return torch.polar(torch.ones_like(magnitudes), torch.from_numpy(np.mod(phase, 2 * math.pi)).float())


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _time_step(log_magnitudes: Any, t: int, k: int, ratio: float, hop_share: float) -> float:
    """Return the growth of the phase from one frame to the next at a point."""
    last = log_magnitudes.shape[1] - 1
    slope = 0.0 if k in (0, last) else (log_magnitudes[t, k + 1] - log_magnitudes[t, k - 1]) / 2
    return slope / ratio + 2 * math.pi * hop_share * k


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _frequency_step(log_magnitudes: Any, t: int, k: int, ratio: float) -> float:
    """Return the growth of the phase from one bin to the next at a point."""
    before, after = max(t - 1, 0), min(t + 1, log_magnitudes.shape[0] - 1)
    if before == after:
        return 0.0
    return -ratio * (log_magnitudes[after, k] - log_magnitudes[before, k]) / (after - before)


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _push(values: Any, points: Any, size: int, value: float, point: int) -> None:
    """Put a point on the heap, whose root holds the largest value."""
    place = size
    while place > 0:
        parent = (place - 1) // 2
        if values[parent] >= value:
            break
        values[place], points[place] = values[parent], points[parent]
        place = parent
    values[place], points[place] = value, point


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _pop(values: Any, points: Any, size: int) -> int:
    """Take the root off a heap of `size` points and return it."""
    root = points[0]
    size -= 1
    value, point = values[size], points[size]
    place = 0
    while 2 * place + 1 < size:
        child = 2 * place + 1
        if child + 1 < size and values[child + 1] > values[child]:
            child += 1
        if values[child] <= value:
            break
        values[place], points[place] = values[child], points[child]
        place = child
    values[place], points[place] = value, point
    return int(root)


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _grow(
    log_magnitudes: Any, phase: Any, done: Any, values: Any, points: Any, size: int, ratio: float, hop_share: float
) -> None:
    """Integrate outwards from the `size` points on the heap, until it is empty."""
    frames, bins = log_magnitudes.shape
    loudness = log_magnitudes.reshape(-1)
    angles = phase.reshape(-1)
    while size > 0:
        here = _pop(values, points, size)
        size -= 1
        t, k = here // bins, here % bins
        for side in range(4):
            along_time = side < 2
            sign = 1 if side % 2 == 0 else -1
            t2, k2 = (t + sign, k) if along_time else (t, k + sign)
            if t2 < 0 or t2 >= frames or k2 < 0 or k2 >= bins:
                continue
            there = t2 * bins + k2
            if done[there]:
                continue
            if along_time:
                here_step = _time_step(log_magnitudes, t, k, ratio, hop_share)
                there_step = _time_step(log_magnitudes, t2, k2, ratio, hop_share)
            else:
                here_step = _frequency_step(log_magnitudes, t, k, ratio)
                there_step = _frequency_step(log_magnitudes, t2, k2, ratio)
            angles[there] = angles[here] + sign * (here_step + there_step) / 2
            done[there] = True
            _push(values, points, size, loudness[there], there)
            size += 1


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _integrate(log_magnitudes: Any, phase: Any, ratio: float, hop_share: float, floor: float, given: int) -> None:
    """Fill `phase` after the first `given` frames wherever the log-magnitude is at least `floor`; leave the rest."""
    bins = log_magnitudes.shape[1]
    loudness = log_magnitudes.reshape(-1)
    angles = phase.reshape(-1)
    candidates = np.nonzero(loudness >= floor)[0]
    starts = candidates[np.argsort(-loudness[candidates])]
    done = loudness < floor
    values = np.empty(len(starts) + 1, np.float32)
    points = np.empty(len(starts) + 1, np.int64)
    size = 0
    for point in range(given * bins):
        if not done[point]:
            done[point] = True
            _push(values, points, size, loudness[point], point)
            size += 1
    _grow(log_magnitudes, phase, done, values, points, size, ratio, hop_share)
    for start in starts:
        if done[start]:
            continue
        angles[start] = 0.0
        done[start] = True
        _push(values, points, 0, loudness[start], start)
        _grow(log_magnitudes, phase, done, values, points, 1, ratio, hop_share)
