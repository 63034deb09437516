"""Parquet shards with the image bytes in a column: what `riffusion train` reads."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.writers.shards import Row, Shard, describe_shard, split_into_shards
from riffusion_train.dataset import layout
from riffusion_train.runtime.files import open_atomically

ROWS_PER_GROUP = 100
"""Rows of a Parquet row group. A reader loads a whole group for one random row, so there are few."""


class ParquetWriter:
    """Writes the rows of one split into shards of about `shard_bytes` of images."""

    def __init__(self, folder: Path, split: str, schema: pa.Schema, shard_bytes: int) -> None:
        self._folder, self._split, self._schema, self._shard_bytes = folder, split, schema, shard_bytes
        # A dictionary saves space for texts that repeat; for images it only costs time.
        self._dictionary_columns = [
            field.name for field in schema if pa.types.is_string(field.type) and field.name != layout.IMAGE
        ]

    def write(self, rows: Iterable[Row]) -> list[Shard]:
        """Write all rows. Returns the shards in order.

        Raises:
            OSError: If a shard cannot be written; none is left half-written.
        """
        shards: list[Shard] = []
        for index, groups in enumerate(split_into_shards(rows, self._shard_bytes, ROWS_PER_GROUP)):
            path = self._folder / layout.shard_name(self._split, index)
            with open_atomically(path, sync=True) as file:
                slices = self._write_shard(file, groups)
            shards.append(describe_shard(path, path.name, self._split, slices))
        return shards

    def _write_shard(self, file: Any, groups: Iterable[list[Row]]) -> int:
        slices = 0
        with pq.ParquetWriter(
            file, self._schema, compression="snappy", use_dictionary=self._dictionary_columns
        ) as writer:
            for group in groups:
                writer.write_table(pa.Table.from_pylist(group, schema=self._schema), row_group_size=ROWS_PER_GROUP)
                slices += len(group)
        return slices


def read_parquet(path: Path) -> Iterator[Row]:
    """Yield the rows of a shard."""
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=ROWS_PER_GROUP):
            yield from batch.to_pylist()
