"""The configs of `riffusion prepare` and `riffusion prepare merge`: from captioned audio to a dataset folder."""

import dataclasses
import enum
import math
import re

from omegaconf import MISSING

from riffusion_train.config.spectrogram import SpectrogramConfig
from riffusion_train.runtime.errors import InputError
from riffusion_train.runtime.files import is_url, refuse_url

OUT_FIX = "give a folder, and upload the finished dataset with push_to_hub= or the tools of the store"
"""The fix for a dataset folder that is a URL where it cannot be one."""
_READ_ONLY = {"http": OUT_FIX, "https": OUT_FIX, "hf": "give a folder, and upload the dataset with push_to_hub="}
"""What to do about a URL of a store in which files cannot be written, or not one by one."""


class CaptionSource(enum.Enum):
    """Where the captions come from."""

    auto = "auto"
    """The table, if `table` names one or the folder holds exactly one captions.csv, metadata.csv or metadata.jsonl;
    else sidecars. Tracks for which nothing else gives a caption are captioned by listening."""
    listen = "listen"
    """As auto, but no table need have captions: tracks without one are captioned by listening."""
    sidecar = "sidecar"
    """`song.txt` beside `song.wav`, one caption per line."""
    table = "table"
    """A CSV, TSV, JSONL or Parquet file with one row per file."""
    tags = "tags"
    """The ID3, Vorbis, MP4 or other tags in the files, which also become columns; captions in tables and sidecars take
    precedence."""
    review = "review"
    """All captions are written into a table to edit, `table` or `<out>.captions.csv`; the same command then reads it."""


class CaptionCheck(enum.Enum):
    """What happens to a caption that says something else than what is measured in the sound."""

    off = "off"
    """Captions are not checked."""
    warn = "warn"
    """It stays, and the track is listed with a warning."""
    fix = "fix"
    """The false statement is taken out of it, and the track is listed with a warning."""
    drop = "drop"
    """The track is rejected."""


class Duplicates(enum.Enum):
    """What happens to tracks with the same sound."""

    off = "off"
    """They are not looked for."""
    group = "group"
    """They stay in one split."""
    drop = "drop"
    """All but the first, in the order of their names, are left out."""


class TemplateUse(enum.Enum):
    """Which tracks get a composed caption."""

    missing = "missing"
    """Those without a caption."""
    add = "add"
    """All tracks, after their own captions."""


class Tail(enum.Enum):
    """What happens to audio that does not fill the last window."""

    drop = "drop"
    """It is left out; a file shorter than one clip is rejected."""
    pad = "pad"
    """It is padded with silence if it lasts at least `min_clip_s`, and left out otherwise."""
    overlap = "overlap"
    """The last window is moved back to end with the audio; a file shorter than one clip is rejected."""


class Windows(enum.Enum):
    """Where windows begin."""

    fixed = "fixed"
    """At every multiple of the stride."""
    beats = "beats"
    """On the first beat at least a stride after the last start; all windows are full."""
    bars = "bars"
    """On the first bar (of four beats) at least a stride after the last start; all windows are full."""


class Engine(enum.Enum):
    """Where the tracks are processed."""

    local = "local"
    """In processes on this machine."""
    ray = "ray"
    """On the nodes of an existing Ray cluster, which share the folders of `audio` and `out`, or find both in a store."""


class Truncated(enum.Enum):
    """What happens to a file with less audio than it declares."""

    keep = "keep"
    """The audio that can be decoded is used, and the file is listed with a warning."""
    reject = "reject"
    """It is left out."""


class Writer(enum.Enum):
    """File format of the images."""

    parquet = "parquet"
    """Parquet shards with the images in a column, for `riffusion train`."""
    folder = "folder"
    """PNG files and a `metadata.jsonl` for each split (imagefolder), for other trainers."""
    webdataset = "webdataset"
    """Tar files with a `.png`, `.txt` and `.json` for each slice, for trainers that stream."""


