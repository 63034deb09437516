"""Mel filter banks: the one of the analysis, and its image on the frequency grid of the decoder."""

import math

import numpy as np
import torch
import torchaudio.functional

HTK_CORNER_HZ = 700.0

_MEL_PER_DECADE = 2595.0


def mel_filter_bank(
    n_fft: int, rate_hz: int, n_mels: int, f_min_hz: float, f_max_hz: float, corner_hz: float
) -> torch.Tensor:
    """Return triangular filters of height 1, evenly spaced on mel(f) = 2595 log10(1 + f / corner), (n_fft // 2 + 1, n_mels).

    A corner of 700 Hz is the HTK scale; torchaudio's own filters are taken there, so that images agree with the original
    Riffusion to the last bit.
    """
    if corner_hz == HTK_CORNER_HZ:
        return torchaudio.functional.melscale_fbanks(
            n_fft // 2 + 1, f_min_hz, f_max_hz, n_mels, rate_hz, norm=None, mel_scale="htk"
        )
    low, high = (_MEL_PER_DECADE * math.log10(1 + f / corner_hz) for f in (f_min_hz, f_max_hz))
    edges_hz = corner_hz * (10 ** (np.linspace(low, high, n_mels + 2) / _MEL_PER_DECADE) - 1)
    bins_hz = np.arange(n_fft // 2 + 1)[:, None] * rate_hz / n_fft
    rising = (bins_hz - edges_hz[:-2]) / (edges_hz[1:-1] - edges_hz[:-2])
    falling = (edges_hz[2:] - bins_hz) / (edges_hz[2:] - edges_hz[1:-1])
    return torch.from_numpy(np.maximum(0.0, np.minimum(rising, falling)).astype(np.float32))


def onto_grid(filters: torch.Tensor, bin_hz: float, grid_bin_hz: float, grid_bins: int) -> torch.Tensor:
    """Carry filters from bins spaced `bin_hz` to a grid spaced `grid_bin_hz`, (grid_bins, n_mels).

    The magnitude between two bins of the grid is taken to run in a straight line, so a filter's weight at a frequency
    is shared by the two nearest bins of the grid (hat functions).
    """
    weights = filters.numpy().astype(np.float64)
    position = np.arange(len(weights)) * bin_hz / grid_bin_hz
    below = np.floor(position).astype(np.int64)
    share = (position - below)[:, None]
    grid = np.zeros((grid_bins, weights.shape[1]))
    for index, part in ((below, weights * (1 - share)), (below + 1, weights * share)):
        inside = index < grid_bins
        np.add.at(grid, index[inside], part[inside])
    return torch.from_numpy(grid.astype(np.float32))
