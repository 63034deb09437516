"""The dataset folder on disk: names, columns, Arrow schema, and a reader of what lies beside the shards.

`prepare` writes by this contract and `train` reads by it; plain `datasets.load_dataset(folder)` opens it as well.
"""

import dataclasses
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa

from riffusion_train.config.spectrogram import SpectrogramConfig, load_spectrogram
from riffusion_train.dataset.rows import ShardFile
from riffusion_train.runtime.errors import InputError
from riffusion_train.runtime.files import refuse_url

if TYPE_CHECKING:
    import datasets

SCHEMA_VERSION = 1
SPLITS = ("train", "validation", "test")
SHARD_DIR = "data"
STATS_FILE = "stats.json"
MANIFEST_FILE = "manifest.jsonl"
CARD_FILE = "README.md"
METADATA_FILE = "metadata.jsonl"
"""With `writer=folder`: the list of a split's images."""
PAGE_FILE = "index.html"
"""The dataset page."""
PAGE_DIR = "page"
"""Images and sounds of the dataset page."""
WORK_DIR = ".work"
"""What an unfinished `prepare` keeps; a finished dataset has none."""
PARQUET = "parquet"
"""The writer whose datasets `riffusion train` reads."""

IMAGE = "image"
CAPTION = "caption"
TRACK_ID = "track_id"
START_S = "start_s"
DURATION_S = "duration_s"
LOUDNESS_LUFS = "loudness_lufs"
MAX_VALUE = "max_value"
SOURCE = "source"

COLUMNS = {
    IMAGE: "the spectrogram, a lossless PNG: grey for mono, RGB for stereo",
    CAPTION: "every caption that holds for the slice",
    TRACK_ID: "the track the slice was cut from",
    START_S: "start of the slice in its track, in seconds",
    DURATION_S: "seconds of real audio in the slice; what a clip lasts longer is silence",
    LOUDNESS_LUFS: "integrated loudness of the whole track before any gain; null below 0.4 s",
    MAX_VALUE: "largest mel magnitude of the slice after the gain: the scale that the image leaves out",
    SOURCE: "path of the audio file in its folder",
}
"""Columns that every dataset has, with their meanings."""

_VALUE_TYPES = {
    TRACK_ID: "string",
    START_S: "float64",
    DURATION_S: "float64",
    LOUDNESS_LUFS: "float64",
    MAX_VALUE: "float64",
    SOURCE: "string",
}
_FIX = "make it with: riffusion prepare audio=DIR out="


def shard_name(split: str, index: int, suffix: str = ".parquet") -> str:
    """Return the file name of a shard, for example `train-00000.parquet`."""
    return f"{split}-{index:05d}{suffix}"


def arrow_schema(extra: Mapping[str, str] | None = None) -> pa.Schema:
    """Return the Arrow schema of a shard.

    It carries the `huggingface` metadata, so that `datasets` gives PIL images and lists of strings without a config. It is
    built without importing `datasets`, which takes seconds; a test compares it with `features(extra).arrow_schema`. Lists have
    the type `Sequence`, which every version of `datasets` reads; `List`, its name in versions 4 and later, fails in 3.

    Args:
        extra: Names of further columns and their types: string, int64, float64 or bool.
    """
    values = _VALUE_TYPES | dict(extra or {})
    described: dict[str, Any] = {
        IMAGE: {"_type": "Image"},
        CAPTION: {"feature": {"dtype": "string", "_type": "Value"}, "_type": "Sequence"},
    }
    described |= {name: {"dtype": kind, "_type": "Value"} for name, kind in values.items()}
    arrow_types = {"string": pa.string(), "int64": pa.int64(), "float64": pa.float64(), "bool": pa.bool_()}
    fields = [
        pa.field(IMAGE, pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])),
        pa.field(CAPTION, pa.list_(pa.field("item", pa.string()))),
        *(pa.field(name, arrow_types[kind]) for name, kind in values.items()),
    ]
    return pa.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": described}})})