@dataclasses.dataclass
class PrepareConfig:
    """What goes in, how it is cut, and where it goes."""

    audio: str = MISSING
    """Folder of audio files (wav, flac, ogg, opus, mp3, aiff, m4a and others that PyAV opens), searched with its
    subfolders; or a pattern (`songs/**/*.mp3`), a .txt or .m3u list of files, a URL that fsspec opens, or
    `datasets:ID` for a data set of the Hub or a local copy."""
    out: str = MISSING
    """The dataset folder to make; or a URL of a store that fsspec writes to, such as `s3://bucket/name`."""
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
    """Column with the artist, whose tracks stay in one split; null takes `artist` if it exists."""
    split_column: str | None = None
    """Column that says train, validation or test; null takes `split` if it exists."""
    default_caption: str | None = None
    """Caption of files without one; null rejects them, or listens with captions=auto or listen."""
    path_template: str | None = None
    """Template of the columns to read from the files' paths, for example `{genre}/{artist} - {title}`."""
    caption_template: str | None = None
    """Template that composes captions from columns, for example
    `{genre|style} {instrument|"music"}, {bpm:.0f} bpm, in {key}`; a part between commas is left out if its columns have no
    value."""
    template_use: TemplateUse = TemplateUse.missing
    """Which tracks get a composed caption."""
    trigger: str | None = None
    """Word or words before every caption, with which prompts can then ask for this music."""
    captioner: str | None = None
    """What captions tracks without a caption of their own: a Python function, `module:function`, or the URL of an
    OpenAI-compatible chat endpoint that takes audio; null asks none."""
    captioner_model: str | None = None
    """Name of the endpoint's model."""
    captioner_prompt: str = (
        "Describe this music for someone who cannot hear it: genre, instruments, mood and tempo, in one sentence of at most "
        "thirty words. Answer with this sentence only."
    )
    """What the endpoint is asked about each track; each line of its answer becomes a caption."""
    captioner_key_env: str | None = "CAPTIONER_API_KEY"
    """Name of the environment variable with the endpoint's key; null sends no key."""
    captioner_batch_size: int = 4
    """Most requests to the endpoint at a time, or files in one call of the function."""
    captioner_s: float | None = 30.0
    """Seconds in the middle of a track that the endpoint hears; null sends all."""
    check_captions: CaptionCheck = CaptionCheck.off
    """What happens to a caption whose tempo, key, drums, speed or instruments are not those of the sound; all but off listen
    to every track."""
    measure: str | None = None
    """Attributes to measure in the sound and store as columns, for example `bpm,key`: bpm, key, loudness, brightness,
    drums, or all; values in a table take precedence."""
    listen_patches: int = 8
    """Most patches of 3 s that are heard of a track that is captioned by listening, evenly spread over it."""
    stride_s: float | None = None
    """Seconds between the starts of two windows; null is the length of a clip, so that windows adjoin."""
    windows: Windows = Windows.fixed
    """Where windows begin."""
    skip_silence: bool = False
    """Place windows between silences of half a second and more, so that they begin with sound."""
    random_crops: int = 0
    """Additional windows at random positions of each track."""
    max_slices_per_track: int | None = None
    """Most slices of one track, evenly spread over it; null is all."""
    balance_column: str | None = None
    """Column whose values get similar numbers of slices in the train split; null takes all slices."""
    balance_ratio: float = 1.0
    """Most slices of any value of `balance_column`, as a multiple of those of the rarest value."""
    tail: Tail = Tail.pad
    """What happens to audio that does not fill the last window."""
    min_clip_s: float | None = None
    """Shortest audio that tail=pad pads, in seconds; null is nine tenths of a clip."""
    truncated: Truncated = Truncated.keep
    """What happens to a file with less than 95 % of the audio that its container declares."""
    duplicates: Duplicates = Duplicates.group
    """What happens to tracks with the same samples, in any lossless format; `off` is the same as `group` here."""
    near_duplicates: Duplicates = Duplicates.off
    """What happens to tracks that sound alike (another coding, level or cut), found by acoustic fingerprints."""
    near_duplicate_similarity: float = 0.75
    """Share of equal bits from which two fingerprints count as alike: copies have 0.8 and more, different music below
    0.7."""
    max_clipped: float | None = None
    """Share of samples clipped at full scale above which a track is rejected; null only warns, from 0.0001."""
    remove_dc: bool = False
    """Remove a constant offset from each channel."""
    silence_dbfs: float = -60.0
    """Windows with an RMS level below this, after the gain, are left out."""
    target_lufs: float | None = -14.0
    """Integrated loudness (BS.1770) to which each whole track is brought, measured on its mono mix if the preset's images
    are mono; null applies no gain."""
    peak_ceiling_dbfs: float = -1.0
    """Highest sample peak after the loudness gain."""
    validation_ratio: float = 0.05
    """Share of the groups (artists where known, else tracks) that goes to the validation split."""
    test_ratio: float = 0.0
    """Share of the groups that goes to the test split."""
    seed: int = 0
    """Decides which group goes to which split, which slices stay in a balance, and where random crops lie."""
    engine: Engine = Engine.local
    """Where the tracks are processed; the dataset is the same."""
    ray_address: str | None = None
    """`host:port` of the Ray cluster for engine=ray; null is that of this machine or of RAY_ADDRESS."""
    num_workers: int | None = None
    """Number of worker processes; null is one for each available core, here or in the cluster, 0 uses this process."""
    writer: Writer = Writer.parquet
    """File format of the images."""
    shard_size_mb: int = 256
    """Size at which a new Parquet or tar file begins."""
    license: str = "unknown"
    """Licence of the audio for the card, as the Hub names it: `cc-by-4.0`, `cc0-1.0`, `mit`, `other`, …"""
    language: str | None = None
    """Language of the captions for the card, as the Hub names it: `en`, `de`, …; null leaves it out."""
    page: bool = True
    """Whether to write the dataset page, `index.html`, to see and hear the dataset and to edit its captions."""
    page_slices: int = 200
    """Most slices with image and sound on the page, evenly spread over the tracks."""
    page_audio: bool = False
    """Whether the page also plays the same seconds of the audio files, beside the sound of the images."""
    page_mb: float = 30.0
    """Most megabytes of the page with its images and sounds; it has fewer slices if need be."""
    push_to_hub: str | None = None
    """Repository to upload the finished dataset to, `user/name`."""
    push_page: bool = False
    """Whether `push_to_hub` uploads the page as well, with its sounds."""
    private: bool = False
    """Whether a repository that `push_to_hub` makes is private."""
    part: str | None = None
    """Prepare only one part of the tracks, for array jobs: `3/8` is the third of eight. It is stored in `<out>.parts`, and
    `riffusion prepare merge out=DIR` makes the dataset of all parts."""
    dry_run: bool = False
    """Only print what would be made and how large it would be, from the headers of the files."""
    overwrite: bool = False
    """Replace a dataset that was made with other settings."""

    @property
    def clip_stride_s(self) -> float:
        """Seconds between the starts of two windows."""
        return self.spectrogram.clip_s if self.stride_s is None else self.stride_s

    @property
    def shortest_clip_s(self) -> float:
        """Shortest audio in a slice, in seconds."""
        if self.tail is not Tail.pad:
            return self.spectrogram.clip_s
        return 0.9 * self.spectrogram.clip_s if self.min_clip_s is None else self.min_clip_s


