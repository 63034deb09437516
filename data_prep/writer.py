"""Parquet shards: rows in a fixed order, so that the same input gives the same bytes whatever the number of workers."""

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.atomic import open_atomically
from riffusion_train.dataset import layout

ROWS_A_GROUP = 100
"""Rows a Parquet row group: what a reader has to load for one random row, so few for images."""


@dataclasses.dataclass(frozen=True)
class Shard:
    """One written shard, as `stats.json` lists it."""

    name: str
    split: str
    slices: int
    bytes: int
    sha256: str


class ShardWriter:
    """Writes the rows of one split into shards of about `shard_bytes` of images."""

    def __init__(self, folder: Path, split: str, schema: pa.Schema, shard_bytes: int) -> None:
        self._folder, self._split, self._schema, self._shard_bytes = folder, split, schema, shard_bytes
        # A dictionary pays for words that repeat; for images it only costs time.
        self._repeating = [
            field.name for field in schema if pa.types.is_string(field.type) and field.name != layout.IMAGE
        ]

    def write(self, rows: Iterable[dict[str, Any]]) -> list[Shard]:
        """Write all rows. Returns the shards in order.

        Raises:
            OSError: If a shard cannot be written; none is left half written.
        """
        shards: list[Shard] = []
        for index, shard_rows in enumerate(self._portions(rows)):
            path = self._folder / layout.shard_name(self._split, index)
            with open_atomically(path, sync=True) as file:
                slices = self._write_shard(file, shard_rows)
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            shards.append(Shard(path.name, self._split, slices, path.stat().st_size, digest))
        return shards

    def _portions(self, rows: Iterable[dict[str, Any]]) -> Iterator[Iterator[list[dict[str, Any]]]]:
        """Cut the rows into shards, each an iterator of row groups that must be used up before the next."""
        groups = _grouped(rows, ROWS_A_GROUP)
        upcoming = next(groups, None)

        def one_shard() -> Iterator[list[dict[str, Any]]]:
            nonlocal upcoming
            size = 0
            while upcoming is not None and size < self._shard_bytes:
                size += sum(len(row[layout.IMAGE]["bytes"]) for row in upcoming)
                current, upcoming = upcoming, next(groups, None)
                yield current

        while upcoming is not None:
            yield one_shard()

    def _write_shard(self, file: Any, groups: Iterable[list[dict[str, Any]]]) -> int:
        slices = 0
        with pq.ParquetWriter(file, self._schema, compression="snappy", use_dictionary=self._repeating) as writer:
            for group in groups:
                writer.write_table(pa.Table.from_pylist(group, schema=self._schema), row_group_size=ROWS_A_GROUP)
                slices += len(group)
        return slices


def fingerprint(shards: Sequence[Shard]) -> str:
    """Return a hash over the content of all shards."""
    return hashlib.sha256("".join(f"{shard.name} {shard.sha256}\n" for shard in shards).encode()).hexdigest()


def _grouped(rows: Iterable[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    group: list[dict[str, Any]] = []
    for row in rows:
        group.append(row)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group
