"""What every writer tells about what it has written, and how rows are cut into shards."""

import dataclasses
import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from riffusion_train.dataset import layout

Row = dict[str, Any]
"""The columns of one slice, by name, as `layout.arrow_schema` describes them."""


@dataclasses.dataclass(frozen=True)
class Shard:
    """One written shard, as `stats.json` lists it."""

    name: str
    """Path in the folder of shards."""
    split: str
    slices: int
    bytes: int
    sha256: str


class SplitWriter(Protocol):
    """Writes the rows of one split in their order: the same rows give the same bytes."""

    def write(self, rows: Iterable[Row]) -> list[Shard]:
        """Write all rows. Returns the shards in order.

        Raises:
            OSError: If something cannot be written, with the file's name; no shard is left half written.
        """


def fingerprint(shards: Sequence[Shard]) -> str:
    """Return a hash over the content of all shards."""
    return hashlib.sha256("".join(f"{shard.name} {shard.sha256}\n" for shard in shards).encode()).hexdigest()


def written_shard(path: Path, name: str, split: str, slices: int) -> Shard:
    """Describe a shard that has just been written as one file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Shard(name, split, slices, path.stat().st_size, digest)


def portions(rows: Iterable[Row], shard_bytes: int, group_rows: int) -> Iterator[Iterator[list[Row]]]:
    """Cut rows into shards of about `shard_bytes` of images.

    Each shard is an iterator of groups of `group_rows` rows, which must be used up before the next.
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
"""Letters of the track that are shown; with all that follows a name stays below the 100 that an old tar header holds."""


def slice_name(track_id: str, start_s: float) -> str:
    """Return the name of a slice's files, without a suffix: `albums-blue-sun-3f9c2a1b7d-00005108700`.

    It is made of small letters, digits and hyphens, so it fits every file system, and has no dot, at which WebDataset would
    end it. Ten hex digits of a hash tell tracks apart that read alike; the last figure is the start in microseconds,
    which tells any two samples apart. Adding tracks to a dataset renames no picture.

    Args:
        track_id: The track.
        start_s: Start of the slice, in seconds.
    """
    plain = unicodedata.normalize("NFKD", track_id).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:_LONGEST].strip("-")
    digest = hashlib.sha256(track_id.encode("utf-8", "surrogateescape")).hexdigest()[:10]
    return "-".join(part for part in (words, digest, f"{round(start_s * 1e6):011d}") if part)
