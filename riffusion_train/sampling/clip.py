"""Generated clips: image, sound and the record of how they were made, in memory or on disk, and their files."""

import base64
import contextlib
import dataclasses
import enum
import html
import json
import re
import tempfile
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from riffusion_train.audio.codec import EncodedClip
from riffusion_train.audio.image_file import load_image, save_image
from riffusion_train.audio.loudness import LoudnessMeter, loudness_gain
from riffusion_train.audio.marking import XMP_TEXT, Mark, encode_image
from riffusion_train.audio.write import FORMATS, AudioWriter, encode_audio, read_tags, write_audio
from riffusion_train.config.compose import describe
from riffusion_train.config.denoising import USUAL, GuidanceName, SchedulerName, TimestepSpacing
from riffusion_train.config.sample import Dtype
from riffusion_train.config.spectrogram import Quality, SpectrogramConfig
from riffusion_train.runtime.errors import InputError
from riffusion_train.runtime.files import slug, write_json
from riffusion_train.sampling.modes import REQUESTS
from riffusion_train.sampling.modes.base import Request

RECORD_KEY = "riffusion"
"""Name of the record's text in the PNG; the audio file has it as a comment."""

_SLUG_LENGTH = 40

SCHEMA_VERSION = 4
"""Of a clip's record. 2 is version 0.1.0: `lane`, `energy`, and fewer options of the sampler. 3 has no options of guidance
besides its strength, and not where the steps are."""


@dataclasses.dataclass(frozen=True)
class SamplerRecord:
    """Every option of the sampler that can change a clip, and the identity of its model."""

    num_inference_steps: int
    scheduler: SchedulerName
    timesteps: TimestepSpacing
    guidance: GuidanceName
    guidance_interval: tuple[float, float]
    guidance_rescale: float
    apg_momentum: float
    apg_norm_threshold: float
    apg_eta: float
    guide: str | None
    """Where the weaker model of autoguidance came from."""
    guide_fingerprint: str | None
    quality: Quality
    target_lufs: float | None
    unet_batch_size: int
    dtype: Dtype
    channels_last: bool
    compile: bool
    attention_slicing: bool
    device: str | None
    """Its kind: `cpu`, `cuda` or `mps`; None in the records of 0.1.0."""
    model: str
    model_fingerprint: str
    dataset_fingerprint: str | None
    """Of the dataset that the model was trained on; None where the model, or an older record, does not say."""
    loras: tuple[str, ...]
    assumed_spectrogram: bool
    """Whether the model had no `spectrogram.json`."""


@dataclasses.dataclass(frozen=True)
class ClipRecord:
    """Everything that decides what a clip sounds like, besides the model's weights."""

    request: Request
    sampler: SamplerRecord

    @property
    def prompt(self) -> str:
        """The prompt; empty if there was none."""
        return self.request.prompt

    @property
    def mark(self) -> Mark:
        """What says in the clip's files that a model made them, and which."""
        own = self.sampler
        return Mark.of(own.model, own.model_fingerprint, own.dataset_fingerprint)

    def as_data(self) -> dict[str, Any]:
        """Return the JSON-ready form: the fields of the request and of the sampler side by side."""
        fields = {**dataclasses.asdict(self.request), **dataclasses.asdict(self.sampler)}
        plain = {name: _plain(value) for name, value in fields.items()}
        return {"schema_version": SCHEMA_VERSION, "mode": self.request.mode, **plain}

    def as_text(self) -> str:
        """Return the JSON on one line."""
        return json.dumps(self.as_data(), ensure_ascii=False)

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> "ClipRecord":
        """Build a record from its JSON form.

        Raises:
            KeyError, TypeError, ValueError: If it is not one.
        """
        version = data["schema_version"]
        if version not in (2, 3, SCHEMA_VERSION):
            raise ValueError("another schema")
        if version == 2:
            data = _from_schema_2(data)
        if version != SCHEMA_VERSION:
            data = _from_schema_3(data)
        data = {"dataset_fingerprint": None, **data}  # which the first records of this schema do not have
        return cls(_build(REQUESTS[data["mode"]], data), _build(SamplerRecord, data))

    def check(self, file: str | Path, options: Mapping[str, Any]) -> None:
        """Check that options agree with those that the clip was made with, so that none is silently ignored.

        Args:
            file: The clip's file, for the message.
            options: Values by the names of the record's fields.

        Raises:
            InputError: For the first that differs, with both values.
        """
        recorded = self.as_data()
        for name, value in options.items():
            if name not in recorded:
                raise InputError(f"{file}: {name}= has no effect when this clip is made again; leave it out")
            if _plain(value) != _plain(recorded[name]):
                made_with = f"{name}={describe(recorded[name])}"
                raise InputError(
                    f"{file}: was made with {made_with}, not {name}={describe(value)}; the same clip needs {made_with}"
                )


