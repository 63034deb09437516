"""The config of `riffusion prepare`: captioned audio -> dataset folder."""

import dataclasses
import enum
import math

from omegaconf import MISSING

from riffusion_train.config.errors import InputError
from riffusion_train.config.spectrogram import SpectrogramConfig


class CaptionSource(enum.Enum):
    """Where the captions come from."""

    auto = "auto"
    """The table, where `table` names one or the folder holds exactly one captions.csv, metadata.csv or metadata.jsonl;
    else sidecars."""
    sidecar = "sidecar"
    """`song.txt` beside `song.wav`, one caption a line."""
    table = "table"
    """A CSV, TSV or JSONL file with one row a file."""


class Tail(enum.Enum):
    """What becomes of audio that does not fill the last window."""

    drop = "drop"
    """It is left out; a file shorter than one clip is rejected."""
    pad = "pad"
    """It is filled up with silence where it lasts at least `min_clip_s`; the rest is left out."""


@dataclasses.dataclass
class PrepareConfig:
    """What goes in, how it is cut, and where it goes."""

    audio: str = MISSING
    """Folder of audio files (wav, flac, ogg, opus, mp3, aiff, m4a and what else PyAV opens), searched with its
    subfolders."""
    out: str = MISSING
    """The dataset folder to make."""
    spectrogram: SpectrogramConfig = dataclasses.field(default_factory=SpectrogramConfig)
    """The codec preset."""
    captions: CaptionSource = CaptionSource.auto
    """Where the captions come from."""
    table: str | None = None
    """Path of the table of captions; null looks for captions.csv, metadata.csv or metadata.jsonl in `audio`."""
    file_column: str | None = None
    """Column with the file's path; null takes the first of file, file_name, filename, path, audio."""
    caption_column: str | None = None
    """Column with the caption; null takes the first of caption, captions, text, prompt, description."""
    artist_column: str | None = None
    """Column with the artist, whose tracks stay in one split; null takes `artist` where there is one."""
    split_column: str | None = None
    """Column that says train, validation or test; null takes `split` where there is one."""
    default_caption: str | None = None
    """Caption of files that have none; null rejects them."""
    stride_s: float | None = None
    """Seconds between the starts of two windows; null is the length of a clip, so that windows touch."""
    tail: Tail = Tail.pad
    """What becomes of audio that does not fill the last window."""
    min_clip_s: float | None = None
    """Shortest audio that tail=pad fills up, in seconds; null is nine tenths of a clip."""
    silence_dbfs: float = -60.0
    """Windows whose RMS level after the gain lies below this are left out."""
    target_lufs: float | None = -14.0
    """Integrated loudness to which each whole track is brought; null leaves it as it is."""
    peak_ceiling_dbfs: float = -1.0
    """Highest sample peak the loudness gain may lead to."""
    validation_ratio: float = 0.05
    """Share of the groups (artists where known, else tracks) that goes to the validation split."""
    test_ratio: float = 0.0
    """Share of the groups that goes to the test split."""
    seed: int = 0
    """Decides which group goes to which split."""
    num_workers: int | None = None
    """Worker processes; null is one for each available core, 0 works in this process."""
    shard_size_mb: int = 256
    """Size at which a new Parquet shard is begun."""
    overwrite: bool = False
    """Replace a dataset that was made with other settings."""

    @property
    def clip_stride_s(self) -> float:
        """Seconds between the starts of two windows."""
        return self.spectrogram.clip_s if self.stride_s is None else self.stride_s

    @property
    def shortest_clip_s(self) -> float:
        """Shortest audio in a slice, in seconds."""
        if self.tail is Tail.drop:
            return self.spectrogram.clip_s
        return 0.9 * self.spectrogram.clip_s if self.min_clip_s is None else self.min_clip_s


def check_prepare(config: PrepareConfig) -> None:
    """Check what the types cannot say.

    Raises:
        InputError: With the first key whose value cannot be used.
    """
    clip_s = config.spectrogram.clip_s
    if config.stride_s is not None and not (math.isfinite(config.stride_s) and config.stride_s >= 0.01):
        raise InputError(f"stride_s={config.stride_s}: it is a number of seconds from 0.01 up")
    if config.min_clip_s is not None and not 0 < config.min_clip_s <= clip_s:
        raise InputError(f"min_clip_s={config.min_clip_s}: it lies between 0 and the clip's {clip_s:.2f} s")
    if config.min_clip_s is not None and config.tail is Tail.drop:
        raise InputError(
            "min_clip_s= has no meaning with tail=drop, which keeps full clips only; leave out one of them"
        )
    for key in ("validation_ratio", "test_ratio"):
        if not 0 <= getattr(config, key) < 1:
            raise InputError(f"{key}={getattr(config, key)}: it is a share from 0 to below 1")
    if config.validation_ratio + config.test_ratio >= 1:
        raise InputError("validation_ratio and test_ratio leave nothing to train on; their sum must be below 1")
    if config.peak_ceiling_dbfs > 0:
        raise InputError(f"peak_ceiling_dbfs={config.peak_ceiling_dbfs}: a peak above 0 dBFS clips; use 0 or below")
    if config.target_lufs is not None and not -70 <= config.target_lufs <= 0:
        raise InputError(f"target_lufs={config.target_lufs}: it lies between -70 and 0, or is null")
    if config.num_workers is not None and config.num_workers < 0:
        raise InputError(f"num_workers={config.num_workers}: it is 0 or more, or null for one a core")
    if config.shard_size_mb < 1:
        raise InputError(f"shard_size_mb={config.shard_size_mb}: it is at least 1")
    if config.captions is CaptionSource.sidecar and config.table is not None:
        raise InputError("captions=sidecar reads no table; leave out table= or say captions=table")