@dataclasses.dataclass
class MergeConfig:
    """Where the dataset goes; everything else is in the parts."""

    out: str = MISSING
    """The dataset folder to make. Its parts are in `<out>.parts`, unless other folders are named."""
    overwrite: bool = False
    """Replace a dataset that was made with other settings."""
    push_to_hub: str | None = None
    """Repository to upload the finished dataset to, `user/name`."""
    push_page: bool = False
    """Whether `push_to_hub` uploads the page as well, with its sounds."""
    private: bool = False
    """Whether a repository that `push_to_hub` makes is private."""


@dataclasses.dataclass
class PageConfig:
    """Which dataset gets a page, and how large it is."""

    out: str = MISSING
    """The finished dataset folder; its `index.html` is written anew."""
    page_slices: int = 200
    """Most slices with image and sound on the page, evenly spread over the tracks."""
    page_audio: bool = False
    """Whether the page also plays the same seconds of the audio files, beside the sound of the images."""
    page_mb: float = 30.0
    """Most megabytes of the page with its images and sounds; it has fewer slices if need be."""
    num_workers: int | None = None
    """Number of threads; null is one for each available core."""


def check_page(config: PrepareConfig | PageConfig) -> None:
    """Check the size of the dataset page.

    Raises:
        InputError: With the first key whose value cannot be used.
    """
    if config.page_slices < 0:
        raise InputError(f"page_slices={config.page_slices}: give 0 or more")
    if not (math.isfinite(config.page_mb) and config.page_mb > 0):
        raise InputError(f"page_mb={config.page_mb}: give a number of megabytes above 0")


