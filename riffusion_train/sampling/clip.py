"""Generated clips: image, sound and the record of how they were made, in memory or on disk, and their files."""

import base64
import dataclasses
import html
import io
import json
import tempfile
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from riffusion_train.audio.codec.codec import EncodedClip
from riffusion_train.audio.codec.image_file import save_image
from riffusion_train.audio.io.loudness import LoudnessMeter, loudness_gain
from riffusion_train.audio.io.write import AudioWriter, write_audio
from riffusion_train.config.spectrogram import SpectrogramConfig
from riffusion_train.runtime.errors import InputError
from riffusion_train.sampling.requests import REQUESTS, Request

SETTINGS_KEY = "riffusion"
"""Name under which the settings travel inside the PNG and the audio file."""

SCHEMA_VERSION = 3
"""Of a clip's record. 2 is version 0.1.0: `lane`, `energy`, and fewer options of the sampler."""
_AUDIO_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".opus")


@dataclasses.dataclass(frozen=True)
class SamplerSettings:
    """What a sampler was told, whatever was asked of it."""

    num_inference_steps: int
    scheduler: str
    quality: str
    target_lufs: float | None
    unet_batch_size: int
    dtype: str
    channels_last: bool
    compile: bool
    attention_slicing: bool
    device: str | None
    model: str
    model_fingerprint: str
    loras: tuple[str, ...]
    assumed_spectrogram: bool
    """True where the model did not say what its pictures mean."""


@dataclasses.dataclass(frozen=True)
class ClipRecord:
    """Everything that decides what a clip sounds like, besides the model's weights."""

    request: Request
    sampler: SamplerSettings

    @property
    def prompt(self) -> str:
        """The prompt, empty where there was none."""
        return self.request.prompt

    def as_data(self) -> dict[str, Any]:
        """Return the JSON-ready form: the request's fields and the sampler's side by side."""
        return {
            "schema_version": SCHEMA_VERSION,
            "mode": self.request.mode,
            **dataclasses.asdict(self.request),
            **dataclasses.asdict(self.sampler),
        }

    def as_text(self) -> str:
        """Return the JSON in one line."""
        return json.dumps(self.as_data(), ensure_ascii=False)

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> "ClipRecord":
        """Build settings from their JSON form.

        Raises:
            KeyError, TypeError, ValueError: If it is not one.
        """
        if data["schema_version"] == 2:
            data = _from_schema_2(data)
        elif data["schema_version"] != SCHEMA_VERSION:
            raise ValueError("another schema")
        return cls(_built(REQUESTS[data["mode"]], data), _built(SamplerSettings, data))


def _from_schema_2(data: dict[str, Any]) -> dict[str, Any]:
    """Return a record of version 0.1.0 with the present names; it did not hold the options that are False and None here."""
    unrecorded = {"channels_last": False, "compile": False, "attention_slicing": False, "device": None}
    return {**data, **unrecorded, "unet_batch_size": data["lane"], "volume": data.get("energy", ())}


