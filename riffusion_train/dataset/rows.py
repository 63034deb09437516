"""The rows of Parquet shards, read where they are: by row group, when they are asked for.

Nothing is copied, and nothing grows with the dataset but its index: the first row of every shard, from `stats.json`, and of
every row group of the shards that were opened. A slice costs the reading of its row group, of the columns that are needed.
"""

import contextlib
import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

_IMAGE, _IMAGES = "image", "image.bytes"
"""The column of images, and the part of it that is read."""
_KEPT_BYTES = 32 * 2**20
"""Of row groups that were read of late."""
_KEPT_FOOTER_BYTES = 4 * 2**20
"""Of the footers of opened shards as they are stored; in memory they take several times as much."""


@dataclasses.dataclass(frozen=True)
class ShardFile:
    """A shard."""

    name: str
    """Its path or URL, for messages."""
    num_rows: int
    """As `stats.json` says."""
    open: Callable[[], BinaryIO | pa.NativeFile]
    """Opens it for reading; a shard in a store is read through the cache of this machine."""


class _OpenShard:
    """A shard with its footer, and the first row of each row group."""

    def __init__(self, file: ShardFile) -> None:
        self.source = file.open()
        self.parquet = pq.ParquetFile(self.source)
        footer = self.parquet.metadata
        sizes = [footer.row_group(group).num_rows for group in range(footer.num_row_groups)]
        self.starts = np.cumsum([0, *sizes])
        self.footer_bytes = int(footer.serialized_size)
        if footer.num_rows != file.num_rows:
            self.parquet.close()
            raise pa.ArrowInvalid(f"it has {footer.num_rows} rows, and stats.json says {file.num_rows}")
        if hasattr(self.source, "divide"):
            self.parts = [_parts(footer.row_group(group)) for group in range(footer.num_row_groups)]
            self.source.divide(bound for images, texts in self.parts for bound in (*images, *texts))


