"""The track store: results and slices of finished tracks, kept in `<out>/.work/tracks/` until the shards are written.

Each track is one Arrow file. Its name consists of the hash of the audio file and the key of the cutting parameters, so no
file is decoded twice, and slices that were made with other parameters are never used. If `out=` is a URL, these files are in
the store, where machines that share no disk write and read them.
"""

import dataclasses
import itertools
import json
import os
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from riffusion_train.runtime.files import link_or_copy, open_atomically, write_atomically
from riffusion_train.runtime.hub import Store

_SCHEMA = pa.schema(
    [("png", pa.binary()), ("start_s", pa.float64()), ("duration_s", pa.float64()), ("max_value", pa.float64())]
)
_ROWS_AT_ONCE = 256
"""Slices of a part of a file: some tens of megabytes."""
_SPOOLED_BYTES = 64_000_000
_RESULT = b"facts"
"""Key of the result in the metadata of the Arrow schema, as version 0.1.0 wrote it."""


class Slice(NamedTuple):
    """One window of a track as an image."""

    png: bytes
    start_s: float
    duration_s: float
    max_value: float


class SliceSpool:
    """The slices of a track that is being cut, their images in a temporary file if they are many.

    Args:
        folder: Where the file is, which has no name.
    """

    def __init__(self, folder: Path) -> None:
        self._images = tempfile.SpooledTemporaryFile(_SPOOLED_BYTES, dir=str(folder))  # noqa: SIM115
        self._rows: list[tuple[int, float, float, float]] = []

    def append(self, item: Slice) -> None:
        """Add a slice at the end."""
        self._images.seek(0, os.SEEK_END)
        self._images.write(item.png)
        self._rows.append((len(item.png), *item[1:]))

    @property
    def times_s(self) -> list[tuple[float, float]]:
        """Start and length of each slice in seconds."""
        return [(start_s, duration_s) for _, start_s, duration_s, _ in self._rows]

    def __len__(self) -> int:
        """Return how many slices there are."""
        return len(self._rows)

    def __iter__(self) -> Iterator[Slice]:
        """Yield the slices in their order."""
        self._images.seek(0)
        for num_bytes, *rest in self._rows:
            yield Slice(self._images.read(num_bytes), *rest)


@dataclasses.dataclass(frozen=True)
class TrackResult:
    """What became of one audio file, apart from the slices themselves; its fields are written to `manifest.jsonl`."""

    file_hash: str
    """XXH3-128 of the file's bytes, 32 hex digits. Nobody forges a song, and it takes a twentieth of the time of SHA-256."""
    slices: int = 0
    slices_s: float = 0.0
    """Seconds of audio in all slices."""
    silent_slices: int = 0
    """Number of windows left out because they are silent."""
    duration_s: float | None = None
    rate_hz: int | None = None
    channels: int | None = None
    container: str | None = None
    """The container format as libsndfile or FFmpeg names it."""
    lufs: float | None = None
    gain_db: float | None = None
    pcm_hash: str | None = None
    """Hash of the decoded samples and their rate: equal for copies in different lossless formats."""
    acoustic: str | None = None
    """Acoustic fingerprint; None unless near-duplicates are looked for."""
    clipped_share: float = 0.0
    """Share of the samples in flat tops at full scale."""
    warnings: dict[str, str] = dataclasses.field(default_factory=dict)
    """Problems of a file that can still be used: a few words each, with details."""
    origin: str | None = None
    """Hash of URL and version of a remote file, which shows that it is unchanged without fetching it."""
    reused: bool = False
    """Whether the result comes from an earlier run; not written to the manifest."""
    tags: dict[str, str] = dataclasses.field(default_factory=dict)
    measured: dict[str, str | int | float | bool | None] = dataclasses.field(default_factory=dict)
    heard: dict[str, Any] | None = None
    """What was heard, see `Heard.as_data`; None unless captions need it. It is in the manifest only if it is not None."""
    reason: str | None = None
    """Why the track is rejected; None if it is not."""
    detail: str | None = None