def load_record(path: Path) -> ClipRecord:
    """Read the record of a clip from its `.json`, its `.png` or its audio file.

    Raises:
        InputError: If the file holds none.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; give the .json, .png or audio file that sample wrote")
    try:
        return ClipRecord.from_data(json.loads(_record_text(path)))
    except (ValueError, TypeError, KeyError, AttributeError):
        raise InputError(f"{path}: holds no settings of a generated clip; give a file that sample wrote") from None


def audio_file_of(path: Path) -> Path | None:
    """Return the audio file of the clip that a file belongs to: itself, or the one beside a `.json` or `.png`."""
    beside = (path.with_suffix(suffix) for suffix in FORMATS)
    return path if path.suffix in FORMATS else next((file for file in beside if file.is_file()), None)


@contextlib.contextmanager
def new_stem(folder: Path, request: Request) -> Iterator[Path]:
    """Give the path, without suffix, of a new clip in a folder: number, mode, start of the prompt, seed.

    The number is one higher than that of any clip in the folder. It is claimed by a hidden file for the length of the block,
    so that two processes never write the same clip.

    Args:
        folder: The folder; it is made if it does not exist.
        request: What the clip is made from.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{request.mode}-{slug(request.prompt, _SLUG_LENGTH) or 'empty'}-seed{request.seed}"
    number = 0
    while True:
        # Files are listed after the claim as well: another process may have finished this number in between.
        number = max([number, *(taken + 1 for taken in _numbers(folder))])
        claim = folder / f".{number:04d}.partial"
        try:
            claim.open("x").close()
        except FileExistsError:
            number += 1
            continue
        if number not in _numbers(folder):
            break
        claim.unlink()
    try:
        yield folder / f"{number:04d}-{name}"
    finally:
        claim.unlink(missing_ok=True)


def _numbers(folder: Path) -> set[int]:
    """Return the numbers of the clips in a folder."""
    matches = (re.match(r"(\d{4,})-", path.name) for path in folder.iterdir())
    return {int(match[1]) for match in matches if match}


def _record_text(path: Path) -> str:
    if path.suffix == ".json":
        return path.read_text(encoding="utf-8")
    if path.suffix == ".png":
        return load_image(path).texts.get(RECORD_KEY, "")
    if path.suffix in FORMATS:
        return read_tags(path).get("comment", "")
    raise InputError(f"{path}: give the .json, .png or audio file that sample wrote")


def _from_schema_2(data: dict[str, Any]) -> dict[str, Any]:
    """Return a record of version 0.1.0 with the present names; it did not hold the options that are False and None here."""
    unrecorded = {"channels_last": False, "compile": False, "attention_slicing": False, "device": None}
    return {**data, **unrecorded, "unet_batch_size": data["lane"], "volume": data.get("energy", ())}


def _from_schema_3(data: dict[str, Any]) -> dict[str, Any]:
    """Return a record with the options that sampling did not have yet, at the values that make the same clip."""
    karras = data["scheduler"] in (SchedulerName.dpmsolver.value, SchedulerName.unipc.value)
    spacing = TimestepSpacing.karras if karras else TimestepSpacing.model
    options = {name: _plain(USUAL[name]) for name in USUAL if name.startswith(("guidance", "apg_"))}
    return {**options, "timesteps": spacing.value, "guide": None, "guide_fingerprint": None, **data}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    return value.value if isinstance(value, enum.Enum) else value


def _build(kind: type[Any], data: dict[str, Any]) -> Any:
    """Build a dataclass of plain values, enums, tuples and dataclasses from JSON, which has lists and objects."""
    hints = typing.get_type_hints(kind)
    return kind(**{field.name: _value(hints[field.name], data[field.name]) for field in dataclasses.fields(kind)})


