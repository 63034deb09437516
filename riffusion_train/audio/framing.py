"""The host's loops around the transform of the analysis: frames under a window, and magnitudes in mel bands.

Each goes over memory once, where torch's operations go over it once for each step and take new pages of it every time.
"""

from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from riffusion_train.audio.bands import LANES, inside_runs, runs
from riffusion_train.audio.magnitude import parts


class MelBands:
    """Mel filters as the runs of weights that are not zero.

    Args:
        filters: (bins, n_mels), float32; every filter has one run.
    """

    def __init__(self, filters: Tensor) -> None:
        self._n_mels = filters.shape[1]
        self._firsts, self._places = runs(filters.numpy())
        self._weights = inside_runs(filters.numpy(), self._firsts, self._places)
        self._top = int((self._firsts + np.diff(self._places)).max())

    def of_magnitudes(self, spectra: Tensor) -> Tensor:
        """Return the mel magnitudes of complex spectra in the host's memory, (..., bins) -> (..., n_mels)."""
        found = torch.empty(*spectra.shape[:-1], self._n_mels)
        numbers = parts(spectra).reshape(-1, spectra.shape[-1], 2)
        mels = found.numpy().reshape(-1, self._n_mels)
        _mel_magnitudes(numbers, self._firsts, self._places, self._weights, self._top, mels)
        return found


def window_frames(wavs: Tensor, window: Tensor, hop_length: int, first: int, frames: Tensor) -> None:
    """Write frames of sounds under a window into the middle of `frames`; beyond the ends the sounds are reflected.

    Args:
        wavs: (rows, samples), longer than half a frame.
        window: Not longer than a frame.
        hop_length: Samples between frames; frame 0 is centred on sample 0.
        first: The first frame to write.
        frames: (rows, some frames, samples of a frame); only what lies under the window is written.
    """
    _window_frames(wavs.contiguous().numpy(), window.numpy(), hop_length, first, frames.numpy())


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _window_frames(wavs: Any, window: Any, hop_length: int, first: int, frames: Any) -> None:
    samples, width = wavs.shape[1], len(window)
    margin = (frames.shape[2] - width) // 2
    for row in range(len(frames)):
        for frame in range(frames.shape[1]):
            begin = (first + frame) * hop_length + margin - frames.shape[2] // 2
            if begin >= 0 and begin + width <= samples:
                for place in range(width):
                    frames[row, frame, margin + place] = wavs[row, begin + place] * window[place]
                continue
            for place in range(width):
                sample = abs(begin + place)
                if sample >= samples:
                    sample = 2 * (samples - 1) - sample
                frames[row, frame, margin + place] = wavs[row, sample] * window[place]


@numba.njit(cache=True, fastmath=True)  # type: ignore[untyped-decorator]
def _mel_magnitudes(spectra: Any, firsts: Any, places: Any, weights: Any, top: int, found: Any) -> None:
    magnitudes = np.zeros((top, LANES), np.float32)
    totals = np.empty(LANES, np.float32)
    for first in range(0, len(spectra), LANES):
        abreast = min(LANES, len(spectra) - first)
        for frame in range(abreast):
            for place in range(top):
                real, imaginary = spectra[first + frame, place, 0], spectra[first + frame, place, 1]
                magnitudes[place, frame] = np.sqrt(real * real + imaginary * imaginary)
        for band in range(len(firsts)):
            totals[:] = 0
            for weight in range(places[band], places[band + 1]):
                place = firsts[band] + weight - places[band]
                for frame in range(LANES):
                    totals[frame] += magnitudes[place, frame] * weights[weight]
            for frame in range(abreast):
                found[first + frame, band] = totals[frame]
