"""Caches: what frozen networks compute for every slice and caption, kept in files of rows that all ranks fill together.

A cache is a safetensors file of two tensors, `checks` and `rows`, so that other programs can read it. While it is filled, it
has the suffix `.partial` and its full size from the start: a row is written at its own position, then its checksum. A row
whose checksum is zero or does not match is missing, so a job that was killed at any moment continues where it stopped.
"""

import contextlib
import dataclasses
import hashlib
import math
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from riffusion_train.dataset.layout import DatasetFolder
from riffusion_train.dataset.spectrograms import SpectrogramDataset
from riffusion_train.runtime.errors import InputError
from riffusion_train.runtime.files import read_safetensors_header, safetensors_header

CACHE_DIR = ".cache"
SCHEMA_VERSION = 1
ROWS_PER_GROUP = 8
"""Rows go through the network in the same groups whatever the number of processes, so that the file is the same bit for bit."""

_SUFFIX, _PARTIAL_SUFFIX = ".safetensors", ".partial"
_NAME_DIGITS = 16
_ROWS_CHECKED = 64
_GIB = 2**30

Encode = Callable[[range], torch.Tensor]
"""Row numbers to the rows, (B, …)."""
Report = Callable[[int], None]
"""Called with the rows done so far."""


@dataclasses.dataclass(frozen=True)
class CacheKind:
    """What a cache holds, as its messages say it."""

    name: str
    """Prefix of its file names."""
    contents: str
    """What a row is."""
    network: str
    """What computes the rows."""
    key: str
    """What distinguishes it from another cache of the same dataset."""
    option: str
    """The config key that turns it on and off."""


class CachedRows:
    """The rows of a complete cache. A row is read when it is indexed, so that memory does not grow with the dataset."""

    def __init__(self, path: Path, offset: int, shape: tuple[int, ...]) -> None:
        self.path = path
        self.shape = shape
        self._offset = offset
        self._file: int | None = None

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int) -> np.ndarray:
        """Return a row, read-only: float32, shape[1:].

        Raises:
            InputError: If the file was damaged since its row was written.
        """
        if self._file is None:
            self._file = os.open(self.path, os.O_RDONLY)
        row = _read_row(self._file, self._offset, self.shape, index)
        if row is None:
            raise InputError(f"{self.path}: its row {index} is damaged; delete the file, and it is made again")
        return row

    def __reduce__(self) -> tuple[type["CachedRows"], tuple[Path, int, tuple[int, ...]]]:
        return CachedRows, (self.path, self._offset, self.shape)  # an open file cannot be sent to another process

    def __del__(self) -> None:
        if self._file is not None:
            os.close(self._file)


