"""The latent cache: mean and log-variance of every slice under a frozen VAE, encoded once by all ranks together."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from riffusion_train.config.errors import InputError
from riffusion_train.dataset.loading import SliceTable

CACHE_DIR = ".cache"

Encode = Callable[[torch.Tensor], torch.Tensor]
"""Pixels (B, 3, H, W) to moments (B, 2 * C, h, w)."""
Report = Callable[[int, int], None]
"""Called with slices done and slices in all."""


class LatentCache:
    """A memory-mapped file of moments, float32 (slices, 2 * C, h, w), inside the dataset folder.

    Its name carries the key, so a cache of another dataset or VAE is never taken for this one.
    """

    def __init__(self, table: SliceTable, key: str, shape: tuple[int, int, int]) -> None:
        self.table = table
        self.path = table.folder.path / CACHE_DIR / f"latents-{key}.npy"
        self.shape = (len(table), *shape)

    def exists(self) -> bool:
        """Whether the whole cache stands."""
        return self.path.is_file()

    def create(self) -> None:
        """Make room for the cache; called by one rank, before the others write."""
        self.path.parent.mkdir(exist_ok=True)
        np.lib.format.open_memmap(self._partial, mode="w+", dtype=np.float32, shape=self.shape).flush()

    def fill(self, encode: Encode, *, batch_size: int, rank: int, world_size: int, report: Report) -> None:
        """Encode this rank's share of the slices.

        Raises:
            InputError: If a slice has latents that are not finite; the message names it.
        """
        rows = np.load(self._partial, mmap_mode="r+")
        share = range(rank, len(self.table), world_size)
        for start in range(0, len(share), batch_size):
            indices = list(share[start : start + batch_size])
            moments = encode(torch.stack([self.table.pixels(index) for index in indices]))
            bad = [index for index, row in zip(indices, moments, strict=True) if not row.isfinite().all()]
            if bad:
                raise InputError(
                    f"{self.table.folder.path}: the VAE gives no finite latents for {self.table.where(bad[0])}"
                )
            rows[indices] = moments.float().cpu().numpy()
            report(min(start + batch_size, len(share)), len(share))
        rows.flush()

    def finish(self) -> None:
        """Give the cache its name; called by one rank, after all have written."""
        self._partial.replace(self.path)

    def open(self) -> np.ndarray:
        """Return the moments, read through a memory map: float32 (slices, 2 * C, h, w)."""
        return np.load(self.path, mmap_mode="r")

    @property
    def _partial(self) -> Path:
        return self.path.with_suffix(".partial")
