"""WebDataset shards: tar files in which a slice is a PNG, its first caption as text, and all its columns as JSON."""

import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from data_prep.writers.shards import Row, Shard, describe_shard, slice_name, split_into_shards
from riffusion_train.dataset import layout
from riffusion_train.runtime.files import open_atomically


class TarWriter:
    """Writes the rows of one split into tar files of about `shard_bytes` of images."""

    def __init__(self, folder: Path, split: str, shard_bytes: int) -> None:
        self._folder, self._split, self._shard_bytes = folder, split, shard_bytes

    def write(self, rows: Iterable[Row]) -> list[Shard]:
        """Write all rows. Returns the shards in order.

        Raises:
            OSError: If a shard cannot be written; none is left half-written.
        """
        shards: list[Shard] = []
        for index, groups in enumerate(split_into_shards(rows, self._shard_bytes, 1)):
            path = self._folder / layout.shard_name(self._split, index, ".tar")
            with open_atomically(path, sync=True) as file:
                slices = _write_shard(file, groups)
            shards.append(describe_shard(path, path.name, self._split, slices))
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
