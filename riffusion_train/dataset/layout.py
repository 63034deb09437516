"""The dataset folder on disk: names, columns, Arrow schema, and a reader of what lies beside the shards.

`prepare` writes by this contract and `train` reads by it; plain `datasets.load_dataset(folder)` opens it as well.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from riffusion_train.config.spectrogram import SpectrogramConfig, load_spectrogram
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


@dataclasses.dataclass(frozen=True)
class DatasetFolder:
    """A finished dataset folder. Make it with `open_dataset_folder`."""

    path: Path
    """The folder."""
    spectrogram: SpectrogramConfig
    """The codec the images were made with."""
    stats: dict[str, Any]
    """The content of `stats.json`."""

    @property
    def fingerprint(self) -> str:
        """Hash of the content of all shards, 64 hex digits; it does not depend on where the folder is or how it is called."""
        return str(self.stats["fingerprint"])

    @property
    def writer(self) -> str:
        """What wrote the shards: `parquet`, `folder` or `webdataset`."""
        return str(self.stats.get("parameters", {}).get("writer", PARQUET))

    def require_parquet(self) -> None:
        """Refuse a dataset that was written for other trainers.

        Raises:
            InputError: If it was not written with `writer=parquet`.
        """
        if self.writer != PARQUET:
            raise InputError(
                f"{self.path} is written for other trainers (writer={self.writer}), and riffusion train reads Parquet; "
                f"make another with: riffusion prepare … writer={PARQUET} out=…"
            )

    def shards(self, split: str) -> list[Path]:
        """Return the shards of a split in order; empty for a split that this dataset does not have."""
        return [self.path / SHARD_DIR / shard["name"] for shard in self.stats["shards"] if shard["split"] == split]

    def num_slices(self, split: str) -> int:
        """Return the number of slices of a split."""
        return sum(shard["slices"] for shard in self.stats["shards"] if shard["split"] == split)


def read_stats(folder: Path) -> dict[str, Any] | None:
    """Read `stats.json`; None where there is none.

    Raises:
        InputError: If it is there and cannot be used.
    """
    path = folder / STATS_FILE
    if not path.is_file():
        return None
    try:
        stats = json.loads(path.read_text(encoding="utf-8"))
        version = stats["schema_version"]
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path}: not the statistics of a dataset; {_FIX}{folder} overwrite=true") from None
    if version != SCHEMA_VERSION:
        raise InputError(f"{path}: schema version {version} is not {SCHEMA_VERSION}; use a matching riffusion-train")
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
