"""The data of a step on its way to the device: cached rows, read by the loader or held on the device, and batches.

A batch of Stable Diffusion 1.5 has half a MiB for each image. Its copy takes less than a hundredth of a step and runs beside
the backward pass of the step before. Rows that are held on the device save the loader work, which matters where its processor
is slow: reading a row, and stacking, pinning and copying it, is then one lookup on the device.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from riffusion_train.config.model import ExportDtype
from riffusion_train.dataset.cache import JoinedRows
from riffusion_train.dataset.spectrograms import Moments, Texts
from riffusion_train.model.loading import EXPORT_DTYPES

Batch = dict[str, Tensor]

_READ_AT_ONCE = 64
"""Rows of a cache that a thread reads before it copies them to the device."""
_THREADS = 8
_SHARE_OF_FREE = 0.5
"""Of the memory that is free, what rows may take."""


@dataclasses.dataclass(frozen=True)
class Caches:
    """What a run reads instead of computing it; None where it computes."""

    moments: Moments | None = None
    texts: Texts | None = None


class SliceRows:
    """The cached rows of some slices, looked up by the slice."""

    def __init__(self, slices: np.ndarray, rows: JoinedRows) -> None:
        self.keys: Sequence[Any] = slices.tolist()
        self.rows = rows
        self._slices = slices

    def number(self, index: int) -> int:
        """Return the row of a slice."""
        return int(np.searchsorted(self._slices, index))

    def __getitem__(self, index: int) -> np.ndarray:
        """Return the moments of a slice: float32 (2 * C, h, w)."""
        return self.rows[self.number(index)]


class CaptionRows:
    """The cached rows of captions, looked up by the caption."""

    def __init__(self, captions: Sequence[str], rows: JoinedRows) -> None:
        self.keys: Sequence[Any] = list(captions)
        self.rows = rows
        self._number_of = {caption: number for number, caption in enumerate(captions)}

    def number(self, caption: str) -> int:
        """Return the row of a caption."""
        return self._number_of[caption]

    def __getitem__(self, caption: str) -> np.ndarray:
        """Return the hidden states of a caption: float32 (77, D)."""
        return self.rows[self.number(caption)]


class _Numbered:
    """Gives the number of a row instead of the row."""

    def __init__(self, rows: Any) -> None:
        self._rows = rows

    def __getitem__(self, key: Any) -> np.ndarray:
        return np.array(self._rows.number(key))


class HeldRows:
    """Cached rows in the memory of a device, as they are stored.

    Args:
        device: Where to keep them.
        dtype: How the caches store numbers: `fp32`, `fp16` or `bf16`.
    """

    def __init__(self, device: torch.device, dtype: str) -> None:
        self._device, self._dtype = device, EXPORT_DTYPES[ExportDtype(dtype)]
        self._held: dict[str, tuple[Sequence[Any], Tensor]] = {}
        self._noted: set[str] = set()

    def hold(self, caches: Caches) -> Caches:
        """Hold the rows of caches that fit; return the caches to load from, which give numbers instead of these rows."""
        return Caches(
            self._hold("moments", caches.moments),
            self._hold("hidden_states", caches.texts),
        )

    def put_rows(self, batch: Batch) -> Batch:
        """Return a batch with the held rows, float32 on the device, where it has their numbers."""
        found = {
            key: rows.index_select(0, batch[key].to(self._device, non_blocking=True)).float()
            for key, (_, rows) in self._held.items()
        }
        return {**batch, **found}

    def _hold(self, key: str, cache: Any) -> Any:
        if cache is None:
            return None
        if key in self._held and self._held[key][0] == cache.keys:  # a stretch that meets the same slices again
            return _Numbered(cache)
        self._held.pop(key, None)
        shape = (len(cache.keys), *cache.rows[0].shape)
        size = int(np.prod(shape)) * self._dtype.itemsize
        free = free_bytes(self._device)
        if size > _SHARE_OF_FREE * free:
            if key not in self._noted:
                self._noted.add(key)
                print(
                    f"note: cache_on_device: {size / 2**30:.2g} GiB of {key} are more than half of the {free / 2**30:.2g} "
                    f"GiB that are free on {self._device}; they are read from their files"
                )
            return cache
        held = torch.empty(shape, dtype=self._dtype, device=self._device)

        def read(start: int) -> None:
            stop = min(start + _READ_AT_ONCE, len(held))
            rows = np.stack([cache.rows[number] for number in range(start, stop)])
            held[start:stop].copy_(torch.from_numpy(rows))

        with ThreadPoolExecutor(_THREADS) as pool:  # reading and checking a row does not hold the interpreter's lock
            list(pool.map(read, range(0, len(held), _READ_AT_ONCE)))
        self._held[key] = cache.keys, held
        return _Numbered(cache)


def free_bytes(device: torch.device) -> int:
    """Return the memory that is free on a device: the GPU's, or what this machine has left."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


class BatchCopy:
    """Copies batches to the device, on a stream of its own where that is a GPU.

    A step asks for its batches while the device is still busy with the backward pass of the step before, so that the copy from
    pinned memory runs beside it.

    Args:
        device: Where batches go.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, batch: Mapping[str, Tensor]) -> Batch:
        """Return the batch on the device; what is queued next waits for it, the caller does not."""
        if self._stream is None:
            return {key: value.to(self._device) for key, value in batch.items()}
        here = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._stream):
            copied = {
                key: value if value.device == self._device else value.to(self._device, non_blocking=True)
                for key, value in batch.items()
            }
        here.wait_stream(self._stream)
        for value in copied.values():
            value.record_stream(here)  # its memory is not used again before the step is done with it
        return copied