def _parts(group: pq.RowGroupMetaData) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return where the images of a row group begin and end in the file, and where the columns behind them do."""
    bounds = {}
    for number in range(group.num_columns):
        column = group.column(number)
        first = column.dictionary_page_offset if column.has_dictionary_page else column.data_page_offset
        bounds[column.path_in_schema] = (first, first + column.total_compressed_size)
    images = bounds[_IMAGES]
    ends = [end for _, end in bounds.values() if end > images[1]]
    return images, (images[1], max(ends, default=images[1]))


class ParquetRows:
    """The rows of some shards, in order; rows, columns or a part of the columns are read when they are indexed.

    Args:
        shards: The shards.
        columns: The columns that rows have; None is all of them.
    """

    def __init__(self, shards: Sequence[ShardFile], columns: Sequence[str] | None = None) -> None:
        self._shards = list(shards)
        self._columns = None if columns is None else list(columns)
        self._starts = np.cumsum([0, *(shard.num_rows for shard in shards)])
        self._forget()

    def _forget(self) -> None:
        self._open: OrderedDict[int, _OpenShard] = OrderedDict()
        self._kept: OrderedDict[tuple[int, int, tuple[str, ...]], pa.Table] = OrderedDict()
        self._kept_bytes = 0

    def __getstate__(self) -> dict[str, Any]:
        """Open files cannot be sent to another process; what was read of late need not."""
        return {key: value for key, value in self.__dict__.items() if key not in ("_open", "_kept", "_kept_bytes")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def num_rows(self) -> int:
        """How many rows there are."""
        return len(self)

    @property
    def column_names(self) -> list[str]:
        """The names of the columns."""
        return list(self._opened(0).parquet.schema_arrow.names) if self._columns is None else list(self._columns)

    @property
    def columns(self) -> list[str] | None:
        """The columns that were chosen; None is all of them."""
        return self._columns

    def select_columns(self, names: Sequence[str] | None) -> "ParquetRows":
        """Return the same rows with some of their columns."""
        return ParquetRows(self._shards, names)

    def __getitem__(self, key: Any) -> Any:
        """Return a column by its name, as a list; a row by its number, as a dict; rows by their numbers, as a dict of lists."""
        if isinstance(key, str):
            return [value for table in self.tables([key]) for value in table.column(key).to_pylist()]
        if isinstance(key, int | np.integer):
            return self.read(int(key), self.column_names)
        rows = [self.read(int(row), self.column_names) for row in key]
        return {name: [row[name] for row in rows] for name in self.column_names}

    def read(self, index: int, columns: Sequence[str]) -> dict[str, Any]:
        """Return some columns of a row."""
        table, row = self.group_of(index, columns)
        return {name: table.column(name)[row].as_py() for name in columns}

    def group_of(self, index: int, columns: Sequence[str]) -> tuple[pa.Table, int]:
        """Return the row group of a row, of some columns, in one chunk; and the row's number in it."""
        shard, group, row = self.locate(index)
        return self._group(shard, group, tuple(columns)), row

    def locate(self, index: int) -> tuple[int, int, int]:
        """Return the shard of a row, the row group in it, and the row in that."""
        shard, row = self.shard_of(index)
        starts = self._opened(shard).starts
        group = int(np.searchsorted(starts, row, side="right")) - 1
        return shard, group, row - int(starts[group])

    def shard_of(self, index: int) -> tuple[int, int]:
        """Return the shard of a row, and its number there; nothing is read."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        shard = int(np.searchsorted(self._starts, index, side="right")) - 1
        return shard, index - int(self._starts[shard])

    def first_row(self, shard: int) -> int:
        """Return the first row of a shard."""
        return int(self._starts[shard])

    def shard_name(self, shard: int) -> str:
        """Return the name of a shard, for messages."""
        return self._shards[shard].name

    def parts_of(self, index: int, *, images: bool) -> list[tuple[Any, int, int]]:
        """Return the parts of a remote shard that a row needs: the file, where each begins, and its bytes.

        Of a shard in a folder there are none.

        Args:
            index: The row.
            images: Whether its image is needed, and not its texts alone.
        """
        shard, group, _ = self.locate(index)
        opened = self._opened(shard)
        if not hasattr(opened.source, "divide"):
            return []
        needed = opened.parts[group] if images else opened.parts[group][1:]
        return [(opened.source, first, end - first) for first, end in needed]

    def tables(self, columns: Sequence[str], *, most: int | None = None) -> Iterator[pa.Table]:
        """Yield the row groups of some columns in order, or `most` of the dataset's, spread evenly over its rows."""
        if most is None:
            for shard in range(len(self._shards)):
                for group in range(len(self._opened(shard).starts) - 1):
                    yield self._group(shard, group, tuple(columns), keep=False)
            return
        places = dict.fromkeys(self.locate(number * len(self) // most)[:2] for number in range(min(most, len(self))))
        for shard, group in places:
            yield self._group(shard, group, tuple(columns), keep=False)

    def first_rows(self, rows_per_group: int) -> npt.NDArray[np.int64]:
        """Return the first row of each block of so many rows of a shard; nothing is read."""
        parts = [
            start + np.arange(0, shard.num_rows, rows_per_group)
            for start, shard in zip(self._starts, self._shards, strict=False)
        ]
        return np.concatenate(parts)

    def _opened(self, shard: int) -> _OpenShard:
        found = self._open.get(shard)
        if found is None:
            found = self._open[shard] = _OpenShard(self._shards[shard])
            while len(self._open) > 1 and sum(one.footer_bytes for one in self._open.values()) > _KEPT_FOOTER_BYTES:
                with contextlib.suppress(OSError):
                    self._open.popitem(last=False)[1].parquet.close()
        self._open.move_to_end(shard)
        return found

    def _group(self, shard: int, group: int, columns: tuple[str, ...], *, keep: bool = True) -> pa.Table:
        key = (shard, group, columns)
        table = self._kept.get(key)
        if table is None:
            leaves = [_IMAGES if name == _IMAGE else name for name in columns]
            read = self._opened(shard).parquet.read_row_group(group, columns=leaves, use_threads=False)
            table = read.combine_chunks()
            if not keep:
                return table
            self._kept[key] = table
            self._kept_bytes += table.nbytes
            while len(self._kept) > 1 and self._kept_bytes > _KEPT_BYTES:
                self._kept_bytes -= self._kept.popitem(last=False)[1].nbytes
        self._kept.move_to_end(key)
        return table