def load_record(path: Path) -> ClipRecord:
    """Read the settings of a clip from its `.json`, its `.png` or its audio file.

    Raises:
        InputError: If the file holds none.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; give the .json, .png or audio file that sample wrote")
    try:
        return ClipRecord.from_data(json.loads(_record_text(path)))
    except (ValueError, TypeError, KeyError, AttributeError):
        raise InputError(f"{path}: holds no settings of a generated clip; give a file that sample wrote") from None


def _record_text(path: Path) -> str:
    if path.suffix == ".json":
        return path.read_text(encoding="utf-8")
    if path.suffix == ".png":
        from riffusion_train.audio.codec.image_file import load_image

        return load_image(path).texts.get(SETTINGS_KEY, "")
    if path.suffix in _AUDIO_SUFFIXES:
        from riffusion_train.audio.io.tags import read_tags

        return read_tags(path).get("comment", "")
    raise InputError(f"{path}: give the .json, .png or audio file that sample wrote")


def _built(kind: type[Any], data: dict[str, Any]) -> Any:
    """Build a dataclass of plain values, tuples and dataclasses from JSON, which knows lists and objects."""
    hints = typing.get_type_hints(kind)
    return kind(**{field.name: _value(hints[field.name], data[field.name]) for field in dataclasses.fields(kind)})


def _value(kind: Any, value: Any) -> Any:
    if value is None:
        return None
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        kind = next(one for one in typing.get_args(kind) if one is not type(None))
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _built(kind, value)
    if isinstance(value, list):
        return tuple(_value(None, one) for one in value)
    return value


@dataclasses.dataclass(frozen=True)
class Clip:
    """One generated clip."""

    image: np.ndarray
    """uint8 (height, width) for mono, (height, width, 3) for stereo."""
    audio: np.ndarray
    """float32 (channels, samples) in [-1, 1], at its loudness."""
    spectrogram: SpectrogramConfig
    """The codec between the two."""
    settings: ClipRecord
    """How it was made."""

    @property
    def rate_hz(self) -> int:
        """Sample rate of the audio."""
        return self.spectrogram.rate_hz

    def save(self, stem: str | Path, audio_format: str = "wav") -> list[Path]:
        """Write `<stem>.<audio_format>`, `<stem>.png` and `<stem>.json`; each holds the settings. Returns the paths."""
        stem = Path(stem)
        stem.parent.mkdir(parents=True, exist_ok=True)
        paths = [stem.with_name(f"{stem.name}.{kind}") for kind in (audio_format, "png", "json")]
        write_audio(paths[0], self.audio, self.rate_hz, tags=tags_of(self.settings))
        texts = {SETTINGS_KEY: self.settings.as_text()}
        save_image(paths[1], EncodedClip(self.image, 0.0), self.spectrogram, texts)
        write_record(paths[2], self.settings)
        return paths

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the picture, the sound and how it was made."""
        return repr_html(self.image, self.audio, self.rate_hz, self.settings)


def tags_of(settings: ClipRecord) -> dict[str, str]:
    """Return the tags of an audio file."""
    return {"title": settings.request.prompt, "comment": settings.as_text()}


