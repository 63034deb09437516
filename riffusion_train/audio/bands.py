"""Products with mel filters, which are zero but for a narrow band around a diagonal."""

import numpy as np
import torch
from torch import Tensor

from riffusion_train.audio import host

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
        if not host.on_host(left):
            self.matrix = self.matrix.to(left.device)
            return left @ self.matrix[: left.shape[-1]]
        flat = left.reshape(-1, left.shape[-1])
        product = torch.empty(len(flat), self.matrix.shape[1])
        for low, high, first, last, block in self._blocks:
            torch.mm(flat[:, low:high], block, out=product[:, first:last])
        return product.reshape(*left.shape[:-1], -1)
