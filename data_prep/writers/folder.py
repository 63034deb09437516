"""A folder of images with `metadata.jsonl` and a `.txt` beside each image.

`datasets` and diffusers read the first (the imagefolder layout), kohya's trainers and most others the second.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from data_prep.writers.shards import Row, Shard, slice_name
from riffusion_train.dataset import layout
from riffusion_train.runtime.files import open_atomically, write_atomically

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
                write_atomically(caption_file(self._folder / name), row[layout.CAPTION][0])
                line = json.dumps(metadata_of(row, name), ensure_ascii=False).encode() + b"\n"
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


def caption_file(image: Path) -> Path:
    """Return the path of an image's caption: kohya's trainers want its name and `.txt`, and take the first line."""
    return image.with_suffix(".txt")


def metadata_of(row: Row, file_name: str) -> Row:
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
            path = caption_file(metadata.parent / row[FILE_NAME])
            if not path.is_file() or path.read_bytes() != row[TEXT].encode():
                problems.append(f"{path.name} is missing or holds another caption")
    return problems


def read_folder(metadata: Path) -> Iterator[Row]:
    """Yield the rows that a `metadata.jsonl` lists, with their images."""
    with metadata.open(encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            png = (metadata.parent / row[FILE_NAME]).read_bytes()
            yield row | {layout.IMAGE: {"bytes": png, "path": None}}