@dataclasses.dataclass(frozen=True)
class TrackStore:
    """The results and slices that were made with one set of cutting parameters."""

    folder: Path
    key: str
    """Key of the cutting parameters."""

    @property
    def scratch(self) -> Path:
        """A folder of this machine for what a track needs while it is cut."""
        return self.folder

    def path(self, file_hash: str) -> Path:
        """Return the Arrow file of an audio file, whether it exists or not."""
        return self.folder / f"{file_hash}-{self.key}.arrow"

    def file_hashes(self) -> list[str]:
        """Return the hashes of all stored audio files, sorted."""
        return sorted(path.name.removesuffix(f"-{self.key}.arrow") for path in self.folder.glob(f"*-{self.key}.arrow"))

    def write(self, result: TrackResult, slices: Iterable[Slice]) -> None:
        """Store a track, completely or not at all.

        Raises:
            OSError: If the file cannot be written.
        """
        schema = _SCHEMA.with_metadata({_RESULT: json.dumps(dataclasses.asdict(result))})
        rest = iter(slices)
        with open_atomically(self.path(result.file_hash)) as file, pa.ipc.new_file(file, schema) as writer:
            batch = list(itertools.islice(rest, _ROWS_AT_ONCE))
            while True:  # once for a track without slices
                columns = [pa.array([row[index] for row in batch], field.type) for index, field in enumerate(_SCHEMA)]
                writer.write_batch(pa.record_batch(columns, schema=schema))
                batch = list(itertools.islice(rest, _ROWS_AT_ONCE))
                if not batch:
                    return

    def read(self, file_hash: str) -> TrackResult | None:
        """Return the result of a track; None if it is not stored, or the file is damaged."""
        try:
            with pa.memory_map(str(self.path(file_hash))) as source:
                return _result_in(source)
        except OSError:
            return None

    def read_slices(self, file_hash: str) -> Iterator[Slice]:
        """Yield the slices of a track in their order."""
        yield from _slices_in(self.path(file_hash))

    def slices_of(self, file_hashes: Iterable[str]) -> Iterator[Iterator[Slice]]:
        """Yield the slices of each of some tracks, to be exhausted before the next track is asked for."""
        return map(self.read_slices, file_hashes)

    def share(self, file_hash: str, other: "TrackStore") -> bool:
        """Link or copy a track into another store. Returns whether this store has it."""
        path = self.path(file_hash)
        if not path.is_file():
            return False
        link_or_copy(path, other.path(file_hash))
        return True

    def write_origin(self, origin: str, file_hash: str) -> None:
        """Remember the hash of a remote file, so that it need not be fetched again.

        Args:
            origin: Hash of its URL and version; see `fetch.origin_of`.
            file_hash: Hash of its bytes.
        """
        write_atomically(self._origin_path(origin), file_hash.encode())

    def read_origin(self, origin: str) -> str | None:
        """Return the hash of the bytes of a remote file; None if it is not known."""
        try:
            return self._origin_path(origin).read_text()
        except OSError:
            return None

    def _origin_path(self, origin: str) -> Path:
        return self.folder / f"{origin}.origin"


def _result_in(source: Any) -> TrackResult | None:
    """Return the result in an Arrow file, or in the end of one; None if it is damaged."""
    try:
        return TrackResult(**json.loads(pa.ipc.open_file(source).schema.metadata[_RESULT]))
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError):
        return None


def _slices_in(path: Path) -> Iterator[Slice]:
    with pa.memory_map(str(path)) as source:
        reader = pa.ipc.open_file(source)
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            for row in zip(*(batch.column(name).to_pylist() for name in _SCHEMA.names), strict=True):
                yield Slice(*row)


