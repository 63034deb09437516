"""Reading a finished dataset without all of its images: the columns of every row, and the images of a few."""

import json
from collections.abc import Collection, Iterator
from pathlib import Path

import pyarrow.parquet as pq

from data_prep.writers.folder import FILE_NAME
from data_prep.writers.shards import Row
from data_prep.writers.webdataset import read_tar
from riffusion_train.config.prepare import Writer
from riffusion_train.dataset.layout import IMAGE, SHARD_DIR, DatasetFolder


def read_columns(folder: DatasetFolder, split: str) -> Iterator[Row]:
    """Yield the rows of a split in order, without their images."""
    for path in folder.shards(split):
        match Writer(folder.writer):
            case Writer.parquet:
                with pq.ParquetFile(path) as file:
                    names = [name for name in file.schema_arrow.names if name != IMAGE]
                    for batch in file.iter_batches(batch_size=1000, columns=names):
                        yield from batch.to_pylist()
            case Writer.folder:
                with path.open(encoding="utf-8") as lines:
                    yield from map(json.loads, lines)
            case Writer.webdataset:
                for row in read_tar(path):
                    yield {name: value for name, value in row.items() if name != IMAGE}


def read_images(folder: DatasetFolder, split: str, numbers: Collection[int]) -> Iterator[tuple[int, bytes]]:
    """Yield the PNG files of some slices of a split, with their numbers, in order.

    Args:
        folder: The dataset.
        split: The split.
        numbers: Numbers of slices in the split, from 0.
    """
    first = 0
    for shard in (shard for shard in folder.stats["shards"] if shard["split"] == split):
        end = first + shard["slices"]
        own = {number - first for number in numbers if first <= number < end}
        if own:
            path = folder.path / SHARD_DIR / shard["name"]
            match Writer(folder.writer):
                case Writer.parquet:
                    images = _parquet_images(path, own)
                case Writer.folder:
                    with path.open(encoding="utf-8") as lines:
                        names = [json.loads(line)[FILE_NAME] for line in lines]
                    images = ((number, (path.parent / names[number]).read_bytes()) for number in sorted(own))
                case Writer.webdataset:
                    rows = enumerate(read_tar(path))
                    images = ((number, row[IMAGE]["bytes"]) for number, row in rows if number in own)
            yield from ((first + number, png) for number, png in images)
        first = end


def _parquet_images(path: Path, numbers: Collection[int]) -> Iterator[tuple[int, bytes]]:
    with pq.ParquetFile(path) as file:
        first = 0
        for group in range(file.num_row_groups):
            end = first + file.metadata.row_group(group).num_rows
            own = sorted(number for number in numbers if first <= number < end)
            if own:
                column = file.read_row_group(group, columns=[IMAGE]).column(IMAGE)
                yield from ((number, column[number - first].as_py()["bytes"]) for number in own)
            first = end
