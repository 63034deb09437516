"""Inner loops of the inversion, by numba on the CPU and by torch elsewhere: projections, mel products, Richardson-Lucy."""

from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor


def on_host(tensor: Tensor) -> bool:
    """Return whether a tensor is in the host's memory, where our own loops are faster."""
    return tensor.device.type == "cpu"


def magnitude(spectrum: Tensor) -> Tensor:
    """Return the magnitudes of a spectrum, (..., frames, bins); faster than `abs`, which guards against overflow."""
    if not on_host(spectrum):
        squares = torch.view_as_real(spectrum).square()
        return (squares[..., 0] + squares[..., 1]).sqrt_()
    magnitudes = torch.empty(spectrum.shape)
    _magnitude(parts(spectrum), magnitudes.numpy().reshape(-1))
    return magnitudes


def parts(spectrum: Tensor) -> Any:
    """Return the real and imaginary parts of a spectrum in the host's memory, float32 (numbers, 2)."""
    return torch.view_as_real(spectrum.contiguous()).numpy().reshape(-1, 2)


@numba.njit(cache=True, nogil=True, fastmath=True)  # type: ignore[untyped-decorator]
def _magnitude(parts: Any, magnitudes: Any) -> None:
    for index in range(len(magnitudes)):
        magnitudes[index] = np.sqrt(parts[index, 0] * parts[index, 0] + parts[index, 1] * parts[index, 1])


_SMALLEST = 1e-30
"""Added to squared magnitudes, so that quotients stay finite."""


def ahead_of(rebuilt: Tensor, previous: Tensor | None, share: float) -> Tensor:
    """Return the step ahead of fast Griffin-Lim, `rebuilt - share * previous`; without a previous one, `rebuilt`."""
    return rebuilt if previous is None else torch.sub(rebuilt, previous, alpha=share)


def project(rebuilt: Tensor, previous: Tensor | None, share: float, magnitudes: Tensor) -> Tensor:
    """Return numbers with the phase of `rebuilt - share * previous` and the given magnitudes.

    Args:
        rebuilt: Complex (..., frames, bins).
        previous: Of the same shape, or None for no momentum.
        share: Weight of the previous one, m / (1 + m) for a momentum m.
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


@numba.njit(cache=True, nogil=True, fastmath=True)  # type: ignore[untyped-decorator]
def _project(rebuilt: Any, previous: Any, share: Any, magnitudes: Any, projected: Any) -> None:
    smallest = np.float32(_SMALLEST)
    for index in range(len(magnitudes)):
        real = rebuilt[index, 0] - share * previous[index, 0]
        imaginary = rebuilt[index, 1] - share * previous[index, 1]
        factor = magnitudes[index] / np.sqrt(real * real + imaginary * imaginary + smallest)
        projected[index, 0] = real * factor
        projected[index, 1] = imaginary * factor


BLOCK_FRAMES = 16
"""Frames that a loop processes side by side, so that each weight is read once and the processor's vectors are full."""


