"""The loops of the inversion on the CPU, by numba: magnitudes, projections, products with mel filters, Richardson-Lucy."""

from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor


def on_host(tensor: Tensor) -> bool:
    """Return whether a tensor lies in the host's memory, where loops of our own are the quicker way."""
    return tensor.device.type == "cpu"


def magnitude(spectrum: Tensor) -> Tensor:
    """Return the magnitudes of (..., frames, bins); without the care of `abs` against overflow, which sound does not need."""
    if not on_host(spectrum):
        squares = torch.view_as_real(spectrum).square()
        return (squares[..., 0] + squares[..., 1]).sqrt_()
    found = torch.empty(spectrum.shape)
    _magnitude(parts(spectrum), found.numpy().reshape(-1))
    return found


def parts(spectrum: Tensor) -> Any:
    """Return the real and imaginary parts of a spectrum in the host's memory, float32 (numbers, 2)."""
    return torch.view_as_real(spectrum.contiguous()).numpy().reshape(-1, 2)


@numba.njit(cache=True, fastmath=True)  # type: ignore[untyped-decorator]
def _magnitude(parts: Any, found: Any) -> None:
    for place in range(len(found)):
        found[place] = np.sqrt(parts[place, 0] * parts[place, 0] + parts[place, 1] * parts[place, 1])


_SMALLEST = 1e-30
"""Added to squared magnitudes, so that quotients stay finite."""


def ahead_of(rebuilt: Tensor, previous: Tensor | None, share: float) -> Tensor:
    """Return `rebuilt` carried on in the direction away from `previous`: `rebuilt - share * previous`."""
    return rebuilt if previous is None else torch.sub(rebuilt, previous, alpha=share)


def project(rebuilt: Tensor, previous: Tensor | None, share: float, magnitudes: Tensor) -> Tensor:
    """Return numbers with the phase of `rebuilt - share * previous` and the given magnitudes.

    Args:
        rebuilt: Complex (..., frames, bins).
        previous: Of the same shape, or None for no momentum.
        share: How much of the previous is taken off.
        magnitudes: (..., frames, bins).
    """
    if not on_host(rebuilt):
        ahead = ahead_of(rebuilt, previous, share)
        return ahead * (magnitudes * torch.rsqrt(ahead.real.square() + ahead.imag.square() + _SMALLEST))
    projected = torch.empty_like(rebuilt, memory_format=torch.contiguous_format)
    before = rebuilt if previous is None else previous
    _project(
        parts(rebuilt), parts(before), np.float32(0.0 if previous is None else share),
        magnitudes.contiguous().numpy().reshape(-1), parts(projected),
    )  # fmt: skip
    return projected


@numba.njit(cache=True, fastmath=True)  # type: ignore[untyped-decorator]
def _project(rebuilt: Any, previous: Any, share: Any, magnitudes: Any, projected: Any) -> None:
    smallest = np.float32(_SMALLEST)
    for place in range(len(magnitudes)):
        real = rebuilt[place, 0] - share * previous[place, 0]
        imaginary = rebuilt[place, 1] - share * previous[place, 1]
        factor = magnitudes[place] / np.sqrt(real * real + imaginary * imaginary + smallest)
        projected[place, 0] = real * factor
        projected[place, 1] = imaginary * factor


LANES = 16
"""Columns that a loop takes side by side, so that each weight is read once and the processor's vectors are full."""


def runs(filters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first bin of each band of (bins, bands), and where its weights begin in a list of all, with its length."""
    bins = [np.flatnonzero(band) for band in filters.T]
    firsts = [int(found[0]) if len(found) else 0 for found in bins]
    sizes = [int(found[-1]) + 1 - first if len(found) else 0 for found, first in zip(bins, firsts, strict=True)]
    return np.array(firsts, np.int64), np.cumsum([0, *sizes], dtype=np.int64)


def inside_runs(matrix: np.ndarray, firsts: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return what of a matrix (bins, bands) lies in the runs, band after band."""
    sizes = np.diff(places)
    return np.concatenate(
        [matrix[first : first + size, band] for band, (first, size) in enumerate(zip(firsts, sizes, strict=True))]
    )


class BandedProduct:
    """Multiplies by a banded matrix: `product(x)` is `x @ matrix`.

    A mel filter touches few of the frequencies, so on the CPU the matrix is cut into blocks of columns and each block
    into the rows that are not zero in it, which leaves about a tenth of the work. Elsewhere the product is taken whole:
    one large product is quicker there than many small ones.

    Args:
        matrix: (rows, columns), float32.
        columns: Columns in a block.
    """

    def __init__(self, matrix: Tensor, columns: int = 32) -> None:
        self.matrix = matrix
        self._blocks: list[tuple[int, int, int, int, Tensor]] = []
        for first in range(0, matrix.shape[1], columns):
            block = matrix[:, first : first + columns]
            rows = torch.nonzero(block.any(1))[:, 0]
            low, high = (int(rows[0]), int(rows[-1]) + 1) if len(rows) else (0, 1)
            self._blocks.append((low, high, first, first + block.shape[1], block[low:high].contiguous()))
        self.rows_used = max(block[1] for block in self._blocks)
        """Rows from here on are zero throughout."""

    def __call__(self, left: Tensor) -> Tensor:
        """Return (..., columns) for (..., rows or at least `rows_used`)."""
        if not on_host(left):
            self.matrix = self.matrix.to(left.device)
            return left @ self.matrix[: left.shape[-1]]
        flat = left.reshape(-1, left.shape[-1])
        product = torch.empty(len(flat), self.matrix.shape[1])
        for low, high, first, last, block in self._blocks:
            torch.mm(flat[:, low:high], block, out=product[:, first:last])
        return product.reshape(*left.shape[:-1], -1)


class RichardsonLucy:
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
        if on_host(magnitudes):
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
