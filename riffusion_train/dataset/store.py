"""Where a dataset is: a folder, the hub, a bucket or a web server, or several of these with weights.

A dataset in a store is read through fsspec, a row group at a time, into a bounded cache on this machine that all its processes
share; a background thread fetches the row groups that the next steps need, in the order in which they need them.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import io
import os
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from riffusion_train.config.spectrogram import SpectrogramConfig, load_spectrogram
from riffusion_train.config.train import TrainConfig
from riffusion_train.dataset.layout import STATS_FILE, DatasetFolder, open_dataset_folder, parse_stats
from riffusion_train.dataset.rows import ParquetRows, ShardFile
from riffusion_train.runtime.errors import InputError
from riffusion_train.runtime.files import is_url, write_atomically
from riffusion_train.runtime.hub import Store, looks_like_hub_id, store_problem

SPECTROGRAM_FILE = "spectrogram.json"
_FETCHERS = 16
"""Row groups that a process fetches at the same time."""
_STALE_S = 60.0
"""A fetch that another process began is waited for so long."""
_REMEMBERED = 4096
"""Parts that a prefetch remembers having fetched."""
_FILE_DIGITS = 24


def user_cache() -> Path:
    """Return the folder in which this user keeps caches that belong to no dataset folder: `~/.cache/riffusion-train`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "riffusion-train"


def open_dataset(source: str, *, cache_dir: Path | None = None, cache_gb: float = 50.0) -> DatasetFolder:
    """Open a dataset wherever it is.

    Args:
        source: A folder; a hub id, `user/name` or `user/name@revision`; or any URL that fsspec reads, such as `s3://…`.
        cache_dir: Where a dataset in a store is cached; None is a folder in `user_cache()`.
        cache_gb: The size that its cache may have, in GB.

    Raises:
        InputError: If nothing usable is there, or it cannot be reached.
    """
    name, _, revision = source.partition("@")
    if is_url(source):
        url = source.rstrip("/")
    elif looks_like_hub_id(name) and not Path(source).expanduser().exists():
        url = f"hf://datasets/{name}" + (f"@{revision}" if revision else "")
    else:
        return open_dataset_folder(source)
    folder = (cache_dir or user_cache()) / hashlib.sha256(url.encode()).hexdigest()[:_FILE_DIGITS]
    stats = parse_stats(_read_small(url, STATS_FILE), f"{url}/{STATS_FILE}")
    codec = _read_small(url, SPECTROGRAM_FILE)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / SPECTROGRAM_FILE, codec)
    except OSError as error:
        raise InputError(
            f"{error.filename or folder}: {(error.strerror or str(error)).lower()}; {url} is cached there, name another folder "
            "with cache_dir="
        ) from None
    spectrogram = load_spectrogram(folder)
    assert spectrogram is not None  # it has just been written
    store = RemoteStore(url, RangeCache(folder / "parts", round(cache_gb * 1e9)), str(stats["fingerprint"]))
    return DatasetFolder(folder, spectrogram, stats, store)


def split_sources(text: str) -> list[str]:
    """Return the datasets that `dataset=` names: one, or those of a list in brackets, `[a,b]`."""
    if text.startswith("[") and text.endswith("]") and not Path(text).exists():
        return [part.strip().strip("'\"") for part in text[1:-1].split(",") if part.strip()]
    return [text]


def open_datasets(
    source: str,
    weights: Sequence[float] = (),
    *,
    cache_dir: Path | None = None,
    cache_gb: float = 50.0,
) -> DatasetFolder:
    """Open one dataset, or several as if they were one: the slices of the second follow those of the first.

    Args:
        source: As of `open_dataset`, or a list of these in brackets.
        weights: How often each is taken in training, in proportion; empty takes every slice equally often.
        cache_dir: As of `open_dataset`.
        cache_gb: The same, for all together.

    Raises:
        InputError: If one cannot be used, their codecs differ, or the weights are not one above 0 for each.
    """
    names = split_sources(source)
    if not names:
        raise InputError("dataset=[]: names no dataset; give a folder, a hub id or a URL")
    if weights and len(weights) != len(names):
        raise InputError(
            f"dataset_weights={list(weights)}: {len(weights)} weights for {len(names)} datasets; give one each"
        )
    if not all(0 < weight < float("inf") for weight in weights):
        raise InputError(
            f"dataset_weights={list(weights)}: each must be above 0; leave out a dataset that is not wanted"
        )
    parts = [open_dataset(name, cache_dir=cache_dir, cache_gb=cache_gb / len(names)) for name in names]
    first = parts[0]
    if len(parts) == 1:
        return first
    for part in parts[1:]:
        differences = codec_differences(part.spectrogram, first.spectrogram)
        if differences:
            raise InputError(
                f"{part.name}: its spectrogram.json differs from that of {first.name}: {', '.join(differences)}; prepare one "
                "of them anew with the preset of the other"
            )
        part.require_parquet()
    shares = list(weights) or [float(part.num_slices("train")) for part in parts]
    digest = hashlib.sha256("\n".join(part.fingerprint for part in parts).encode()).hexdigest()
    stats = {**first.stats, "fingerprint": digest, "shards": [one for part in parts for one in part.stats["shards"]]}
    return DatasetFolder(first.path, first.spectrogram, stats, parts=tuple(parts), weights=tuple(shares))