def runs(filters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where the weights of filters (bins, bands) that are not zero lie; each band has one run of them.

    Returns:
        The first bin of each band, (bands,), and the start of its weights in a list of all weights, (bands + 1,).
    """
    bins = [np.flatnonzero(band) for band in filters.T]
    firsts = [int(inside[0]) if len(inside) else 0 for inside in bins]
    sizes = [int(inside[-1]) + 1 - first if len(inside) else 0 for inside, first in zip(bins, firsts, strict=True)]
    return np.array(firsts, np.int64), np.cumsum([0, *sizes], dtype=np.int64)


def inside_runs(matrix: np.ndarray, firsts: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Return the entries of a matrix (bins, bands) that lie in the runs, band after band."""
    sizes = np.diff(starts)
    return np.concatenate(
        [matrix[first : first + size, band] for band, (first, size) in enumerate(zip(firsts, sizes, strict=True))]
    )


class BandedProduct:
    """Multiplies by a banded matrix: `product(x)` is `x @ matrix`.

    A mel filter covers few of the frequencies, so on the CPU the matrix is cut into blocks of columns and each block
    to the rows that are not zero in it, which leaves about a tenth of the work. Elsewhere one large product is faster than
    many small ones.

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
    """Richardson-Lucy iterations, which move magnitudes towards those with the given mel magnitudes.

    On the CPU a loop goes over the weights that are not zero, in a fifth of the time of the matrix products that are used
    elsewhere.

    Args:
        filters: Mel filters, (bins, n_mels), not negative.

    Attributes:
        spread: From mels to bins, (n_mels, bins): the share of each band in a bin.
    """

    def __init__(self, filters: Tensor) -> None:
        self._filters = filters
        self.spread = (filters / (filters.sum(1, keepdim=True) + 1e-9)).t().contiguous()
        self._firsts, self._starts = runs(filters.numpy())
        self._weights = inside_runs(filters.numpy(), self._firsts, self._starts)
        self._shares = inside_runs(self.spread.t().numpy(), self._firsts, self._starts)

    def __call__(self, magnitudes: Tensor, target: Tensor, tiny: Tensor, iterations: int = 1) -> Tensor:
        """Return magnitudes whose mel magnitudes are nearer to the target.

        One iteration is magnitudes * ((target / (magnitudes @ filters)) @ spread).

        Args:
            magnitudes: (clips, channels, frames, bins); they may be overwritten.
            target: Mel magnitudes plus `tiny`, (clips, channels, frames, n_mels).
            tiny: Keeps quotients finite, (clips, channels, 1, 1).
            iterations: Number of iterations.
        """
        if on_host(magnitudes):
            moved = magnitudes.contiguous()
            floors = tiny.expand(*target.shape[:-1], 1).reshape(-1).numpy()
            rows, goals = (part.reshape(len(floors), -1).numpy() for part in (moved, target))
            _fit(rows, goals, floors, iterations, self._firsts, self._starts, self._weights, self._shares)
            return moved
        self._filters, self.spread = (part.to(magnitudes.device) for part in (self._filters, self.spread))
        for _ in range(iterations):
            magnitudes = ((target / (magnitudes @ self._filters).add_(tiny)) @ self.spread).mul_(magnitudes)
        return magnitudes


@numba.njit(cache=True, nogil=True, fastmath=True)  # type: ignore[untyped-decorator]
def _fit(
    rows: Any, goals: Any, tiny: Any, iterations: int, firsts: Any, starts: Any, weights: Any, shares: Any
) -> None:
    """Run the iterations in place, on blocks of frames with the frames innermost.

    Args:
        rows: Magnitudes, (frames, bins), to be overwritten.
        goals: Target mel magnitudes, (frames, bands).
        tiny: (frames,).
        iterations: Number of iterations.
        firsts: First bin of each band, (bands,).
        starts: Start of each band's weights, (bands + 1,).
        weights: Filter weights, band after band.
        shares: Entries of `spread` in the same order.
    """
    bands, bins = goals.shape[1], rows.shape[1]
    levels = np.zeros((bins, BLOCK_FRAMES), np.float32)
    goal = np.zeros((bands, BLOCK_FRAMES), np.float32)
    floor = np.ones(BLOCK_FRAMES, np.float32)
    for first in range(0, len(rows), BLOCK_FRAMES):
        count = min(BLOCK_FRAMES, len(rows) - first)
        for column in range(count):
            floor[column] = tiny[first + column]
            for k in range(bins):
                levels[k, column] = rows[first + column, k]
            for band in range(bands):
                goal[band, column] = goals[first + column, band]
        for _ in range(iterations):
            _iterate(levels, goal, floor, firsts, starts, weights, shares)
        for column in range(count):
            for k in range(bins):
                rows[first + column, k] = levels[k, column]


@numba.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _iterate(levels: Any, goal: Any, floor: Any, firsts: Any, starts: Any, weights: Any, shares: Any) -> None:
    """Run one iteration on a block: levels (bins, BLOCK_FRAMES), goal (bands, BLOCK_FRAMES), floor (BLOCK_FRAMES,)."""
    factors = np.zeros(levels.shape, np.float32)
    total = np.zeros(BLOCK_FRAMES, np.float32)
    for band in range(len(firsts)):
        shift = firsts[band] - starts[band]  # from the index of a weight to its bin
        # The mel magnitude of the band, and the quotient of its goal and it.
        for column in range(BLOCK_FRAMES):
            total[column] = floor[column]
        for index in range(starts[band], starts[band + 1]):
            weight = weights[index]
            for column in range(BLOCK_FRAMES):
                total[column] += weight * levels[index + shift, column]
        for column in range(BLOCK_FRAMES):
            total[column] = goal[band, column] / total[column]
        # Each bin's factor is the mean quotient of the bands that cover it.
        for index in range(starts[band], starts[band + 1]):
            share = shares[index]
            for column in range(BLOCK_FRAMES):
                factors[index + shift, column] += share * total[column]
    for k in range(len(levels)):
        for column in range(BLOCK_FRAMES):
            levels[k, column] *= factors[k, column]
