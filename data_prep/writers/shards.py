"""What all writers share: rows, shards, the names of slices, and the division of rows into shards."""

import dataclasses
import hashlib
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from riffusion_train.dataset import layout
from riffusion_train.runtime.files import slug

Row = dict[str, Any]
"""The columns of one slice, by name, as `layout.arrow_schema` describes them."""


@dataclasses.dataclass(frozen=True)
class Shard:
    """One written shard, as `stats.json` lists it."""

    name: str
    """Path relative to the folder of shards."""
    split: str
    slices: int
    bytes: int
    sha256: str


class SplitWriter(Protocol):
    """Writes the rows of one split in their order: the same rows give the same bytes."""

    def write(self, rows: Iterable[Row]) -> list[Shard]:
        """Write all rows. Returns the shards in order.

        Raises:
            OSError: If something cannot be written, with the file's name; no shard is left half-written.
        """


def fingerprint(shards: Sequence[Shard]) -> str:
    """Return a hash over the content of all shards."""
    return hashlib.sha256("".join(f"{shard.name} {shard.sha256}\n" for shard in shards).encode()).hexdigest()


def describe_shard(path: Path, name: str, split: str, slices: int) -> Shard:
    """Return the description of a shard that has just been written as one file."""
    return Shard(name, split, slices, path.stat().st_size, digest_file(path))


def digest_file(path: Path) -> str:
    """Return the hash of a shard that is one file, as `Shard.sha256` holds it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def split_into_shards(rows: Iterable[Row], shard_bytes: int, group_rows: int) -> Iterator[Iterator[list[Row]]]:
    """Divide rows into shards of about `shard_bytes` of images.

    Yields:
        For each shard an iterator of groups of `group_rows` rows, to be exhausted before the next shard is asked for.
    """
    groups = _grouped(rows, group_rows)
    upcoming = next(groups, None)

    def one_shard() -> Iterator[list[Row]]:
        nonlocal upcoming
        size = 0
        while upcoming is not None and size < shard_bytes:
            size += sum(len(row[layout.IMAGE]["bytes"]) for row in upcoming)
            current, upcoming = upcoming, next(groups, None)
            yield current

    while upcoming is not None:
        yield one_shard()


def _grouped(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    group: list[Row] = []
    for row in rows:
        group.append(row)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


_LONGEST = 48
"""Characters of the track id in a name; the whole name then stays below the 100 characters of a tar header."""


def slice_name(track_id: str, start_s: float) -> str:
    """Return the name of a slice's files, without a suffix: `albums-blue-sun-3f9c2a1b7d-00005108700`.

    It consists of lowercase letters, digits and hyphens, so it suits every file system. It has no dot, since WebDataset ends
    keys at dots. Ten hex digits of a hash distinguish tracks whose ids read alike; the last number is the start in
    microseconds, which distinguishes any two samples. Adding tracks to a dataset renames no image.

    Args:
        track_id: The track.
        start_s: Start of the slice, in seconds.
    """
    plain = unicodedata.normalize("NFKD", track_id).encode("ascii", "ignore").decode()
    readable = slug(plain, _LONGEST, ascii_only=True)
    digest = hashlib.sha256(track_id.encode("utf-8", "surrogateescape")).hexdigest()[:10]
    return "-".join(part for part in (readable, digest, f"{round(start_s * 1e6):011d}") if part)