def open_training_data(config: TrainConfig) -> DatasetFolder:
    """Open what the keys `dataset`, `dataset_weights`, `cache_dir` and `cache_gb` say; see `open_datasets`."""
    cache_dir = None if config.cache_dir is None else Path(config.cache_dir).expanduser()
    return open_datasets(config.dataset, config.dataset_weights, cache_dir=cache_dir, cache_gb=config.cache_gb)


def codec_differences(actual: SpectrogramConfig, expected: SpectrogramConfig) -> list[str]:
    """Return the fields in which two codecs differ, except for their names, as `hop_length is 400, not 410`."""
    fields = [field.name for field in dataclasses.fields(SpectrogramConfig) if field.name != "name"]
    pairs = {name: (_plain(getattr(actual, name)), _plain(getattr(expected, name))) for name in fields}
    return [f"{name} is {one}, not {other}" for name, (one, other) in pairs.items() if one != other]


def _plain(value: Any) -> Any:
    return getattr(value, "value", value)


class RangeCache:
    """Parts of remote files on this machine's disk, at most so many bytes; the ones unused for longest go first.

    Processes share it: what one is fetching, the others wait for.

    Args:
        folder: Where the parts are kept.
        limit_bytes: The size of all parts together.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder = folder
        self.limit_bytes = limit_bytes
        self._unseen = limit_bytes  # bytes written since the folder was last looked at

    def get(self, key: str, fetch: Callable[[], bytes]) -> bytes:
        """Return a part, from the disk if it is there, else fetched and kept."""
        path = self.folder / key
        with contextlib.suppress(FileNotFoundError):
            content = path.read_bytes()
            with contextlib.suppress(OSError):
                os.utime(path)  # it was used just now
            return content
        claim = path.with_suffix(".claim")
        if not self._claim(claim) and self._appears(path, claim):
            return self.get(key, fetch)
        try:
            content = fetch()
            self._put(path, content)
        finally:
            claim.unlink(missing_ok=True)
        return content

    def has(self, key: str) -> bool:
        """Whether a part is on the disk."""
        return (self.folder / key).exists()

    def _claim(self, claim: Path) -> bool:
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            os.close(os.open(claim, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True

    @staticmethod
    def _appears(path: Path, claim: Path) -> bool:
        """Wait for the process that fetches a part; return whether the part is there then."""
        while True:
            try:
                age_s = time.time() - claim.stat().st_mtime
            except FileNotFoundError:
                return path.exists()
            if age_s > _STALE_S:
                return False
            time.sleep(0.005)

    def _put(self, path: Path, content: bytes) -> None:
        self._unseen += len(content)
        if self._unseen > self.limit_bytes // 64:
            self._shrink(self.limit_bytes - len(content))
            self._unseen = 0
        if len(content) <= self.limit_bytes:
            write_atomically(path, content)

    def _shrink(self, limit_bytes: int) -> None:
        files = []
        for entry in os.scandir(self.folder):
            with contextlib.suppress(FileNotFoundError):  # another process removes files as well
                status = entry.stat()
                files.append((status.st_mtime, status.st_size, entry.path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= limit_bytes:
                return
            if not path.endswith((".claim", ".partial")):
                Path(path).unlink(missing_ok=True)
                total -= size


class RemoteStore:
    """A dataset behind a URL.

    Args:
        url: Without a slash at its end.
        cache: Keeps the parts of its shards that were read.
        version: The dataset's fingerprint: parts of what was at this address before are not taken for those of today.
    """

    def __init__(self, url: str, cache: RangeCache, version: str) -> None:
        self.url = url
        self.cache = cache
        self.version = version
        self._store = Store(url)

    @property
    def cache_bytes(self) -> int:
        """How much of it may be kept on this machine."""
        return self.cache.limit_bytes

    def shard(self, name: str, num_rows: int, num_bytes: int) -> ShardFile:
        """Return a shard by its path in the dataset."""
        return ShardFile(f"{self.url}/{name}", num_rows, functools.partial(RemoteFile, self, name, num_bytes))

    def fetch(self, name: str, start: int, end: int) -> bytes:
        """Return the bytes of a file from `start` to before `end`; what fails is tried again.

        Raises:
            OSError: If it cannot be read.
        """
        return self._store.read(name, start, end)


def _read_small(url: str, name: str) -> bytes:
    """Return the content of a small file of a dataset in a store.

    Raises:
        InputError: If it cannot be read.
    """
    try:
        return Store(url, tries=1).read(name)
    except OSError as error:
        missing = f"it has no {name}; give the address of a folder that riffusion prepare wrote"
        raise InputError(f"dataset={url}: {store_problem(error, missing)}") from None


class RemoteFile(io.RawIOBase):
    """A remote shard as a file that can be read anywhere; each part that `divide` names is fetched whole, once."""

    def __init__(self, store: RemoteStore, name: str, num_bytes: int) -> None:
        super().__init__()
        self._store, self._name, self._size = store, name, num_bytes
        self._at = 0
        self._bounds: list[int] = []

    def divide(self, bounds: Iterable[int]) -> None:
        """Name where the parts begin and end; what lies before the first and after the last is fetched as it is asked for."""
        self._bounds = sorted(set(bounds))

    def fetch(self, start: int) -> int:
        """Fetch the part at a position unless it is on the disk; return its size in bytes."""
        first, end = self._part(start)
        if not self._store.cache.has(self._key(first, end)):
            self._bytes(first, end)
        return end - first

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position; return it."""
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        """Return the next bytes, up to so many."""
        stop = self._size if size is None or size < 0 else min(self._size, self._at + size)
        found = []
        while self._at < stop:
            first, end = self._part(self._at, stop)
            found.append(self._bytes(first, end)[self._at - first : stop - first])
            self._at = min(end, stop)
        return found[0] if len(found) == 1 else b"".join(found)

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer; return how many bytes."""
        content = self.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def _part(self, at: int, stop: int | None = None) -> tuple[int, int]:
        number = bisect_right(self._bounds, at)
        if 0 < number < len(self._bounds):
            return self._bounds[number - 1], self._bounds[number]
        return at, self._size if stop is None else stop

    def _key(self, first: int, end: int) -> str:
        file = hashlib.sha256(f"{self._store.version} {self._name}".encode()).hexdigest()
        return f"{file[:_FILE_DIGITS]}-{first}-{end}"

    def _bytes(self, first: int, end: int) -> bytes:
        return self._store.cache.get(self._key(first, end), lambda: self._store.fetch(self._name, first, end))


class Prefetch:
    """Fetches the row groups that the coming batches need, in the order in which they need them, on threads of this process.

    What is fetched and not yet used stays below half of the cache. A dataset in a folder needs none of it.

    Args:
        rows: The slices.
        batches: The slices of each coming batch.
        images: Whether batches need images beside captions, or captions alone.
    """

    def __init__(self, rows: ParquetRows, batches: Iterable[Sequence[int]], *, images: bool, limit_bytes: int) -> None:
        self._rows = rows.select_columns(rows.columns)  # a copy, since rows are not made for several threads
        self._images = images
        self._limit_bytes = limit_bytes
        self._ahead: list[int] = []  # the bytes that each batch from the next one on is the first to need
        self._used = 0
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, args=(batches,), daemon=True)
        self._thread.start()

    def advance(self) -> None:
        """Say that the next batch is being used."""
        with self._changed:
            self._used += 1
            if self._ahead:
                self._ahead.pop(0)
            self._changed.notify()

    def close(self) -> None:
        """Stop fetching."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self, batches: Iterable[Sequence[int]]) -> None:
        seen: dict[tuple[int, int], None] = {}
        with concurrent.futures.ThreadPoolExecutor(_FETCHERS) as pool, contextlib.suppress(OSError):
            for number, batch in enumerate(batches):
                sizes = []
                parts = (part for index in batch for part in self._rows.parts_of(index, images=self._images))
                for file, start, num_bytes in parts:
                    place = (id(file), start)
                    if place in seen:
                        continue
                    seen[place] = None
                    sizes.append(num_bytes)
                    pool.submit(self._fetch, file, start)
                if not self._wait(number, sum(sizes)):
                    pool.shutdown(wait=False, cancel_futures=True)
                    return
                while len(seen) > _REMEMBERED:
                    del seen[next(iter(seen))]

    def _wait(self, number: int, num_bytes: int) -> bool:
        """Note what a batch needs; wait until there is space for more. Returns whether to go on."""
        with self._changed:
            if number >= self._used:
                self._ahead.append(num_bytes)
            self._changed.wait_for(lambda: self._closed or sum(self._ahead) < self._limit_bytes)
            return not self._closed

    def _fetch(self, file: Any, start: int) -> None:
        with contextlib.suppress(OSError):  # whoever needs it tries again, and reports what is wrong
            file.fetch(start)
