"""Magnitudes made to fit mel magnitudes, by Richardson-Lucy iterations over filters that are zero but for a narrow band."""

from typing import Any

import numba
import numpy as np
from torch import Tensor

from riffusion_train.audio import host
from riffusion_train.audio.bands import LANES, inside_runs, runs


class BandFit:
    """Moves magnitudes towards those of which the mel magnitudes are known.

    On the CPU a loop goes over what is not zero of the filters, a fifth of the time of products of matrices; elsewhere it
    is these.

    Args:
        filters: (bins, n_mels), not negative.

    Attributes:
        spread: From mels to bins, (n_mels, bins): the share that each band has in a bin.
    """

    def __init__(self, filters: Tensor) -> None:
        self._filters = filters
        self.spread = (filters / (filters.sum(1, keepdim=True) + 1e-9)).t().contiguous()
        self._firsts, self._places = runs(filters.numpy())
        self._weights = inside_runs(filters.numpy(), self._firsts, self._places)
        self._shares = inside_runs(self.spread.t().numpy(), self._firsts, self._places)

    def __call__(self, magnitudes: Tensor, wanted: Tensor, tiny: Tensor, iterations: int = 1) -> Tensor:
        """Return magnitudes nearer to the wanted mels, by Richardson-Lucy iterations.

        Args:
            magnitudes: (clips, channels, frames, bins); they may be overwritten.
            wanted: Mel magnitudes plus `tiny`, (clips, channels, frames, n_mels).
            tiny: What keeps quotients finite, (clips, channels, 1, 1).
            iterations: Number of iterations.
        """
        if host.on_host(magnitudes):
            found = magnitudes.contiguous()
            floors = tiny.expand(*wanted.shape[:-1], 1).reshape(-1).numpy()
            rows, goals = (part.reshape(len(floors), -1).numpy() for part in (found, wanted))
            _fit(rows, goals, floors, iterations, self._firsts, self._places, self._weights, self._shares)
            return found
        self._filters, self.spread = (part.to(magnitudes.device) for part in (self._filters, self.spread))
        for _ in range(iterations):
            magnitudes = ((wanted / (magnitudes @ self._filters).add_(tiny)) @ self.spread).mul_(magnitudes)
        return magnitudes


@numba.njit(cache=True, fastmath=True)  # type: ignore[untyped-decorator]
def _fit(
    rows: Any, goals: Any, tiny: Any, iterations: int, firsts: Any, places: Any, weights: Any, shares: Any
) -> None:
    bands, bins = goals.shape[1], rows.shape[1]
    levels = np.zeros((bins, LANES), np.float32)
    goal = np.zeros((bands, LANES), np.float32)
    floor = np.ones(LANES, np.float32)
    for first in range(0, len(rows), LANES):
        lanes = min(LANES, len(rows) - first)
        for lane in range(lanes):
            floor[lane] = tiny[first + lane]
            for k in range(bins):
                levels[k, lane] = rows[first + lane, k]
            for band in range(bands):
                goal[band, lane] = goals[first + lane, band]
        for _ in range(iterations):
            _iterate(levels, goal, floor, firsts, places, weights, shares)
        for lane in range(lanes):
            for k in range(bins):
                rows[first + lane, k] = levels[k, lane]


@numba.njit(cache=True, fastmath=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _iterate(levels: Any, goal: Any, floor: Any, firsts: Any, places: Any, weights: Any, shares: Any) -> None:
    factors = np.zeros(levels.shape, np.float32)
    total = np.zeros(LANES, np.float32)
    for band in range(len(firsts)):
        shift = firsts[band] - places[band]
        for lane in range(LANES):
            total[lane] = floor[lane]
        for index in range(places[band], places[band + 1]):
            weight = weights[index]
            for lane in range(LANES):
                total[lane] += weight * levels[index + shift, lane]
        for lane in range(LANES):
            total[lane] = goal[band, lane] / total[lane]
        for index in range(places[band], places[band + 1]):
            share = shares[index]
            for lane in range(LANES):
                factors[index + shift, lane] += share * total[lane]
    for k in range(len(levels)):
        for lane in range(LANES):
            levels[k, lane] *= factors[k, lane]