class RowCache:
    """A cache of a dataset folder, complete or being filled.

    Its name contains the start of its key, so that the caches of several models can exist side by side; its metadata has the
    key in full, which is compared before the file is used.

    Args:
        folder: The dataset.
        kind: What it holds.
        network: Fingerprint of what computes the rows.
        shape: Rows, and the shape of one.
        name_row: From a row's number to its name, for messages.
    """

    def __init__(
        self,
        folder: DatasetFolder,
        kind: CacheKind,
        *,
        network: str,
        shape: tuple[int, ...],
        name_row: Callable[[int], str],
    ) -> None:
        self.folder = folder
        self.kind = kind
        self.shape = shape
        self.name_row = name_row
        self._metadata = {
            "contents": kind.contents,
            "dataset": folder.fingerprint,
            "network": network,
            "schema_version": str(SCHEMA_VERSION),
        }
        self._of_dataset = f"{kind.name}-{folder.fingerprint[:_NAME_DIGITS]}-"
        stem = self._of_dataset + network[:_NAME_DIGITS]
        self.path = folder.path / CACHE_DIR / (stem + _SUFFIX)
        self.partial = self.path.with_suffix(_PARTIAL_SUFFIX)
        self._header = _header(self._metadata, shape)
        self.num_bytes = len(self._header) + 4 * shape[0] + 4 * math.prod(shape)

    def exists(self) -> bool:
        """Whether the cache is complete."""
        return self.path.is_file()

    def refuse_stale(self) -> None:
        """Refuse a folder with a cache of what the dataset held before, which only takes up disk space.

        Raises:
            InputError: Naming every such file.
        """
        stale = [path for path in self._siblings() if not path.name.startswith(self._of_dataset)]
        if stale:
            raise InputError(
                f"{_named(stale)}: made from what {self.folder.path} held before it was prepared again (its fingerprint is "
                f"{self.folder.fingerprint[:_NAME_DIGITS]} now); delete it"
            )

    def others(self) -> str | None:
        """Name the caches that were made of this dataset with another network; None where there are none."""
        others = [path for path in self._siblings() if path.stem != self.path.stem]
        return _named(others) if others else None

    def open(self) -> CachedRows:
        """Open the complete cache.

        Raises:
            InputError: If the file is not what its name says, is cut short, or is damaged; up to 64 rows are checked here,
                and each of the others when it is read.
        """
        problem = self._misfit()
        if problem is not None:
            raise InputError(f"{self.path}: {problem}; delete it, and it is made again")
        rows = CachedRows(self.path, len(self._header), self.shape)
        count = min(_ROWS_CHECKED, len(rows))
        for number in range(count):  # spread evenly over the file; reading a row checks it
            rows[number * len(rows) // count]
        return rows

    def allocate(self) -> None:
        """Allocate the file on disk, or keep what a stopped job left; called by one process, before any of them fills.

        Raises:
            InputError: If there is too little disk space, or the folder cannot be written.
        """
        with self._problems():
            self.path.parent.mkdir(exist_ok=True)
            started = self._started()
            used = (
                self.partial.stat().st_blocks * 512 if started else 0
            )  # a sparse file: rows not written yet take no blocks
            free, needed = shutil.disk_usage(self.path.parent).free, self.num_bytes - used
            if needed > free:
                raise InputError(
                    f"{self.path}: the cache takes {needed / _GIB:.1f} GiB, and {free / _GIB:.1f} are free; free some, or "
                    f"take {self.kind.option}=false"
                )
            if not started:
                with self.partial.open("wb") as file:
                    file.write(self._header)
                    file.truncate(self.num_bytes)

    def groups(self, *, rank: int, world_size: int) -> list[range]:
        """Return the groups of rows that are a process's share."""
        count, step = self.shape[0], world_size * ROWS_PER_GROUP
        return [range(start, min(start + ROWS_PER_GROUP, count)) for start in range(rank * ROWS_PER_GROUP, count, step)]

    def missing(self, *, rank: int, world_size: int) -> list[range]:
        """Return the groups of a process's share that are still to be computed, whoever started the file."""
        with self._problems(), self.partial.open("rb") as file:
            return [
                group
                for group in self.groups(rank=rank, world_size=world_size)
                if not all(self._is_written(file.fileno(), index) for index in group)
            ]

    def fill(self, groups: Sequence[range], encode: Encode, report: Report) -> None:
        """Compute groups of rows and write them.

        Raises:
            InputError: If a row is not finite, naming it; or if the disk is full.
        """
        done = 0
        with self._problems():
            file = self.partial.open("r+b")
        with file:
            for group in groups:
                rows = encode(group).float().cpu().numpy()
                bad = [index for index, row in zip(group, rows, strict=True) if not np.isfinite(row).all()]
                if bad:
                    raise InputError(
                        f"{self.folder.path}: the {self.kind.network} gives no finite {self.kind.contents} for "
                        f"{self.name_row(bad[0])}; leave it out of the dataset, or take another model"
                    )
                with self._problems():
                    self._write(file.fileno(), group.start, np.ascontiguousarray(rows))
                done += len(group)
                report(done)
            with self._problems():
                os.fsync(file.fileno())

    def finish(self) -> None:
        """Give the cache its name; called by one process, after all have written."""
        with self._problems():
            try:
                self.partial.replace(self.path)
            except FileNotFoundError:
                if not self.exists():  # else another job that filled the same file was first
                    raise

    def _write(self, file: int, start: int, rows: np.ndarray) -> None:
        """Write the rows, then their checksums: in this order, so that no checksum stands for a row that is not there.

        Layout of the file: header, checks (N,) uint32, rows (N, …) float32.
        """
        checks = np.array([zlib.crc32(row) for row in rows], dtype="<u4")
        row_bytes = rows[0].nbytes
        _write_at(file, rows.tobytes(), len(self._header) + 4 * self.shape[0] + start * row_bytes)
        _write_at(file, checks.tobytes(), len(self._header) + 4 * start)

    def _is_written(self, file: int, index: int) -> bool:
        if not any(os.pread(file, 4, len(self._header) + 4 * index)):  # no checksum, so never written
            return False
        return _read_row(file, len(self._header), self.shape, index) is not None

    def _started(self) -> bool:
        """Whether the partial file is one that this job can continue."""
        if not self.partial.is_file() or self.partial.stat().st_size != self.num_bytes:
            return False
        with self.partial.open("rb") as file:
            return file.read(len(self._header)) == self._header

    def _misfit(self) -> str | None:
        """Return how the file differs from what its name says; None where it does not."""
        with self._problems(), self.path.open("rb") as file:
            start = file.read(len(self._header))
            num_bytes = os.fstat(file.fileno()).st_size
        if start != self._header:
            metadata = _metadata(self.path)
            if metadata is None:
                return "is not a cache, or a damaged one"
            reasons = {"dataset": "of another dataset", "network": f"of another {self.kind.key}"}
            changed = [reason for key, reason in reasons.items() if metadata.get(key) != self._metadata[key]]
            return f"is {' and '.join(changed) or 'of another shape'}, not what its name says"
        if num_bytes != self.num_bytes:
            return f"is of another size than written ({num_bytes} bytes, not {self.num_bytes})"
        return None

    def _siblings(self) -> list[Path]:
        paths = sorted(self.path.parent.glob(f"{self.kind.name}-*"))
        return [path for path in paths if path.suffix in (_SUFFIX, _PARTIAL_SUFFIX)]

    @contextlib.contextmanager
    def _problems(self) -> Iterator[None]:
        """Turn an error of the file system into one line with the fix."""
        try:
            yield
        except OSError as error:
            raise InputError(
                f"{self.path.parent}: {(error.strerror or str(error)).lower()} while filling or reading the cache of the "
                f"{self.kind.contents}, {self.num_bytes / _GIB:.2g} GiB; fix that and run the same command again with "
                f"resume=auto, which continues where it stopped, or take {self.kind.option}=false"
            ) from None


def _header(metadata: dict[str, str], shape: tuple[int, ...]) -> bytes:
    entries = {"checks": ("U32", shape[:1], 4 * shape[0]), "rows": ("F32", shape, 4 * math.prod(shape))}
    return safetensors_header(entries, metadata)


def _metadata(path: Path) -> dict[str, str] | None:
    """Return the metadata of a safetensors file; None where it is none."""
    try:
        return dict(read_safetensors_header(path)[0]["__metadata__"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _read_row(file: int, offset: int, shape: tuple[int, ...], index: int) -> np.ndarray | None:
    """Read a row, float32 `shape[1:]`; None where its checksum does not match."""
    row_bytes = 4 * math.prod(shape[1:])
    check = os.pread(file, 4, offset + 4 * index)
    row = os.pread(file, row_bytes, offset + 4 * shape[0] + index * row_bytes)
    if len(row) != row_bytes or zlib.crc32(row) != int.from_bytes(check, "little"):
        return None
    return np.frombuffer(row, dtype="<f4").reshape(shape[1:])


def _write_at(file: int, content: bytes, offset: int) -> None:
    """Write all bytes: one call may write fewer, as on a disk that fills up."""
    view = memoryview(content)
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written


def _named(paths: Sequence[Path]) -> str:
    sizes = sum(path.stat().st_blocks * 512 for path in paths)
    return f"{', '.join(str(path) for path in paths)} ({sizes / _GIB:.2g} GiB)"


LATENTS = CacheKind(name="latents", contents="latents", network="VAE", key="VAE", option="cache_latents")


def latent_cache(dataset: SpectrogramDataset, vae: str, shape: tuple[int, int, int]) -> RowCache:
    """Return the cache of a split's moments, whether or not it exists yet: float32 (slices, 2 * C, h, w).

    Moments are kept rather than samples, so that every step draws its own latents, as without a cache.

    Args:
        dataset: The slices.
        vae: Fingerprint of the VAE.
        shape: Of the moments of a slice, (2 * C, h, w).
    """
    return RowCache(dataset.folder, LATENTS, network=vae, shape=(len(dataset), *shape), name_row=dataset.slice_name)


TEXTS = CacheKind(
    name="texts",
    contents="hidden states",
    network="text encoder",
    key="text encoder or tokenizer",
    option="cache_text_embeddings",
)


def cached_captions(captions: Sequence[str]) -> list[str]:
    """Return the captions that get a row, in the order of the rows: the empty one, and every other once.

    Which of them a step trains with, and whether it is dropped, is drawn in that step: the cache holds no draw.
    """
    return ["", *(caption for caption in dict.fromkeys(captions) if caption)]


def text_cache(
    folder: DatasetFolder, captions: Sequence[str], *, text_encoder: str, tokenizer: str, shape: tuple[int, int]
) -> RowCache:
    """Return the cache of the captions' hidden states, whether or not it exists yet: float32 (captions, 77, D).

    Kept in float32, as the text encoder computes them, so that the UNet gets the same numbers as without a cache in every
    precision; a caption of SD 1.5 takes 231 KiB.

    Args:
        folder: The dataset of the captions.
        captions: What `cached_captions` returns.
        text_encoder: Fingerprint of the text encoder.
        tokenizer: Fingerprint of the tokenizer.
        shape: Of the hidden states of a caption, (77, D).
    """
    network = hashlib.blake2b(f"{text_encoder} {tokenizer}".encode(), digest_size=16).hexdigest()
    return RowCache(
        folder,
        TEXTS,
        network=network,
        shape=(len(captions), *shape),
        name_row=lambda row: f"the caption {captions[row]!r}",
    )


class CachedTexts:
    """The hidden states of captions, looked up by the caption."""

    def __init__(self, captions: Sequence[str], rows: CachedRows) -> None:
        self._row_of = {caption: row for row, caption in enumerate(captions)}
        self._rows = rows

    def __getitem__(self, caption: str) -> np.ndarray:
        """Return the hidden states of a caption: float32 (77, D)."""
        return self._rows[self._row_of[caption]]