def check_prepare(config: PrepareConfig) -> None:
    """Check what the types alone cannot.

    Raises:
        InputError: With the first key whose value cannot be used.
    """
    if is_url(config.out):
        _check_remote_out(config)
    if config.captions is CaptionSource.review and config.table is not None:
        refuse_url("table=", config.table, "captions=review writes this table")
    clip_s = config.spectrogram.clip_s
    if config.stride_s is not None and not (math.isfinite(config.stride_s) and config.stride_s >= 0.01):
        raise InputError(f"stride_s={config.stride_s}: give a number of seconds, 0.01 or more")
    if config.min_clip_s is not None and not 0 < config.min_clip_s <= clip_s:
        raise InputError(
            f"min_clip_s={config.min_clip_s}: give a number of seconds above 0, up to the clip's {clip_s:.2f} s"
        )
    if config.min_clip_s is not None and config.tail is not Tail.pad:
        tail = config.tail.value
        raise InputError(
            f"min_clip_s= has no effect with tail={tail}, which keeps full clips only; leave out one of them"
        )
    for key in ("validation_ratio", "test_ratio"):
        if not 0 <= getattr(config, key) < 1:
            raise InputError(f"{key}={getattr(config, key)}: give a share from 0 to below 1")
    if config.validation_ratio + config.test_ratio >= 1:
        raise InputError("validation_ratio and test_ratio leave nothing to train on; their sum must be below 1")
    if config.peak_ceiling_dbfs > 0:
        raise InputError(f"peak_ceiling_dbfs={config.peak_ceiling_dbfs}: a peak above 0 dBFS clips; use 0 or below")
    if config.target_lufs is not None and not -70 <= config.target_lufs <= 0:
        raise InputError(f"target_lufs={config.target_lufs}: give a number from -70 to 0, or null")
    if config.num_workers is not None and config.num_workers < 0:
        raise InputError(f"num_workers={config.num_workers}: give 0 or more, or null for one per core")
    if config.engine is Engine.ray and config.num_workers == 0:
        raise InputError("num_workers=0 uses this process; with engine=ray give 1 or more, or null for all cores")
    if config.ray_address is not None and config.engine is not Engine.ray:
        raise InputError(f"ray_address={config.ray_address} has no effect without engine=ray")
    if config.shard_size_mb < 1:
        raise InputError(f"shard_size_mb={config.shard_size_mb}: give 1 or more")
    if config.captions is CaptionSource.sidecar and config.table is not None:
        raise InputError("captions=sidecar reads no table; leave out table= or say captions=table")
    if not 0.7 <= config.near_duplicate_similarity <= 1:
        raise InputError(f"near_duplicate_similarity={config.near_duplicate_similarity}: give a number from 0.7 to 1")
    if config.max_clipped is not None and not 0 <= config.max_clipped < 1:
        raise InputError(f"max_clipped={config.max_clipped}: give a share from 0 to below 1, or null")
    if config.listen_patches < 1:
        raise InputError(f"listen_patches={config.listen_patches}: give 1 or more")
    if config.captions is CaptionSource.listen and config.default_caption is not None:
        raise InputError(
            "default_caption= has no effect with captions=listen, which captions every track; leave out one"
        )
    check_page(config)
    _check_captioner(config)
    if config.random_crops < 0:
        raise InputError(f"random_crops={config.random_crops}: give 0 or more")
    if config.max_slices_per_track is not None and config.max_slices_per_track < 1:
        raise InputError(f"max_slices_per_track={config.max_slices_per_track}: give 1 or more, or null")
    if not (math.isfinite(config.balance_ratio) and config.balance_ratio >= 1):
        raise InputError(f"balance_ratio={config.balance_ratio}: give 1 or more")
    if config.template_use is TemplateUse.add and config.caption_template is None:
        raise InputError("template_use=add needs a caption_template=")
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", config.license):
        raise InputError(f"license={config.license}: write it as the Hub does, such as cc-by-4.0 or cc0-1.0, or other")
    if config.language is not None and not re.fullmatch(r"[a-z]{2,3}(-[A-Za-z0-9]+)?", config.language):
        raise InputError(f"language={config.language}: write its code as the Hub does, such as en or de, or null")
    if config.part is not None:
        parse_part(config.part)
        if config.push_to_hub is not None:
            raise InputError(
                "push_to_hub= with part=: a part is not a dataset; riffusion prepare merge pushes the whole"
            )


