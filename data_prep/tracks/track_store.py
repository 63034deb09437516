"""The track store: results and slices of finished tracks, kept in `<out>/.work/tracks/` until the shards are written.

Each track is one Arrow file. Its name consists of the hash of the audio file and the key of the cutting parameters, so no
file is decoded twice, and slices that were made with other parameters are never used.
"""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from riffusion_train.runtime.files import link_or_copy, write_atomically

_SCHEMA = pa.schema(
    [("png", pa.binary()), ("start_s", pa.float64()), ("duration_s", pa.float64()), ("max_value", pa.float64())]
)
_RESULT = b"facts"
"""Key of the result in the metadata of the Arrow schema, as version 0.1.0 wrote it."""


class Slice(NamedTuple):
    """One window of a track as an image."""

    png: bytes
    start_s: float
    duration_s: float
    max_value: float


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

    def path(self, file_hash: str) -> Path:
        """Return the Arrow file of an audio file, whether it exists or not."""
        return self.folder / f"{file_hash}-{self.key}.arrow"

    def file_hashes(self) -> list[str]:
        """Return the hashes of all stored audio files, sorted."""
        return sorted(path.name.removesuffix(f"-{self.key}.arrow") for path in self.folder.glob(f"*-{self.key}.arrow"))

    def write(self, result: TrackResult, slices: Sequence[Slice]) -> None:
        """Store a track, completely or not at all.

        Raises:
            OSError: If the file cannot be written.
        """
        columns = [pa.array([item[index] for item in slices], type=field.type) for index, field in enumerate(_SCHEMA)]
        schema = _SCHEMA.with_metadata({_RESULT: json.dumps(dataclasses.asdict(result))})
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, schema) as writer:
            writer.write_batch(pa.record_batch(columns, schema=schema))
        write_atomically(self.path(result.file_hash), sink.getvalue())

    def read(self, file_hash: str) -> TrackResult | None:
        """Return the result of a track; None if it is not stored, or the file is damaged."""
        try:
            with pa.memory_map(str(self.path(file_hash))) as source:
                schema = pa.ipc.open_file(source).schema
            return TrackResult(**json.loads(schema.metadata[_RESULT]))
        except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
            return None

    def read_slices(self, file_hash: str) -> Iterator[Slice]:
        """Yield the slices of a track in their order."""
        with pa.memory_map(str(self.path(file_hash))) as source:
            table = pa.ipc.open_file(source).read_all()
            for row in zip(*(table.column(name).to_pylist() for name in _SCHEMA.names), strict=True):
                yield Slice(*row)

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