def write_record(path: Path, settings: ClipRecord) -> None:
    """Write the settings as JSON."""
    text = json.dumps(settings.as_data(), indent=2, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")


def repr_html(image: np.ndarray, audio: np.ndarray, rate_hz: int, settings: ClipRecord) -> str:
    """Return a picture, a sound (channels, samples) and how they were made as HTML with everything inside."""
    import PIL.Image
    import soundfile

    picture, sound = io.BytesIO(), io.BytesIO()
    PIL.Image.fromarray(image).save(picture, "PNG")
    soundfile.write(sound, audio.T, rate_hz, format="WAV", subtype="PCM_16")
    parts = [base64.b64encode(data.getvalue()).decode() for data in (picture, sound)]
    request = settings.request
    words = html.escape(f"{request.mode}: {request.prompt or 'no prompt'}, seed {request.seed}")
    return (
        f'<figure style="margin:0"><img alt="" style="max-width:100%;height:14rem" src="data:image/png;base64,{parts[0]}"><br>'
        f'<audio controls src="data:audio/wav;base64,{parts[1]}"></audio><figcaption>{words}</figcaption></figure>'
    )


_BLOCK = 1 << 16
_WIDEST_PX = 16384
"""Wider pictures are saved in parts, which `riffusion spectrogram decode` joins again."""

_SLICE_KEY = "slice"


class Spool:
    """An array on disk that grows along time: columns of a picture, or samples of a sound, one after the other.

    Args:
        path: The file.
        shape: Shape of one column or sample.
        dtype: Its numbers.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: type) -> None:
        self._path, self._shape, self._dtype = path, shape, np.dtype(dtype)
        self.length = 0

    def append(self, rows: np.ndarray) -> None:
        """Take the next rows, (n, *shape)."""
        with self._path.open("ab") as file:
            file.write(np.ascontiguousarray(rows, self._dtype).tobytes())
        self.length += len(rows)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return some rows."""
        size = int(np.prod(self._shape))
        count = max(min(stop, self.length) - start, 0)
        found = np.fromfile(self._path, self._dtype, count * size, offset=start * size * self._dtype.itemsize)
        return found.reshape(-1, *self._shape)

    def blocks(self, size: int = _BLOCK) -> Iterator[np.ndarray]:
        """Yield all rows, some at a time."""
        for start in range(0, self.length, size):
            yield self.read(start, start + size)


class StreamedClip(Clip):
    """A clip whose picture and sound lie on disk until it is saved; `image` and `audio` read them whole.

    Args:
        spectrogram: The codec.
        settings: How the clip is made.
        pieces: The sound in order, with the columns of the picture that have come since: (picture, samples).
        target_lufs: The loudness to bring it to; None leaves the level.
        ceiling_dbtp: Highest true peak.
        report: Told the seconds that are done.
    """

    def __init__(
        self,
        spectrogram: SpectrogramConfig,
        settings: ClipRecord,
        pieces: Iterable[tuple[np.ndarray | None, np.ndarray]],
        *,
        target_lufs: float | None,
        ceiling_dbtp: float,
        report: Callable[[float], None] | None = None,
    ) -> None:
        folder = tempfile.TemporaryDirectory(prefix="riffusion-")
        columns: Spool | None = None
        samples: Spool | None = None
        meter: LoudnessMeter | None = None
        for image, wav in pieces:
            if image is not None:
                turned = image.swapaxes(0, 1)
                columns = columns or Spool(Path(folder.name, "columns"), turned.shape[1:], np.uint8)
                columns.append(turned)
            if samples is None or meter is None:
                samples = Spool(Path(folder.name, "samples"), (wav.shape[0],), np.float32)
                meter = LoudnessMeter(spectrogram.rate_hz, wav.shape[0])
            samples.append(wav.T)
            meter.push(wav)
            if report is not None:
                report(samples.length / spectrogram.rate_hz)
        assert columns is not None and samples is not None and meter is not None
        fields = {
            "spectrogram": spectrogram,
            "settings": settings,
            "gain": loudness_gain(*meter.finish(), target_lufs, ceiling_dbtp),
            "columns": columns,
            "samples": samples,
            "_folder": folder,
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    columns: Spool
    samples: Spool
    gain: float

    @property
    def image(self) -> np.ndarray:  # type: ignore[override]
        """The whole picture, read from disk."""
        return self.columns.read(0, self.columns.length).swapaxes(0, 1)

    @property
    def audio(self) -> np.ndarray:  # type: ignore[override]
        """The whole sound, read from disk: float32 (channels, samples)."""
        return np.ascontiguousarray(self.samples.read(0, self.samples.length).T) * np.float32(self.gain)

    @property
    def duration_s(self) -> float:
        """Length of the sound."""
        return self.samples.length / self.rate_hz

    def save(self, stem: str | Path, audio_format: str = "wav") -> list[Path]:
        """Write the files of the clip as `Clip.save` does, block by block; a very wide picture becomes several."""
        stem = Path(stem)
        stem.parent.mkdir(parents=True, exist_ok=True)
        sound = stem.with_name(f"{stem.name}.{audio_format}")
        first = self.samples.read(0, 1)
        with AudioWriter(sound, self.rate_hz, first.shape[1], tags_of(self.settings)) as writer:
            for rows in self.samples.blocks():
                writer.write(rows.T * np.float32(self.gain))
        pictures = list(self._save_pictures(stem))
        write_record(stem.with_name(f"{stem.name}.json"), self.settings)
        return [sound, *pictures, stem.with_name(f"{stem.name}.json")]

    def _save_pictures(self, stem: Path) -> Iterator[Path]:
        import json

        width = self.columns.length
        count = -(-width // _WIDEST_PX)
        for index in range(count):
            texts = {SETTINGS_KEY: self.settings.as_text()}
            start = index * _WIDEST_PX
            if count > 1:
                place = {"index": index, "count": count, "start_px": start, "strip_px": width, "source": stem.name}
                texts[_SLICE_KEY] = json.dumps(place)
            path = stem.with_name(f"{stem.name}-{index:03d}.png" if count > 1 else f"{stem.name}.png")
            part = np.ascontiguousarray(self.columns.read(start, start + _WIDEST_PX).swapaxes(0, 1))
            save_image(path, EncodedClip(part, 0.0), self.spectrogram, texts)
            yield path

    def _repr_html_(self) -> str:
        seconds = 60
        rows = self.samples.read(0, seconds * self.rate_hz).T * np.float32(self.gain)
        part = np.ascontiguousarray(self.columns.read(0, 4096).swapaxes(0, 1))
        return repr_html(part, rows, self.rate_hz, self.settings)
