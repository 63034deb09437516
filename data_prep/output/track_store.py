"""What is kept of a finished track until the shards are written: one Arrow file in `<out>/.work/tracks/`.

The file's name is made of the hash of the audio file and the hash of the cutting parameters, so that nothing is decoded twice
and nothing made with other parameters is taken for current.
"""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from data_prep.output.folder import LEFT_OUT_DIR
from data_prep.writers.choose import read_rows
from riffusion_train.dataset import layout
from riffusion_train.runtime.files import link_or_copy, write_atomically

_SCHEMA = pa.schema(
    [("png", pa.binary()), ("start_s", pa.float64()), ("duration_s", pa.float64()), ("max_value", pa.float64())]
)
_FACTS = b"facts"


class Slice(NamedTuple):
    """One window of a track as an image."""

    png: bytes
    start_s: float
    duration_s: float
    max_value: float


@dataclasses.dataclass(frozen=True)
class TrackResult:
    """What became of one audio file; the slices themselves are on the disk."""

    file_hash: str
    """XXH3 of the file's bytes, 32 hex digits: nobody forges a song, and it takes a twentieth of the time of SHA-256."""
    slices: int = 0
    slices_s: float = 0.0
    """Seconds of audio in all slices."""
    silent_slices: int = 0
    """Windows left out as silent."""
    duration_s: float | None = None
    rate_hz: int | None = None
    channels: int | None = None
    container: str | None = None
    """The container that was found, in libsndfile's or FFmpeg's words."""
    lufs: float | None = None
    gain_db: float | None = None
    pcm_hash: str | None = None
    """Hash of the decoded samples and their rate: equal for copies in different lossless formats."""
    acoustic: str | None = None
    """Acoustic fingerprint, where near-duplicates are looked for."""
    clipped_share: float = 0.0
    """Share of the samples that lie in flat tops at full scale."""
    warnings: dict[str, str] = dataclasses.field(default_factory=dict)
    """What speaks against the file, though it can be used: a few words, and what was found."""
    origin: str | None = None
    """What tells that a remote file is still the same without fetching it: hash of its URL and version."""
    reused: bool = False
    """Whether it was there already; of no meaning on the disk."""
    tags: dict[str, str] = dataclasses.field(default_factory=dict)
    measured: dict[str, str | int | float | bool | None] = dataclasses.field(default_factory=dict)
    reason: str | None = None
    """Why the track is rejected; None for one that is kept."""
    detail: str | None = None


def parameters_key(parameters: Mapping[str, Any]) -> str:
    """Return a short hash of the parameters that decide what a track's slices are."""
    return hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()[:12]


def kept_path(folder: Path, file_hash: str, key: str) -> Path:
    """Return where the slices of an audio file are kept."""
    return folder / f"{file_hash}-{key}.arrow"


def note_origin(folder: Path, origin: str, file_hash: str) -> None:
    """Note what a remote file of an origin held, so that it need not be fetched again."""
    write_atomically(_origin_path(folder, origin), file_hash.encode())


def read_origin(folder: Path, origin: str) -> str | None:
    """Return the hash of what a remote file held; None where it is not known."""
    try:
        return _origin_path(folder, origin).read_text()
    except OSError:
        return None


def _origin_path(folder: Path, origin: str) -> Path:
    return folder / f"{origin}.origin"


def write_kept(path: Path, facts: TrackResult, slices: Sequence[Slice]) -> None:
    """Keep a track's facts and slices, whole or not at all."""
    columns = [pa.array([item[index] for item in slices], type=field.type) for index, field in enumerate(_SCHEMA)]
    schema = _SCHEMA.with_metadata({_FACTS: json.dumps(dataclasses.asdict(facts))})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.record_batch(columns, schema=schema))
    write_atomically(path, sink.getvalue())


def read_facts(path: Path) -> TrackResult | None:
    """Read what is kept of a track; None where there is nothing, or nothing that can be read."""
    try:
        with pa.memory_map(str(path)) as source:
            schema = pa.ipc.open_file(source).schema
        return TrackResult(**json.loads(schema.metadata[_FACTS]))
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
        return None


def read_slices(path: Path) -> Iterator[Slice]:
    """Read the kept slices of a track."""
    with pa.memory_map(str(path)) as source:
        table = pa.ipc.open_file(source).read_all()
        for row in zip(*(table.column(name).to_pylist() for name in _SCHEMA.names), strict=True):
            yield Slice(*row)


_FIELDS = {field.name for field in dataclasses.fields(TrackResult)}
_OF_THE_WHOLE = ("misnamed", "clipped")
"""Warnings that are found anew when all tracks are judged."""


def keep_finished(folder: layout.DatasetFolder, kept_dir: Path, key: str) -> int:
    """Keep the tracks of a finished dataset as if they had just been cut, those that were left out of it as well.

    Args:
        folder: The dataset; it was made with the same parameters.
        kept_dir: Where tracks are kept.
        key: Hash of the cutting parameters.

    Returns:
        How many tracks are kept.
    """
    facts = _facts_of(folder.path / layout.MANIFEST_FILE)
    for fact in facts.values():
        if fact.origin:
            note_origin(kept_dir, fact.origin, fact.file_hash)
    count = 0
    for left_out in sorted((folder.path / LEFT_OUT_DIR).glob(f"*-{key}.arrow")):
        link_or_copy(left_out, kept_dir / left_out.name)
        count += bool(getattr(read_facts(left_out), "slices", 0))
    for track_id, rows in itertools.groupby(_rows(folder), key=lambda row: str(row[layout.TRACK_ID])):
        slices = [
            Slice(row[layout.IMAGE]["bytes"], row[layout.START_S], row[layout.DURATION_S], row[layout.MAX_VALUE])
            for row in rows
        ]
        known = facts.get(track_id)
        if known is None or known.reason is not None or known.slices != len(slices):
            continue  # some of its slices were left out, as balancing does
        path = kept_path(kept_dir, known.file_hash, key)
        if read_facts(path) is None:
            write_kept(path, dataclasses.replace(known, origin=None), slices)
        count += 1
    return count


def _facts_of(manifest: Path) -> dict[str, TrackResult]:
    facts = {}
    with manifest.open(encoding="utf-8") as lines:
        for entry in map(json.loads, lines):
            if "file_hash" not in entry:
                continue  # a manifest of before there was one; its track is done anew
            fact = TrackResult(**{name: value for name, value in entry.items() if name in _FIELDS})
            warnings = {name: told for name, told in fact.warnings.items() if name not in _OF_THE_WHOLE}
            facts[entry["track_id"]] = dataclasses.replace(fact, warnings=warnings, file_hash=fact.file_hash or "")
    return facts


def _rows(folder: layout.DatasetFolder) -> Iterator[dict[str, Any]]:
    return (row for split in layout.SPLITS for row in read_rows(folder, split))
