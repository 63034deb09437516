"""The formats of a dataset's rows: Parquet shards, WebDataset shards, and a folder of images, each written and read.

They share rows, shards, the names of slices, and the division of rows into shards. Parquet shards, with the image bytes in a
column, are what `riffusion train` reads. A WebDataset shard is a tar file in which a slice is a PNG, its first caption as
text, and all its columns as JSON. A folder has `metadata.jsonl` and a `.txt` beside each image: `datasets` and diffusers read
the first (the imagefolder layout), kohya's trainers and most others the second.
"""

import dataclasses
import hashlib
import io
import json
import os
import shutil
import tarfile
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from riffusion_train.dataset import layout
from riffusion_train.runtime.files import open_atomically, slug, write_atomically

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


def _describe_shard(path: Path, name: str, split: str, slices: int) -> Shard:
    """Return the description of a shard that has just been written as one file."""
    return Shard(name, split, slices, path.stat().st_size, digest_file(path))


def digest_file(path: Path) -> str:
    """Return the hash of a shard that is one file, as `Shard.sha256` holds it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _split_into_shards(rows: Iterable[Row], shard_bytes: int, group_rows: int) -> Iterator[Iterator[list[Row]]]:
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


def _nothing(path: Path) -> None:
    """Do nothing with a finished shard."""


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


ROWS_PER_GROUP = 100
"""Rows of a Parquet row group. A reader loads a whole group for one random row, so there are few."""


class ParquetWriter:
    """Writes the rows of one split into shards of about `shard_bytes` of images, and says when each is done."""

    def __init__(
        self, folder: Path, split: str, schema: pa.Schema, shard_bytes: int, done: Callable[[Path], None] = _nothing
    ) -> None:
        self._folder, self._split, self._schema, self._shard_bytes = folder, split, schema, shard_bytes
        self._done = done
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
        for index, groups in enumerate(_split_into_shards(rows, self._shard_bytes, ROWS_PER_GROUP)):
            path = self._folder / layout.shard_name(self._split, index)
            with open_atomically(path, sync=True) as file:
                slices = self._write_shard(file, groups)
            shards.append(_describe_shard(path, path.name, self._split, slices))
            self._done(path)
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


class TarWriter:
    """Writes the rows of one split into tar files of about `shard_bytes` of images, and says when each is done."""

    def __init__(self, folder: Path, split: str, shard_bytes: int, done: Callable[[Path], None] = _nothing) -> None:
        self._folder, self._split, self._shard_bytes, self._done = folder, split, shard_bytes, done

    def write(self, rows: Iterable[Row]) -> list[Shard]:
        """Write all rows. Returns the shards in order.

        Raises:
            OSError: If a shard cannot be written; none is left half-written.
        """
        shards: list[Shard] = []
        for index, groups in enumerate(_split_into_shards(rows, self._shard_bytes, 1)):
            path = self._folder / layout.shard_name(self._split, index, ".tar")
            with open_atomically(path, sync=True) as file:
                slices = _write_shard(file, groups)
            shards.append(_describe_shard(path, path.name, self._split, slices))
            self._done(path)
        return shards


def _write_shard(file: BinaryIO, groups: Iterable[list[Row]]) -> int:
    slices = 0
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for row in (row for group in groups for row in group):
            key = slice_name(row[layout.TRACK_ID], row[layout.START_S])
            rest = {name: value for name, value in row.items() if name != layout.IMAGE}
            _add(archive, f"{key}.png", row[layout.IMAGE]["bytes"])
            _add(archive, f"{key}.txt", row[layout.CAPTION][0].encode())
            _add(archive, f"{key}.json", json.dumps(rest, ensure_ascii=False).encode())
            slices += 1
    return slices


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)  # no time and no owner, which would differ between runs
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def read_tar(path: Path) -> Iterator[Row]:
    """Yield the rows of a shard."""
    with tarfile.open(path) as archive:
        png = b""
        for member in archive:
            file = archive.extractfile(member)
            assert file is not None
            if member.name.endswith(".png"):
                png = file.read()
            elif member.name.endswith(".json"):
                yield json.loads(file.read()) | {layout.IMAGE: {"bytes": png, "path": None}}


FILE_NAME = "file_name"
TEXT = "text"
"""Column of the first caption; diffusers' train_text_to_image reads it by default."""
OWN_COLUMNS = (FILE_NAME, TEXT)


