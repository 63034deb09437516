"""Fetching audio: remote files through fsspec, and the rows of data sets of the `datasets` library (Hub id or local copy).

`datasets` would decode audio with torchcodec, which many machines cannot load; with `decode=False` it returns the bytes.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from data_prep.captions.tables import ColumnNames, table_of
from data_prep.inputs.tracks import Sources, Track
from data_prep.storage import remote_problem
from riffusion_train.runtime.errors import InputError, one_line
from riffusion_train.runtime.files import is_url

PREFIX = "datasets:"
"""Prefix of `audio=datasets:ID` and `audio=datasets:PATH`."""


class _Row(NamedTuple):
    """Address of the audio of one row."""

    name: str
    split: str
    column: str
    number: int


def dataset_sources(audio: str, names: ColumnNames) -> Sources:
    """Find the audio of a data set, with the captions and other columns of its rows.

    Args:
        audio: `datasets:` and an id on the Hub, a folder that `save_to_disk` wrote, or one with Parquet files.
        names: Names of the columns that have a meaning; `file` is the audio column.

    Raises:
        InputError: If it cannot be opened, or has no audio column.
    """
    name = audio.removeprefix(PREFIX)
    splits = _open_splits(name)
    records: list[dict[str, Any]] = []
    locators: dict[str, str] = {}
    for split, rows in splits.items():
        column = names.file or _audio_column(name, rows)
        rest = rows.remove_columns(column)
        paths = _paths(rows, column)
        for index in range(len(rows)):
            source = f"{split}/{index:06d}{PurePosixPath(paths[index] or '').suffix}"
            locators[source] = PREFIX + json.dumps(_Row(name, split, column, index))
            given = {key: value for key, value in rest[index].items() if not isinstance(value, dict)}
            own_split = {"split": split} if len(splits) > 1 else {}
            records.append(own_split | given | {"file": source})
    table = table_of(audio, records, dataclasses.replace(names, file="file"))
    tracks = [
        Track(locators[source], source, PurePosixPath(source).with_suffix("").as_posix(), row.captions,
              "the data set" if row.captions else "", columns=row.columns, artist=row.artist, split=row.split,
              lacking="the row has no caption")
        for source, row in table.rows.items()
    ]  # fmt: skip
    return Sources(sorted(tracks, key=lambda track: track.source), table.types)


def write_row_audio(locator: str, path: Path) -> None:
    """Write the audio of one row to a file.

    Raises:
        InputError: If the row holds none.
    """
    row = _Row(*json.loads(locator.removeprefix(PREFIX)))
    cell = _open_splits(row.name)[row.split][row.number][row.column]
    if isinstance(cell, dict) and cell.get("bytes"):
        path.write_bytes(cell["bytes"])
        return
    file = cell.get("path") if isinstance(cell, dict) else cell
    if isinstance(file, bytes):
        path.write_bytes(file)
    elif isinstance(file, str) and Path(file).is_file():
        path.write_bytes(Path(file).read_bytes())
    else:
        raise InputError("the row holds no audio, and no path of a file that is there")


@functools.lru_cache(maxsize=2)
def _open_splits(name: str) -> dict[str, Any]:
    import datasets

    try:
        saved = any(Path(name, file).is_file() for file in ("dataset_info.json", "dataset_dict.json"))
        opened = datasets.load_from_disk(name) if saved else datasets.load_dataset(name)
    except Exception as error:  # the Hub, the network and the file formats each raise their own classes
        raise InputError(f"audio={PREFIX}{name}: {one_line(error)}") from None
    splits = dict(opened) if isinstance(opened, dict) else {str(opened.split or "train"): opened}
    for split, rows in splits.items():
        for column, kind in rows.features.items():
            if isinstance(kind, datasets.Audio):
                splits[split] = splits[split].cast_column(column, datasets.Audio(decode=False))
    return splits


def _audio_column(name: str, rows: Any) -> str:
    import datasets

    columns = [column for column, kind in rows.features.items() if isinstance(kind, datasets.Audio)]
    if not columns:
        have = ", ".join(rows.column_names)
        raise InputError(f"audio={PREFIX}{name}: no audio column; it has {have}; name one with file_column=")
    return columns[0]


def _paths(rows: Any, column: str) -> list[str | None]:
    """Return the paths in an audio column without loading its bytes."""
    import pyarrow as pa

    kind = rows.data.schema.field(column).type
    if pa.types.is_struct(kind) and kind.get_field_index("path") >= 0:
        flat = rows.select_columns(column).flatten()
        return list(flat.data.column(f"{column}.path").to_pylist())
    return [None] * len(rows)


_VERSIONS = ("etag", "md5hash", "content-md5", "checksum", "generation", "blob_id", "last-modified", "last_modified",
             "lastmodified", "last_commit", "mtime", "modified", "created", "lfs")  # fmt: skip
"""Names, in various stores, of the properties that change with a file's content."""


def origin_of(locator: str) -> str | None:
    """Return a hash that stays the same as long as a remote file does, without fetching the file.

    Returns:
        The hash of URL, size and version; None for a local file, or if the store gives no version.
    """
    if not is_url(locator) or locator.startswith(PREFIX):
        return None
    import fsspec

    try:
        files, name = fsspec.core.url_to_fs(locator)
        info = files.info(name)
    except Exception:  # every fsspec backend raises its own classes; fetching the file will say what is wrong
        return None
    versions = sorted((key.lower(), str(value)) for key, value in info.items() if key.lower() in _VERSIONS and value)
    if not versions:
        return None
    return hashlib.sha256(json.dumps([locator, info.get("size"), versions]).encode()).hexdigest()[:32]


@contextlib.contextmanager
def open_input(locator: str) -> Iterator[Path]:
    """Yield a local file with the content of an input; a fetched copy is deleted afterwards.

    Args:
        locator: The `locator` of a `Track`.

    Raises:
        InputError: If it cannot be fetched.
    """
    if is_local(locator):
        yield Path(locator)
        return
    with tempfile.TemporaryDirectory(prefix="riffusion-") as folder:
        path = Path(folder, "input" + PurePosixPath(locator).suffix[:8])
        if locator.startswith(PREFIX):
            write_row_audio(locator, path)
        else:
            _fetch(locator, path)
        yield path


def is_local(locator: str) -> bool:
    """Return whether an input is a file on this machine, rather than a URL or a row of a data set."""
    return not is_url(locator) and not locator.startswith(PREFIX)


def _fetch(url: str, path: Path) -> None:
    import fsspec

    try:
        files, name = fsspec.core.url_to_fs(url)
        files.get_file(name, str(path))
    except Exception as error:  # every fsspec backend raises its own classes
        raise InputError(f"cannot be fetched: {remote_problem(error)}") from None
