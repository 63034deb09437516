"""Writers of a dataset's rows: Parquet shards, a folder of images, or WebDataset shards; reading and checking the rows."""

import io
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_prep.writers.folder import OWN_COLUMNS, FolderWriter, caption_problems, digest_folder, read_folder
from data_prep.writers.parquet import ParquetWriter, read_parquet
from data_prep.writers.shards import Row, SplitWriter, digest_file
from data_prep.writers.webdataset import TarWriter, read_tar
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
    """Yield the rows of a split of a finished dataset in order, whichever writer wrote them.

    Shards that are not as they were written are left out, with a message.
    """
    for shard in folder.stats["shards"]:
        if shard["split"] != split:
            continue
        path = folder.path / SHARD_DIR / shard["name"]
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