_TAIL_BYTES = 65536
"""Of an Arrow file, with the result of all but odd tracks."""
_FETCHED_AHEAD = 8
"""Tracks that are on their way from the store while another one is written."""


@dataclasses.dataclass(frozen=True)
class RemoteTrackStore(TrackStore):
    """The same files in a store; on this machine's disk a track is only while it is cut or read. `folder` is a name there."""

    store: Store = dataclasses.field(kw_only=True)

    @property
    def scratch(self) -> Path:
        """The folder for temporary files of the machine that asks, which TMPDIR names."""
        return Path(tempfile.gettempdir())

    def file_hashes(self) -> list[str]:
        """Return the hashes of all stored audio files, sorted."""
        end = f"-{self.key}.arrow"
        names = (Path(name).name for name in self.store.names(self.folder.as_posix()))
        return sorted(name.removesuffix(end) for name in names if name.endswith(end))

    def write(self, result: TrackResult, slices: Iterable[Slice]) -> None:
        """Store a track. Where a store shows files before they are whole, what is cut short counts as missing.

        Raises:
            OSError: If it cannot be written here, or not there.
        """
        with tempfile.TemporaryDirectory(prefix="riffusion-") as folder:
            here = TrackStore(Path(folder), self.key)
            here.write(result, slices)
            with here.path(result.file_hash).open("rb") as file:
                self.store.upload(file, self._name(result.file_hash))

    def read(self, file_hash: str) -> TrackResult | None:
        """Return the result of a track, for which the end of its file is fetched; None if it is not stored, or damaged."""
        num_bytes = _TAIL_BYTES
        while True:
            try:
                tail = self.store.read(self._name(file_hash), start=-num_bytes)
            except FileNotFoundError:
                return None
            # The last ten bytes are the length of what describes the file, and six that mark an Arrow file, as its first do.
            needed = int.from_bytes(tail[-10:-6], "little") + 16
            if needed <= num_bytes or len(tail) < num_bytes:
                return _result_in(pa.BufferReader(tail))
            num_bytes = needed

    def read_slices(self, file_hash: str) -> Iterator[Slice]:
        """Yield the slices of a track in their order."""
        for slices in self.slices_of([file_hash]):
            yield from slices

    def slices_of(self, file_hashes: Iterable[str]) -> Iterator[Iterator[Slice]]:
        """Yield the slices of each of some tracks, to be exhausted before the next one; coming tracks are fetched meanwhile."""
        rest = enumerate(file_hashes)
        with tempfile.TemporaryDirectory(prefix="riffusion-") as folder, ThreadPoolExecutor(_FETCHED_AHEAD) as pool:

            def fetch(number: int, file_hash: str) -> Path:
                path = Path(folder, str(number))
                self.store.download(self._name(file_hash), path)
                return path

            coming: deque[Future[Path]] = deque()
            while True:
                some = itertools.islice(rest, _FETCHED_AHEAD - len(coming))
                coming.extend(pool.submit(fetch, *numbered) for numbered in some)
                if not coming:
                    return
                path = coming.popleft().result()
                yield _slices_in(path)
                path.unlink()

    def share(self, file_hash: str, other: TrackStore) -> bool:
        """Copy a track to another folder of the same store. Returns whether it is there."""
        assert isinstance(other, RemoteTrackStore)
        try:
            self.store.copy(self._name(file_hash), other._name(file_hash))
        except FileNotFoundError:
            return False
        return True

    def write_origin(self, origin: str, file_hash: str) -> None:
        """Remember the hash of a remote file; see `TrackStore.write_origin`."""
        self.store.write(self._origin_path(origin).as_posix(), file_hash.encode())

    def read_origin(self, origin: str) -> str | None:
        """Return the hash of the bytes of a remote file; None if it is not known."""
        found = self.store.find(self._origin_path(origin).as_posix())
        return None if found is None else found.decode()

    def _name(self, file_hash: str) -> str:
        return self.path(file_hash).as_posix()
