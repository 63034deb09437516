"""Where audio comes from: a folder, a pattern or list of files, an object store or web server, or a data set.

Remote files are fetched through fsspec. Data sets are those of the `datasets` library, by Hub id or as a local copy. It would
decode audio with torchcodec, which many machines cannot load; with `decode=False` it returns the bytes.
"""

import contextlib
import dataclasses
import functools
import glob
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Protocol

from data_prep.captions.tables import ColumnNames, table_of
from data_prep.inputs.tracks import Sources, Track
from riffusion_train.runtime.errors import InputError, one_line
from riffusion_train.runtime.files import is_url

AUDIO_SUFFIXES = (
    *(".wav", ".wave", ".bwf", ".w64", ".rf64", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".mp2", ".aif", ".aiff"),
    *(".aifc", ".au", ".snd", ".caf", ".m4a", ".m4b", ".mp4", ".aac", ".wma", ".wv", ".tta", ".ape", ".ac3", ".mka"),
    *(".webm", ".amr"),
)
"""Files of a folder that are tried. The content decides what a file really holds."""
LIST_SUFFIXES = (".txt", ".lst", ".list", ".m3u", ".m3u8")


class Storage(Protocol):
    """Audio files by name, and the small files beside them."""

    label: str
    """What the user called it, for messages."""

    def audio(self) -> list[str]:
        """Return the names of the audio files, sorted: paths with forward slashes."""

    def locate(self, name: str) -> str | None:
        """Return the path or URL of a file; None if it does not exist."""

    def name_of(self, locator: str) -> str:
        """Return the name of a file from its path or URL."""

    def read(self, name: str) -> bytes:
        """Return the content of a small file.

        Raises:
            OSError: If it cannot be read.
        """

    def size(self, locator: str) -> int:
        """Return the size in bytes of a file by its path or URL; -1 if it is not known."""


class LocalFolder:
    """A folder with its subfolders.

    Args:
        folder: The folder.
        out: A folder inside it to skip: the dataset that is being made.
    """

    def __init__(self, folder: Path, out: Path) -> None:
        self.label = str(folder)
        self.folder = Path(os.path.abspath(folder))  # noqa: PTH100 - resolve() would follow links
        self._out = out

    def audio(self) -> list[str]:
        """Return the names of the audio files, sorted; hidden files are skipped."""
        return [path.relative_to(self.folder).as_posix() for path in find_audio(self.folder, self._out)]

    def locate(self, name: str) -> str | None:
        """Return the absolute path of a file, whichever kind of slash its name has; None if it does not exist."""
        for spelling in dict.fromkeys((name, name.replace("\\", "/"))):
            path = Path(os.path.abspath(self.folder / spelling))  # noqa: PTH100
            if path.is_file():
                return str(path)
        return None

    def name_of(self, locator: str) -> str:
        """Return the path relative to this folder, or the whole path of a file elsewhere."""
        if is_url(locator):
            return locator
        path = Path(locator)
        return path.relative_to(self.folder).as_posix() if path.is_relative_to(self.folder) else path.as_posix()

    def read(self, name: str) -> bytes:
        """Return the content of a file."""
        return (self.folder / name).read_bytes()

    def size(self, locator: str) -> int:
        """Return the size of a file in bytes; -1 if it does not exist."""
        path = Path(locator)
        return path.stat().st_size if path.is_file() else -1


class FileList(LocalFolder):
    """Chosen files, named by their paths relative to a common folder.

    Args:
        label: What the user called the list, for messages.
        folder: The common folder.
        files: The files.
    """

    def __init__(self, label: str, folder: Path, files: Sequence[Path]) -> None:
        super().__init__(folder, folder / ".work")
        self.label = label
        self._files = [str(Path(os.path.abspath(path))) for path in files]  # noqa: PTH100

    def audio(self) -> list[str]:
        """Return the names of all files in the list, sorted, whether they exist or not."""
        return sorted(dict.fromkeys(self.name_of(path) for path in self._files))


class RemoteFolder:
    """A folder behind a URL, read with fsspec: `s3://`, `gs://`, `hf://`, `https://`, `memory://` and others.

    Args:
        url: URL of the folder.

    Raises:
        InputError: If the kind of URL is unknown, or its fsspec backend is not installed.
    """

    def __init__(self, url: str) -> None:
        import fsspec

        self.label = url
        try:
            self._files, self._root = fsspec.core.url_to_fs(url.rstrip("/"))
            self._root = self._root.rstrip("/")
        except (ImportError, ValueError) as error:
            raise InputError(f"audio={url}: {one_line(error)}") from None

    @functools.cached_property
    def _sizes(self) -> dict[str, int]:
        try:
            listing: dict[str, Any] = self._files.find(self._root, detail=True)
            if not listing:  # a search hides why it finds nothing
                self._files.ls(self._root, detail=False)
        except Exception as error:  # every fsspec backend raises its own classes
            raise InputError(f"audio={self.label}: cannot be listed: {remote_problem(error)}") from None
        entries = {path.removeprefix(self._root).lstrip("/"): entry for path, entry in listing.items()}
        return {name: int(entry.get("size") or -1) for name, entry in entries.items()}

    def audio(self) -> list[str]:
        """Return the names of the audio files, sorted.

        Raises:
            InputError: If the folder cannot be listed.
        """
        return sorted(
            name
            for name in self._sizes
            if Path(name).suffix.lower() in AUDIO_SUFFIXES and not any(part[:1] == "." for part in name.split("/"))
        )

    def locate(self, name: str) -> str | None:
        """Return the URL of a file in the listing; a whole URL is returned unchecked."""
        if is_url(name):
            return name
        name = name.replace("\\", "/").removeprefix("./")
        return str(self._files.unstrip_protocol(f"{self._root}/{name}")) if name in self._sizes else None

    def name_of(self, locator: str) -> str:
        """Return the path relative to this folder, or the whole URL of a file elsewhere."""
        return locator.removeprefix(str(self._files.unstrip_protocol(self._root))).lstrip("/")

    def read(self, name: str) -> bytes:
        """Return the content of a file."""
        return bytes(self._files.cat_file(f"{self._root}/{name}"))

    def size(self, locator: str) -> int:
        """Return the size in bytes from the listing; -1 if it is not known."""
        return self._sizes.get(self.name_of(locator), -1)


