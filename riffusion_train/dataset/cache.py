"""Caches: what frozen networks compute for every slice and caption, kept in files of rows that all ranks fill together.

A row is found by its key, a hash of the image or caption it was computed from, and by the fingerprint of the network. So a
dataset that grew, or was put in another order, uses every row that is there, and a new file holds only what is new.

Each stretch of a run's steps that needs new rows adds a file. It is a safetensors file of three tensors, `keys`, `checks` and
`rows`, so that other programs can read it. While it is filled, it has the suffix `.partial` and its full size from the start: a
row is written at its own position, then its checksum. A row whose checksum is zero or does not match is missing, so a job that
was killed at any moment continues where it stopped.
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
from typing import Any

import numpy as np
import torch

from riffusion_train.dataset.layout import DatasetFolder
from riffusion_train.runtime.errors import InputError
from riffusion_train.runtime.files import read_safetensors_header, safetensors_header

CACHE_DIR = ".cache"
SCHEMA_VERSION = 2
"""Version 1 has no keys: its rows are those of one dataset, in order."""
KEY_BYTES = 16
ROWS_PER_GROUP = 8
"""Rows go through the network in the same groups whatever the number of processes, so that the file is the same bit for bit."""

_SUFFIX, _PARTIAL_SUFFIX = ".safetensors", ".partial"
_NAME_DIGITS = 16
_ROWS_CHECKED = 64
_GIB = 2**30

DTYPES = {"fp32": ("F32", "<f4"), "fp16": ("F16", "<f2"), "bf16": ("BF16", "<u2")}
"""How rows are stored: safetensors' code of the dtype, and numpy's, which has the bits of bf16 as whole numbers."""

Encode = Callable[[list[int]], torch.Tensor]
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
    """The rows of a complete file. A row is read when it is indexed, so that memory does not grow with the dataset."""

    def __init__(self, path: Path, offset: int, shape: tuple[int, ...], dtype: str = "fp32") -> None:
        self.path = path
        self.shape = shape
        self.dtype = dtype
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
        row = _read_row(self._file, self._offset, self.shape, index, self.dtype)
        if row is None:
            raise InputError(f"{self.path}: its row {index} is damaged; delete the file, and it is made again")
        return _as_float32(row, self.dtype)

    def __reduce__(self) -> tuple[type["CachedRows"], tuple[Path, int, tuple[int, ...], str]]:
        return CachedRows, (
            self.path,
            self._offset,
            self.shape,
            self.dtype,
        )  # an open file cannot be sent to another process

    def __del__(self) -> None:
        if self._file is not None:
            os.close(self._file)


@dataclasses.dataclass(frozen=True)
class _File:
    """A file of rows."""

    path: Path
    keys: np.ndarray
    """The key of each row, uint8 (rows, 16)."""
    offset: int
    """Where its checksums begin; the rows follow them."""


class JoinedRows:
    """The rows of a dataset, in its order, wherever they are kept.

    Args:
        files: The files.
        places: (N, 2): the file of each row, and its position there.
    """

    def __init__(self, files: Sequence[CachedRows], places: np.ndarray) -> None:
        self._files = files
        self._places = places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> np.ndarray:
        """Return a row, read-only float32; see `CachedRows`."""
        file, row = self._places[index].tolist()
        return self._files[file][row]


class RowCache:
    """The cached rows of a dataset under one network: those that are there, and the file that the others are written to.

    At first all rows are to be computed; `plan` with what `find_missing` returns leaves out those that are there.

    Args:
        folder: The dataset.
        kind: What it holds.
        network: Fingerprint of what computes the rows.
        keys: Hashes of what each row is computed from, uint8 (N, 16); equal ones share a row.
        shape: The shape of a row.
        name_row: From a row's number to its name, for messages.
        directory: Where the files are; None is `.cache` in the dataset folder.
        dtype: How rows are stored, of `DTYPES`. Rows of another one are not used.
    """

    def __init__(
        self,
        folder: DatasetFolder,
        kind: CacheKind,
        *,
        network: str,
        keys: np.ndarray,
        shape: tuple[int, ...],
        name_row: Callable[[int], str],
        directory: Path | None = None,
        dtype: str = "fp32",
    ) -> None:
        self.directory = folder.path / CACHE_DIR if directory is None else directory
        self.dtype = dtype
        self.folder = folder
        self.kind = kind
        self.network = network
        self.keys = keys
        self.name_row = name_row
        self._row_shape = shape
        self.plan(list(range(len(keys))))

    def plan(self, rows: Sequence[int]) -> None:
        """Choose the rows that are to be computed; a file of its own will hold them."""
        self.rows = list(rows)
        self.num_kept = len(np.unique(_comparable(self.keys))) - len(
            self.rows
        )  # distinct rows that need not be computed
        self.shape = (len(rows), *self._row_shape)
        keys = self.keys[self.rows]
        digest = hashlib.blake2b(keys.tobytes(), digest_size=16).hexdigest()
        metadata = {"contents": self.kind.contents, "network": self.network, "schema_version": str(SCHEMA_VERSION)}
        self.path = self.directory / f"{self.kind.name}-{digest[:_NAME_DIGITS]}{self._end}"
        self.partial = self.path.with_suffix(_PARTIAL_SUFFIX)
        self._header = _header(metadata, self.shape, self.dtype) + keys.tobytes()
        self.row_bytes = _item_bytes(self.dtype) * math.prod(self._row_shape)
        self.num_bytes = len(self._header) + (4 + self.row_bytes) * len(rows)

    @property
    def _end(self) -> str:
        """How the names of all files of this network and dtype end."""
        return f"-{self.network[:_NAME_DIGITS]}{'' if self.dtype == 'fp32' else f'-{self.dtype}'}{_SUFFIX}"

    def find_missing(self) -> list[int]:
        """Return the rows that no complete file has, one of each key.

        Raises:
            InputError: If a file is damaged.
        """
        keys, firsts = np.unique(_comparable(self.keys), return_index=True)
        known = np.zeros(len(keys), bool)
        for file in self._files():
            known |= np.isin(keys, _comparable(file.keys))
        missing: list[int] = np.sort(firsts[~known]).tolist()
        return missing

    def unused(self) -> str | None:
        """Name the files that are of no use to this dataset with this network; None where there are none."""
        used = {file.path for file in self._files()}
        unused = [path for path in self._siblings() if path not in used | {self.path, self.partial}]
        sizes = sum(path.stat().st_blocks * 512 for path in unused)
        return f"{', '.join(str(path) for path in unused)} ({sizes / _GIB:.2g} GiB)" if unused else None

    def open(self) -> JoinedRows:
        """Open the complete cache.

        Raises:
            InputError: If a row is missing, or a file is cut short or damaged; up to 64 rows are checked here, and each of
                the others when it is read.
        """
        files = self._files()
        asked = _comparable(self.keys)
        places = np.full((len(asked), 2), -1, np.int64)
        for number, file in enumerate(files):
            keys = _comparable(file.keys)
            order = np.argsort(keys, kind="stable")
            found = order[np.minimum(np.searchsorted(keys, asked, sorter=order), len(keys) - 1)]
            here = keys[found] == asked
            places[here] = np.stack([np.full(here.sum(), number), found[here]], axis=1)
        if (places < 0).any():
            raise InputError(f"{self.path.parent}: a file of the cache is gone; run the same command again")
        opened = [CachedRows(file.path, file.offset, (len(file.keys), *self._row_shape), self.dtype) for file in files]
        rows = JoinedRows(opened, places)
        count = min(_ROWS_CHECKED, len(rows))
        for number in range(count):  # spread evenly over the dataset; reading a row checks it
            rows[number * len(rows) // count]
        return rows

    def allocate(self) -> None:
        """Allocate the file on disk, or keep what a stopped job left; called by one process, before any of them fills.

        Raises:
            InputError: If there is too little disk space, or the folder cannot be written.
        """
        with self._problems():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            started = self._started()
            # A sparse file: rows not written yet take no blocks.
            used = self.partial.stat().st_blocks * 512 if started else 0
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
                self._copy_from_partials()

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
                numbers = self.rows[group.start : group.stop]
                rows = _as_stored(encode(numbers), self.dtype)
                finite = [np.isfinite(_as_float32(row, self.dtype)).all() for row in rows]
                bad = [index for index, fine in zip(numbers, finite, strict=True) if not fine]
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
                if not self.path.is_file():  # else another job that filled the same file was first
                    raise

    def _write(self, file: int, start: int, rows: np.ndarray) -> None:
        """Write the rows, then their checksums: in this order, so that no checksum stands for a row that is not there.

        Layout of the file: header, keys (N, 16) uint8, checks (N,) uint32, rows (N, …) as `dtype` says.
        """
        checks = np.array([zlib.crc32(row) for row in rows], dtype="<u4")
        row_bytes = rows[0].nbytes
        _write_at(file, rows.tobytes(), len(self._header) + 4 * self.shape[0] + start * row_bytes)
        _write_at(file, checks.tobytes(), len(self._header) + 4 * start)

    def _is_written(self, file: int, index: int) -> bool:
        if not any(os.pread(file, 4, len(self._header) + 4 * index)):  # no checksum, so never written
            return False
        return _read_row(file, len(self._header), self.shape, index, self.dtype) is not None

    def _started(self) -> bool:
        """Whether the partial file is one that this job can continue."""
        if not self.partial.is_file() or self.partial.stat().st_size != self.num_bytes:
            return False
        with self.partial.open("rb") as file:
            return file.read(len(self._header)) == self._header

    def _copy_from_partials(self) -> None:
        """Copy the rows that stopped jobs computed for what the dataset held then. Another job may still be writing there."""
        row_of = {key.tobytes(): row for row, key in enumerate(self.keys[self.rows])}
        for path in self._siblings():
            other = self._read_file(path) if path.suffix == _PARTIAL_SUFFIX and path != self.partial else None
            if other is None:
                continue
            shape = (len(other.keys), *self._row_shape)
            with path.open("rb") as source, self.partial.open("r+b") as target:
                for number, key in enumerate(one.tobytes() for one in other.keys):
                    row = _read_row(source.fileno(), other.offset, shape, number, self.dtype) if key in row_of else None
                    if row is not None and any(os.pread(source.fileno(), 4, other.offset + 4 * number)):
                        self._write(target.fileno(), row_of[key], row[None])

    def _files(self) -> list[_File]:
        """Return the complete files of this network, whichever of the dataset's rows they have.

        Raises:
            InputError: If one is damaged.
        """
        with self._problems():
            paths = [path for path in self._siblings() if path.name.endswith(self._end)]
            files = [self._read_file(path, refuse=True) for path in paths]
        return [file for file in files if file is not None]

    def _read_file(self, path: Path, *, refuse: bool = False) -> _File | None:
        """Read where the rows of a file are; None for one that is no use here, and for a damaged one unless it is refused."""
        try:
            header, end = read_safetensors_header(path)
            metadata, shape = header["__metadata__"], tuple(header["rows"]["shape"])
            code = header["rows"]["dtype"]
            num_bytes = end + max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
            offset = end + header["checks"]["data_offsets"][0]
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            problem: str | None = "is not a cache, or a damaged one"
        else:
            if (metadata.get("network"), shape[1:], code) != (self.network, self._row_shape, DTYPES[self.dtype][0]):
                return None
            size = path.stat().st_size
            problem = None if size == num_bytes else f"is of another size than written ({size} bytes, not {num_bytes})"
        if problem is not None:
            if refuse:
                raise InputError(f"{path}: {problem}; delete it, and it is made again")
            return None
        if "keys" in header:
            with path.open("rb") as file:
                file.seek(end)
                return _File(
                    path, np.frombuffer(file.read(KEY_BYTES * shape[0]), np.uint8).reshape(-1, KEY_BYTES), offset
                )
        # Written by version 0.1.0: the rows of one dataset, in its order.
        if metadata.get("dataset") == self.folder.fingerprint and shape[0] == len(self.keys):
            return _File(path, self.keys, offset)
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


def _header(metadata: dict[str, str], shape: tuple[int, ...], dtype: str) -> bytes:
    entries = {
        "keys": ("U8", (shape[0], KEY_BYTES), KEY_BYTES * shape[0]),
        "checks": ("U32", shape[:1], 4 * shape[0]),
        "rows": (DTYPES[dtype][0], shape, _item_bytes(dtype) * math.prod(shape)),
    }
    return safetensors_header(entries, metadata)


def _item_bytes(dtype: str) -> int:
    return int(np.dtype(DTYPES[dtype][1]).itemsize)


def _as_stored(rows: torch.Tensor, dtype: str) -> np.ndarray:
    """Return rows as they are stored, rounded to the nearest."""
    if dtype == "bf16":
        return rows.cpu().to(torch.bfloat16).view(torch.uint16).numpy()
    return rows.float().cpu().numpy().astype(DTYPES[dtype][1])


def _as_float32(row: np.ndarray, dtype: str) -> np.ndarray:
    """Return a stored row as float32."""
    if dtype == "bf16":  # the upper half of the bits of float32
        return (row.astype(np.uint32) << 16).view(np.float32)
    return row.astype(np.float32, copy=False)


def _comparable(keys: np.ndarray) -> np.ndarray:
    """Return keys, uint8 (N, 16), as an array (N,) that numpy sorts and compares."""
    return np.ascontiguousarray(keys).view(f"S{KEY_BYTES}").ravel()


def _read_row(file: int, offset: int, shape: tuple[int, ...], index: int, dtype: str) -> np.ndarray | None:
    """Read a row as it is stored, `shape[1:]`; None where its checksum does not match."""
    row_bytes = _item_bytes(dtype) * math.prod(shape[1:])
    check = os.pread(file, 4, offset + 4 * index)
    row = os.pread(file, row_bytes, offset + 4 * shape[0] + index * row_bytes)
    if len(row) != row_bytes or zlib.crc32(row) != int.from_bytes(check, "little"):
        return None
    return np.frombuffer(row, dtype=DTYPES[dtype][1]).reshape(shape[1:])


def _write_at(file: int, content: bytes, offset: int) -> None:
    """Write all bytes: one call may write fewer, as on a disk that fills up."""
    view = memoryview(content)
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written


TEXTS = CacheKind(
    name="texts",
    contents="hidden states",
    network="text encoder",
    key="text encoder or tokenizer",
    option="cache_text_embeddings",
)


def text_cache(
    folder: DatasetFolder,
    captions: Sequence[str],
    *,
    text_encoder: str,
    tokenizer: str,
    shape: tuple[int, int],
    **options: Any,
) -> RowCache:
    """Return the cache of the captions' hidden states, whether or not it exists yet: (captions, 77, D).

    In float32, as the text encoder computes them, the UNet gets the same numbers as without a cache in every precision, and a
    caption of SD 1.5 takes 231 KiB.

    Args:
        folder: The dataset of the captions.
        captions: What `CaptionDraws.texts` returns.
        text_encoder: Fingerprint of the text encoder.
        tokenizer: Fingerprint of the tokenizer.
        shape: Of the hidden states of a caption, (77, D).
        options: `directory` and `dtype` of `RowCache`.
    """
    network = hashlib.blake2b(f"{text_encoder} {tokenizer}".encode(), digest_size=16).hexdigest()
    digests = [hashlib.blake2b(caption.encode(), digest_size=KEY_BYTES).digest() for caption in captions]
    return RowCache(
        folder,
        TEXTS,
        network=network,
        keys=np.frombuffer(b"".join(digests), np.uint8).reshape(-1, KEY_BYTES),
        shape=shape,
        name_row=lambda row: f"the caption {captions[row]!r}",
        **options,
    )