class FolderWriter:
    """Writes the rows of one split into `<folder>/<split>/`.

    Each row becomes a PNG, a `.txt` with its first caption, and a line of `metadata.jsonl`.
    """

    def __init__(self, folder: Path, split: str) -> None:
        self._folder, self._split = folder / split, split

    def write(self, rows: Iterable[Row]) -> list[Shard]:
        """Write all rows. Returns one shard, named after its `metadata.jsonl`, whose hash covers the images as well.

        Raises:
            OSError: If a file cannot be written. `metadata.jsonl` is written last, so a split that has it is complete.
        """
        self._folder.mkdir(parents=True)
        total = hashlib.sha256()
        slices = 0
        path = self._folder / layout.METADATA_FILE
        with open_atomically(path, sync=True) as metadata:
            for row in rows:
                png = row[layout.IMAGE]["bytes"]
                name = f"{slice_name(row[layout.TRACK_ID], row[layout.START_S])}.png"
                write_atomically(self._folder / name, png)
                write_atomically(_caption_file(self._folder / name), row[layout.CAPTION][0])
                line = json.dumps(_metadata_of(row, name), ensure_ascii=False).encode() + b"\n"
                metadata.write(line)
                total.update(line + hashlib.sha256(png).digest())
                slices += 1
            self._sync_files()
        if not slices:
            shutil.rmtree(self._folder)
            return []
        return [Shard(f"{self._split}/{path.name}", self._split, slices, path.stat().st_size, total.hexdigest())]

    def _sync_files(self) -> None:
        """Force all images and captions to the disk at the end: syncing each one as it is written would take far longer."""
        for path in (*self._folder.glob("*.png"), *self._folder.glob("*.txt")):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _caption_file(image: Path) -> Path:
    """Return the path of an image's caption: kohya's trainers want its name and `.txt`, and take the first line."""
    return image.with_suffix(".txt")


def _metadata_of(row: Row, file_name: str) -> Row:
    """Return a row's line of `metadata.jsonl`: the image's file name, the first caption as `text`, and all columns."""
    rest = {name: value for name, value in row.items() if name != layout.IMAGE}
    return {FILE_NAME: file_name, TEXT: row[layout.CAPTION][0], **rest}


def digest_folder(metadata: Path) -> str:
    """Return the hash over a `metadata.jsonl` and its images, as `Shard.sha256` holds it."""
    total = hashlib.sha256()
    with metadata.open("rb") as lines:
        for line in lines:
            png = (metadata.parent / json.loads(line)[FILE_NAME]).read_bytes()
            total.update(line + hashlib.sha256(png).digest())
    return total.hexdigest()


def caption_problems(metadata: Path) -> list[str]:
    """Return the names of captions beside the images that are missing or other ones; version 0.1.0 wrote none."""
    problems = []
    if not any(metadata.parent.glob("*.txt")):
        return []
    with metadata.open(encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            path = _caption_file(metadata.parent / row[FILE_NAME])
            if not path.is_file() or path.read_bytes() != row[TEXT].encode():
                problems.append(f"{path.name} is missing or holds another caption")
    return problems


def read_folder(metadata: Path) -> Iterator[Row]:
    """Yield the rows that a `metadata.jsonl` lists, with their images."""
    with metadata.open(encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            png = (metadata.parent / row[FILE_NAME]).read_bytes()
            yield row | {layout.IMAGE: {"bytes": png, "path": None}}