def _value(kind: Any, value: Any) -> Any:
    if value is None:
        return None
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        kind = next(one for one in typing.get_args(kind) if one is not type(None))
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _build(kind, value)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return kind(value)
    if isinstance(value, list):
        return tuple(_value(None, one) for one in value)
    return value


@dataclasses.dataclass(frozen=True)
class Clip:
    """One generated clip."""

    image: np.ndarray
    """uint8 (n_mels, width) for mono, (n_mels, width, 3) for stereo."""
    audio: np.ndarray
    """float32 (channels, samples) in [-1, 1], at its loudness."""
    spectrogram: SpectrogramConfig
    """The codec between the two."""
    record: ClipRecord
    """How it was made."""

    @property
    def rate_hz(self) -> int:
        """Sample rate of the audio."""
        return self.spectrogram.rate_hz

    def save(self, stem: str | Path, audio_format: str = "wav") -> list[Path]:
        """Write `<stem>.<audio_format>`, `<stem>.png` and `<stem>.json`, each with the record. Returns the paths."""
        stem = Path(stem)
        stem.parent.mkdir(parents=True, exist_ok=True)
        paths = [stem.with_name(f"{stem.name}.{kind}") for kind in (audio_format, "png", "json")]
        write_audio(paths[0], self.audio, self.rate_hz, tags=_tags(self.record), mark=self.record.mark)
        save_image(paths[1], EncodedClip(self.image, 0.0), self.spectrogram, _texts(self.record))
        write_json(paths[2], self.record.as_data())
        return paths

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the image, the sound and how it was made."""
        return _html(self.image, self.audio, self.rate_hz, self.record)


def _tags(record: ClipRecord) -> dict[str, str]:
    """Return the tags of an audio file."""
    return {"title": record.request.prompt, "comment": record.as_text()}


def _texts(record: ClipRecord) -> dict[str, str]:
    """Return the texts of an image file."""
    return {RECORD_KEY: record.as_text(), XMP_TEXT: record.mark.xmp()}


def _html(image: np.ndarray, audio: np.ndarray, rate_hz: int, record: ClipRecord) -> str:
    """Return an image, a sound (channels, samples) and how they were made as HTML that needs no other file."""
    png = encode_image(PIL.Image.fromarray(image), "PNG", record.mark)
    parts = [base64.b64encode(data).decode() for data in (png, encode_audio(audio, rate_hz, "wav", record.mark))]
    request = record.request
    caption = html.escape(f"{request.mode}: {request.prompt or 'no prompt'}, seed {request.seed}")
    return (
        f'<figure style="margin:0"><img alt="" style="max-width:100%;height:14rem" src="data:image/png;base64,{parts[0]}"><br>'
        f'<audio controls src="data:audio/wav;base64,{parts[1]}"></audio><figcaption>{caption}</figcaption></figure>'
    )


_BLOCK = 1 << 16
"""Rows of a spool that are in memory at once."""

_MAX_WIDTH_PX = 16384
"""Wider images are saved in parts, which `riffusion spectrogram decode` joins again."""

_SLICE_KEY = "slice"


class Spool:
    """An array on disk that grows along time: columns of an image, or samples of a sound, one after the other.

    Args:
        path: The file.
        shape: Shape of one column or sample.
        dtype: Type of its numbers.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: type) -> None:
        self._path, self._shape, self._dtype = path, shape, np.dtype(dtype)
        self.length = 0

    def append(self, rows: np.ndarray) -> None:
        """Add the next rows, (n, *shape)."""
        with self._path.open("ab") as file:
            file.write(np.ascontiguousarray(rows, self._dtype).tobytes())
        self.length += len(rows)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return the rows from `start` to `stop`, (n, *shape)."""
        size = int(np.prod(self._shape))
        count = max(min(stop, self.length) - start, 0)
        values = np.fromfile(self._path, self._dtype, count * size, offset=start * size * self._dtype.itemsize)
        return values.reshape(-1, *self._shape)

    def blocks(self, size: int = _BLOCK) -> Iterator[np.ndarray]:
        """Yield all rows, `size` at a time."""
        for start in range(0, self.length, size):
            yield self.read(start, start + size)


class Recording:
    """Columns of an image and samples of a sound on disk, in a temporary folder that goes with this object.

    Args:
        column_shape: Shape of a column of the image, (n_mels,) or (n_mels, 3).
        channels: Channels of the sound.
        rate_hz: Sample rate of the sound.
    """

    def __init__(self, column_shape: tuple[int, ...], channels: int, rate_hz: int) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="riffusion-")
        self.columns = Spool(Path(self._folder.name, "columns"), column_shape, np.uint8)
        self.samples = Spool(Path(self._folder.name, "samples"), (channels,), np.float32)
        self.meter = LoudnessMeter(rate_hz, channels)


def record(
    chunks: Iterable[tuple[np.ndarray | None, np.ndarray]], column_shape: tuple[int, ...], channels: int, rate_hz: int
) -> Recording:
    """Write a sound to disk as it is made.

    Args:
        chunks: The image's next columns, (n_mels, n) or (n_mels, n, 3) or None, with the sound's next samples, (channels, m).
        column_shape: Shape of a column of the image.
        channels: Channels of the sound.
        rate_hz: Sample rate of the sound.
    """
    recording = Recording(column_shape, channels, rate_hz)
    for image, wav in chunks:
        if image is not None:
            recording.columns.append(image.swapaxes(0, 1))
        recording.samples.append(wav.T)
        recording.meter.push(wav)
    return recording


class StreamedClip:
    """A clip whose image and sound are on disk until it is saved; `image` and `audio` read them whole.

    Args:
        recording: The image and the sound.
        spectrogram: The codec.
        clip_record: How the clip was made.
        target_lufs: The loudness to bring it to; None keeps the level.
        ceiling_dbtp: Highest true peak.
    """

    def __init__(
        self,
        recording: Recording,
        spectrogram: SpectrogramConfig,
        clip_record: ClipRecord,
        *,
        target_lufs: float | None,
        ceiling_dbtp: float,
    ) -> None:
        self.spectrogram = spectrogram
        self.record = clip_record
        self.gain = loudness_gain(*recording.meter.finish(), target_lufs, ceiling_dbtp)
        self._recording = recording

    @property
    def rate_hz(self) -> int:
        """Sample rate of the audio."""
        return self.spectrogram.rate_hz

    @property
    def image(self) -> np.ndarray:
        """The whole image, read from disk."""
        return self._recording.columns.read(0, self._recording.columns.length).swapaxes(0, 1)

    @property
    def audio(self) -> np.ndarray:
        """The whole sound, read from disk: float32 (channels, samples)."""
        return np.ascontiguousarray(self._recording.samples.read(0, self._recording.samples.length).T) * np.float32(
            self.gain
        )

    @property
    def duration_s(self) -> float:
        """Duration of the sound."""
        return self._recording.samples.length / self.rate_hz

    def save(self, stem: str | Path, audio_format: str = "wav") -> list[Path]:
        """Write the files of the clip as `Clip.save` does, block by block; a very wide image becomes several."""
        stem = Path(stem)
        stem.parent.mkdir(parents=True, exist_ok=True)
        audio, data = (stem.with_name(f"{stem.name}.{kind}") for kind in (audio_format, "json"))
        channels = self._recording.samples.read(0, 1).shape[1]
        with AudioWriter(audio, self.rate_hz, channels, _tags(self.record), mark=self.record.mark) as writer:
            for rows in self._recording.samples.blocks():
                writer.write(rows.T * np.float32(self.gain))
        images = list(self._save_images(stem))
        write_json(data, self.record.as_data())
        return [audio, *images, data]

    def _save_images(self, stem: Path) -> Iterator[Path]:
        width = self._recording.columns.length
        count = -(-width // _MAX_WIDTH_PX)
        for index in range(count):
            texts = _texts(self.record)
            start = index * _MAX_WIDTH_PX
            if count > 1:
                part = {"index": index, "count": count, "start_px": start, "strip_px": width, "source": stem.name}
                texts[_SLICE_KEY] = json.dumps(part)
            path = stem.with_name(f"{stem.name}-{index:03d}.png" if count > 1 else f"{stem.name}.png")
            image = np.ascontiguousarray(self._recording.columns.read(start, start + _MAX_WIDTH_PX).swapaxes(0, 1))
            save_image(path, EncodedClip(image, 0.0), self.spectrogram, texts)
            yield path

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the first minute."""
        rows = self._recording.samples.read(0, 60 * self.rate_hz).T * np.float32(self.gain)
        image = np.ascontiguousarray(self._recording.columns.read(0, 4096).swapaxes(0, 1))
        return _html(image, rows, self.rate_hz, self.record)
