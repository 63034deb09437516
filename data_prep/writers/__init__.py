"""Writers of a dataset's rows; reading a finished dataset, with all of its images or a few; and checking the rows."""

import contextlib
import io
import json
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.writers.formats import (
    FILE_NAME,
    OWN_COLUMNS,
    FolderWriter,
    ParquetWriter,
    Row,
    SplitWriter,
    TarWriter,
    caption_problems,
    digest_file,
    digest_folder,
    read_folder,
    read_parquet,
    read_tar,
)
from riffusion_train.config.prepare import PrepareConfig, Writer
from riffusion_train.dataset.layout import IMAGE, SHARD_DIR, SOURCE, START_S, DatasetFolder, open_dataset_folder
from riffusion_train.runtime.errors import InputError
from riffusion_train.runtime.files import refuse_url
from riffusion_train.runtime.progress import ProgressReport

_READERS: dict[Writer, Callable[[Path], Iterator[Row]]] = {
    Writer.parquet: read_parquet,
    Writer.folder: read_folder,
    Writer.webdataset: read_tar,
}


def make_writer(
    config: PrepareConfig, folder: Path, split: str, schema: pa.Schema, done: Callable[[Path], None]
) -> SplitWriter:
    """Build the writer of one split.

    Args:
        config: Names the writer and the size of a shard.
        folder: Folder of all shards.
        split: The split.
        schema: Columns of the rows.
        done: Called with each shard that is one file as soon as it is whole.
    """
    shard_bytes = config.shard_size_mb * 2**20
    match config.writer:
        case Writer.parquet:
            return ParquetWriter(folder, split, schema, shard_bytes, done)
        case Writer.folder:
            return FolderWriter(folder, split)
        case Writer.webdataset:
            return TarWriter(folder, split, shard_bytes, done)


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


def read_rows(
    folder: DatasetFolder, split: str, opened: Callable[[Path], contextlib.AbstractContextManager[Path]]
) -> Iterator[Row]:
    """Yield the rows of a split of a finished dataset in order, whichever writer wrote them.

    Shards that are not as they were written are left out, with a message.

    Args:
        folder: The dataset.
        split: The split.
        opened: From the path of a shard to the one where it is while it is read.
    """
    for shard in folder.stats["shards"]:
        if shard["split"] != split:
            continue
        with opened(folder.path / SHARD_DIR / shard["name"]) as path:
            if _digest(folder, path) == shard["sha256"]:
                yield from _READERS[Writer(folder.writer)](path)
            else:
                print(f"{path} is damaged; its tracks are cut again")


def _digest(folder: DatasetFolder, shard: Path) -> str | None:
    """Return the hash of a shard, as `Shard.sha256` holds it; None if one of its images is missing."""
    try:
        return digest_folder(shard) if folder.writer == Writer.folder.value else digest_file(shard)
    except (FileNotFoundError, ValueError, KeyError):
        return None


def check_dataset(path: str) -> str:
    """Compare every shard of a dataset with the hash that was taken when it was written, and print what is damaged.

    Returns:
        A line that says that everything is as it was written.

    Raises:
        InputError: If something is not.
    """
    refuse_url("", path, "copy the dataset here")
    folder = open_dataset_folder(path, check_shards=False)
    shards = folder.stats["shards"]
    damaged = 0
    with ProgressReport("check shards", len(shards)) as progress:
        for done, shard in enumerate(shards, start=1):
            problems = _shard_problems(folder, shard)
            damaged += bool(problems)
            for problem in problems:
                print(f"{folder.path / SHARD_DIR / shard['name']}: {problem}")
            progress.update(done)
    if damaged:
        raise InputError(
            f"{path}: {damaged} of {len(shards)} shards are damaged; make the dataset anew with the command in its README.md "
            "and overwrite=true"
        )
    slices = sum(shard["slices"] for shard in shards)
    return f"{path}: all {len(shards)} shards with {slices} slices are as they were written"


def _shard_problems(folder: DatasetFolder, shard: dict[str, Any]) -> list[str]:
    """Return what is wrong with a shard, a line for each damaged row where they can be read."""
    path, writer = folder.path / SHARD_DIR / shard["name"], Writer(folder.writer)
    problems = []
    try:
        if _digest(folder, path) != shard["sha256"]:
            damaged = list(_damaged_rows(_READERS[writer](path)))
            problems += damaged or ["other content than was written, though every image can be decoded"]
        return problems + (caption_problems(path) if writer is Writer.folder else [])
    except FileNotFoundError as error:
        return [*problems, f"{error.filename or path} is missing"]
    except Exception as error:  # readers of damaged files raise classes of many kinds
        return [*problems, f"cannot be read: {' '.join(str(error).split()) or type(error).__name__}"]


def _damaged_rows(rows: Iterator[Row]) -> Iterator[str]:
    from PIL import Image

    for number, row in enumerate(rows):
        try:
            with Image.open(io.BytesIO(row[IMAGE]["bytes"])) as image:
                image.load()
        except Exception as error:  # Pillow raises classes of many kinds
            problem = " ".join(str(error).split()) or type(error).__name__
            yield f"row {number}, {row.get(SOURCE)} at {row.get(START_S) or 0:.2f} s: the image is damaged: {problem}"


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