def column_types(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the type of each column as a dataset card writes it, such as `dtype: string`; `extra` as in `arrow_schema`."""
    values = _VALUE_TYPES | dict(extra or {})
    own = {
        IMAGE: "dtype: image",
        CAPTION: "sequence: string",
    }  # as `Sequence` above: the name of lists in every version
    return own | {name: f"dtype: {kind}" for name, kind in values.items()}


def features(extra: Mapping[str, str] | None = None) -> "datasets.Features":
    """Return the `datasets` features of a shard; `extra` as in `arrow_schema`."""
    import datasets

    values = _VALUE_TYPES | dict(extra or {})
    return datasets.Features(
        {IMAGE: datasets.Image(), CAPTION: datasets.List(datasets.Value("string"))}
        | {name: datasets.Value(kind) for name, kind in values.items()}
    )


class ShardStore(Protocol):
    """A dataset in a bucket, on a web server or on the hub."""

    url: str

    @property
    def cache_bytes(self) -> int:
        """How much of it may be kept on this machine."""
        ...

    def shard(self, name: str, num_rows: int, num_bytes: int) -> ShardFile:
        """Return a shard by its path in the dataset."""
        ...


@dataclasses.dataclass(frozen=True)
class DatasetFolder:
    """A finished dataset. Make it with `open_dataset_folder`, or with `open_dataset` wherever it is."""

    path: Path
    """The folder; of a dataset in a store, the folder of this machine that keeps its caches."""
    spectrogram: SpectrogramConfig
    """The codec the images were made with."""
    stats: dict[str, Any]
    """The content of `stats.json`."""
    store: "ShardStore | None" = None
    """Where its shards are, if they are not in the folder: a bucket, a web server or the hub."""
    parts: tuple["DatasetFolder", ...] = ()
    """Of several datasets opened as one: each of them, in the order of their slices."""
    weights: tuple[float, ...] = ()
    """How often each part is taken in training, in proportion."""

    @property
    def name(self) -> str:
        """The folder or URL, for messages."""
        if self.parts:
            return " + ".join(part.name for part in self.parts)
        return str(self.path) if self.store is None else self.store.url

    @property
    def is_remote(self) -> bool:
        """Whether shards are read from a store."""
        return self.store is not None or any(part.is_remote for part in self.parts)

    @property
    def fingerprint(self) -> str:
        """Hash of the content of all shards, 64 hex digits; it does not depend on where the folder is or how it is called."""
        return str(self.stats["fingerprint"])

    @property
    def writer(self) -> str:
        """What wrote the shards: `parquet`, `folder` or `webdataset`."""
        return str(self.stats.get("parameters", {}).get("writer", PARQUET))

    @property
    def cache_bytes(self) -> int:
        """How much of a dataset in a store may be kept on this machine."""
        own = 0 if self.store is None else self.store.cache_bytes
        return own + sum(part.cache_bytes for part in self.parts)

    def require_parquet(self) -> None:
        """Refuse a dataset that was written for other trainers.

        Raises:
            InputError: If it was not written with `writer=parquet`.
        """
        if self.writer != PARQUET:
            raise InputError(
                f"{self.name} is written for other trainers (writer={self.writer}), and riffusion train reads Parquet; "
                f"make another with: riffusion prepare … writer={PARQUET} out=…"
            )

    def shards(self, split: str) -> list[Path]:
        """Return the shards of a split in order; empty for a split that this dataset does not have."""
        return [self.path / SHARD_DIR / shard["name"] for shard in self.stats["shards"] if shard["split"] == split]

    def shard_files(self, split: str) -> list[ShardFile]:
        """Return the shards of a split in order, to be opened wherever they are."""
        if self.parts:
            return [shard for part in self.parts for shard in part.shard_files(split)]
        own = [shard for shard in self.stats["shards"] if shard["split"] == split]
        if self.store is not None:
            return [self.store.shard(f"{SHARD_DIR}/{one['name']}", one["slices"], one["bytes"]) for one in own]
        paths = [str(self.path / SHARD_DIR / one["name"]) for one in own]
        return [
            ShardFile(path, one["slices"], functools.partial(pa.OSFile, path))
            for path, one in zip(paths, own, strict=True)
        ]

    def num_slices(self, split: str) -> int:
        """Return the number of slices of a split."""
        return sum(shard["slices"] for shard in self.stats["shards"] if shard["split"] == split)


def read_stats(folder: Path) -> dict[str, Any] | None:
    """Read `stats.json`; None where there is none.

    Raises:
        InputError: If it is there and cannot be used.
    """
    path = folder / STATS_FILE
    return parse_stats(path.read_bytes(), str(path), f"{_FIX}{folder} overwrite=true") if path.is_file() else None


def parse_stats(content: bytes, name: str, fix: str = "prepare the dataset again") -> dict[str, Any]:
    """Return what a `stats.json` holds.

    Args:
        content: Of the file.
        name: Of the file, for messages.
        fix: What to do if it cannot be used.

    Raises:
        InputError: If it cannot be used.
    """
    try:
        stats = json.loads(content.decode("utf-8"))
        version = stats["schema_version"]
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{name}: not the statistics of a dataset; {fix}") from None
    if version != SCHEMA_VERSION:
        raise InputError(f"{name}: schema version {version} is not {SCHEMA_VERSION}; use a matching riffusion-train")
    return dict(stats)


def open_dataset_folder(path: Path | str, *, check_shards: bool = True) -> DatasetFolder:
    """Open a dataset folder for reading.

    Args:
        path: The folder.
        check_shards: Whether to refuse a folder in which shards are missing or have another size than when they were written.

    Raises:
        InputError: If the folder is missing, unfinished, damaged, or no dataset folder, or if `path` is a URL.
    """
    refuse_url("dataset=", str(path), "download the dataset, and give its folder")
    path = Path(path).expanduser()
    if not path.is_dir():
        raise InputError(f"{path}: no such dataset folder; {_FIX}{path}")
    stats = read_stats(path)
    if stats is None:
        if (path / WORK_DIR).is_dir():
            raise InputError(f"{path}: this dataset is unfinished; run the same riffusion prepare command again")
        raise InputError(f"{path}: not a dataset folder (it has no {STATS_FILE}); {_FIX}DIR")
    spectrogram = load_spectrogram(path)
    if spectrogram is None:
        raise InputError(f"{path}: spectrogram.json is missing; {_FIX}{path} overwrite=true")
    folder = DatasetFolder(path, spectrogram, stats)
    for shard in stats["shards"] if check_shards else ():
        file = path / SHARD_DIR / shard["name"]
        if not file.is_file() or file.stat().st_size != shard["bytes"]:
            raise InputError(f"{file}: missing or of another size than written; {_FIX}{path} overwrite=true")
    return folder