def _check_remote_out(config: PrepareConfig) -> None:
    kind = config.out.partition("://")[0].lower()
    if kind in _READ_ONLY:
        raise InputError(f"out={config.out}: {kind} addresses are only read; {_READ_ONLY[kind]}")
    refused = {
        "part=": (config.part is not None, "array jobs share a disk; give a folder, or use engine=ray"),
        "push_to_hub=": (config.push_to_hub is not None, "give a folder, or leave one of the two out"),
        "push_page=": (config.push_page, "the page of a dataset in a store is not written; leave it out"),
        "page_audio=": (config.page_audio, "the page of a dataset in a store is not written; leave it out"),
        "writer=folder": (config.writer is Writer.folder, "it writes a file for each image; use parquet or webdataset"),
        "captions=review": (
            config.captions is CaptionSource.review and config.table is None,
            "name the table to write on this machine with table=",
        ),
    }
    for key, (is_asked, fix) in refused.items():
        if is_asked:
            raise InputError(f"{key} does not go with a URL, out={config.out}; {fix}")


def _check_captioner(config: PrepareConfig) -> None:
    if config.captioner_key_env is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", config.captioner_key_env):
        raise InputError("captioner_key_env= takes the name of an environment variable, such as CAPTIONER_API_KEY")
    if config.captioner_batch_size < 1:
        raise InputError(f"captioner_batch_size={config.captioner_batch_size}: give 1 or more")
    if config.captioner_s is not None and not (math.isfinite(config.captioner_s) and config.captioner_s >= 1):
        raise InputError(f"captioner_s={config.captioner_s}: give a number of seconds, 1 or more, or null")
    if config.captioner is not None and config.captions is CaptionSource.review:
        raise InputError("captions=review with captioner=: make the dataset, and edit its captions on the dataset page")


def parse_part(text: str) -> tuple[int, int]:
    """Return number and count of `part=3/8`: (3, 8).

    Raises:
        InputError: If it cannot be parsed.
    """
    match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
    number, count = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= number <= count:
        raise InputError(f"part={text}: write number and count, from 1/8 to 8/8")
    return number, count
