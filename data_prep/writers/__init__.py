"""Writers of a dataset's rows: Parquet shards, a folder of images, or WebDataset shards; and reading the rows back."""

from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import pyarrow as pa

from data_prep.writers.folder import OWN_COLUMNS, FolderWriter, read_folder
from data_prep.writers.parquet import ParquetWriter, read_parquet
from data_prep.writers.shards import Row, SplitWriter
from data_prep.writers.webdataset import TarWriter, read_tar
from riffusion_train.config.prepare import PrepareConfig, Writer
from riffusion_train.dataset.layout import DatasetFolder
from riffusion_train.runtime.errors import InputError

_READERS: dict[Writer, Callable[[Path], Iterator[Row]]] = {
    Writer.parquet: read_parquet,
    Writer.folder: read_folder,
    Writer.webdataset: read_tar,
}


def make_writer(config: PrepareConfig, folder: Path, split: str, schema: pa.Schema) -> SplitWriter:
    """Build the writer of one split.

    Args:
        config: Names the writer and the size of a shard.
        folder: Folder of all shards.
        split: The split.
        schema: Columns of the rows.
    """
    shard_bytes = config.shard_size_mb * 2**20
    match config.writer:
        case Writer.parquet:
            return ParquetWriter(folder, split, schema, shard_bytes)
        case Writer.folder:
            return FolderWriter(folder, split)
        case Writer.webdataset:
            return TarWriter(folder, split, shard_bytes)


def check_columns(config: PrepareConfig, columns: Collection[str]) -> None:
    """Refuse columns of the sources that the writer itself writes.

    Raises:
        InputError: Naming the column.
    """
    for name in OWN_COLUMNS:
        if config.writer is Writer.folder and name in columns:
            raise InputError(
                f"writer=folder writes a column '{name}' itself; rename the column of the table, or drop it"
            )


def read_rows(folder: DatasetFolder, split: str) -> Iterator[Row]:
    """Yield the rows of a split of a finished dataset in order, whichever writer wrote them."""
    read = _READERS[Writer(folder.writer)]
    for shard in folder.shards(split):
        yield from read(shard)
