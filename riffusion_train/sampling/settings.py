"""The settings that decide what a clip sounds like, and reading them back from its files."""

import dataclasses
import json
import types
import typing
from pathlib import Path
from typing import Any

from riffusion_train.runtime.errors import InputError
from riffusion_train.sampling.requests import REQUESTS, Request

SETTINGS_KEY = "riffusion"
"""Name under which the settings travel inside the PNG and the audio file."""

SCHEMA_VERSION = 2
_AUDIO_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".opus")


@dataclasses.dataclass(frozen=True)
class SamplerSettings:
    """What a sampler was told, whatever was asked of it."""

    num_inference_steps: int
    scheduler: str
    quality: str
    target_lufs: float | None
    lane: int
    dtype: str
    model: str
    model_fingerprint: str
    loras: tuple[str, ...]
    assumed_spectrogram: bool
    """True where the model did not say what its pictures mean."""


@dataclasses.dataclass(frozen=True)
class Settings:
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
    def from_data(cls, data: dict[str, Any]) -> "Settings":
        """Build settings from their JSON form.

        Raises:
            KeyError, TypeError, ValueError: If it is not one.
        """
        if data["schema_version"] != SCHEMA_VERSION:
            raise ValueError("another schema")
        return cls(_built(REQUESTS[data["mode"]], data), _built(SamplerSettings, data))


def load_settings(path: Path) -> Settings:
    """Read the settings of a clip from its `.json`, its `.png` or its audio file.

    Raises:
        InputError: If the file holds none.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; give the .json, .png or audio file that sample wrote")
    try:
        return Settings.from_data(json.loads(_text(path)))
    except (ValueError, TypeError, KeyError, AttributeError):
        raise InputError(f"{path}: holds no settings of a generated clip; give a file that sample wrote") from None


def _text(path: Path) -> str:
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