def open_storage(audio: str, out: Path) -> Storage:
    """Return the storage that `audio=` names: a URL, a folder, one file, a list of files, or a pattern.

    Args:
        audio: The value of `audio=`.
        out: The dataset folder, which is not searched.

    Raises:
        InputError: If nothing exists there.
    """
    path = Path(audio)
    if is_url(audio):
        return RemoteFolder(audio)
    if path.is_dir():
        return LocalFolder(path, out)
    if path.is_file():
        return _read_list(path) if path.suffix.lower() in LIST_SUFFIXES else FileList(audio, path.parent, [path])
    if not glob.has_magic(audio):
        raise InputError(f"audio={audio}: no such folder, file or pattern")
    # Files are named relative to the parts of the path before the first wildcard.
    plain_parts = next(index for index, part in enumerate(path.parts) if glob.has_magic(part))
    matches = [Path(name) for name in glob.glob(audio, recursive=True)]  # noqa: PTH207 - Path.glob takes no absolute ones
    files = [file for file in matches if file.is_file() and file.suffix.lower() in AUDIO_SUFFIXES]
    if not files:
        raise InputError(f"audio={audio}: no audio file matches this pattern")
    return FileList(audio, Path(*path.parts[:plain_parts]), files)


def remote_problem(error: Exception) -> str:
    """Return on one line why a URL cannot be read; of a file that does not exist, fsspec says nothing but its name."""
    if isinstance(error, FileNotFoundError):
        return "nothing is found there (404); check the address"
    return one_line(error)


def find_audio(folder: Path, out: Path) -> list[Path]:
    """Return the audio files in a folder and its subfolders, sorted; hidden files and the folder `out` are skipped.

    Raises:
        InputError: If the folder does not exist.
    """
    if not folder.is_dir():
        raise InputError(f"audio={folder}: no such folder")
    return sorted(_walk(folder, out.resolve()), key=lambda path: path.as_posix())


def _walk(folder: Path, out: Path) -> Iterator[Path]:
    seen: set[Path] = set()
    for directory, subfolders, files in os.walk(folder, followlinks=True):
        real = Path(directory).resolve()
        if real in seen or real == out:  # a link may point to a parent, or into the dataset that is being made
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in files:
            path = Path(directory, name)
            if path.suffix.lower() in AUDIO_SUFFIXES and not name.startswith(".") and path.is_file():
                yield path


def _read_list(path: Path) -> FileList:
    """Read a list of files, one per line, relative to the list itself; lines that begin with # are comments."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise InputError(f"audio={path}: not UTF-8 text; save the list as UTF-8") from None
    files = [path.parent / line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not files:
        raise InputError(f"audio={path}: the list names no file")
    return FileList(str(path), path.parent, files)


DATASETS_PREFIX = "datasets:"
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
    name = audio.removeprefix(DATASETS_PREFIX)
    splits = _open_splits(name)
    records: list[dict[str, Any]] = []
    locators: dict[str, str] = {}
    for split, rows in splits.items():
        column = names.file or _audio_column(name, rows)
        rest = rows.remove_columns(column)
        paths = _paths(rows, column)
        for index in range(len(rows)):
            source = f"{split}/{index:06d}{PurePosixPath(paths[index] or '').suffix}"
            locators[source] = DATASETS_PREFIX + json.dumps(_Row(name, split, column, index))
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


def _write_row_audio(locator: str, path: Path) -> None:
    """Write the audio of one row to a file.

    Raises:
        InputError: If the row holds none.
    """
    row = _Row(*json.loads(locator.removeprefix(DATASETS_PREFIX)))
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
        raise InputError(f"audio={DATASETS_PREFIX}{name}: {one_line(error)}") from None
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
        raise InputError(f"audio={DATASETS_PREFIX}{name}: no audio column; it has {have}; name one with file_column=")
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
    if not is_url(locator) or locator.startswith(DATASETS_PREFIX):
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
        if locator.startswith(DATASETS_PREFIX):
            _write_row_audio(locator, path)
        else:
            _fetch(locator, path)
        yield path


def is_local(locator: str) -> bool:
    """Return whether an input is a file on this machine, rather than a URL or a row of a data set."""
    return not is_url(locator) and not locator.startswith(DATASETS_PREFIX)


def _fetch(url: str, path: Path) -> None:
    import fsspec

    try:
        files, name = fsspec.core.url_to_fs(url)
        files.get_file(name, str(path))
    except Exception as error:  # every fsspec backend raises its own classes
        raise InputError(f"cannot be fetched: {remote_problem(error)}") from None
