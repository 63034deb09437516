"""Which settings a dataset was made with, and the refusal to mix two."""

import dataclasses
import enum
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_prep.hub import PREFIX
from data_prep.measuring import parse_attributes
from data_prep.places import is_url
from data_prep.work import CutParameters
from riffusion_train.config.errors import InputError
from riffusion_train.config.prepare import CaptionSource, Duplicates, PrepareConfig
from riffusion_train.config.spectrogram import to_data

_FREE = ("out", "num_workers", "engine", "ray_address", "dry_run", "overwrite", "spectrogram")
"""Keys that do not change the dataset, and the one that is listed field by field."""


def make_cut_parameters(config: PrepareConfig) -> CutParameters:
    """Return the part of a config that decides what the slices of an audio file are."""
    return CutParameters(
        spectrogram=config.spectrogram,
        stride_s=config.clip_stride_s,
        shortest_s=config.shortest_clip_s,
        silence_dbfs=config.silence_dbfs,
        target_lufs=config.target_lufs,
        peak_ceiling_dbfs=config.peak_ceiling_dbfs,
        measure=parse_attributes(config.measure),
        tags=config.captions is CaptionSource.tags,
        acoustic=config.near_duplicates is not Duplicates.off,
        windows=config.windows,
        tail=config.tail,
        skip_silence=config.skip_silence,
        random_crops=config.random_crops,
        most_slices=config.max_slices_per_track,
        seed=config.seed if config.random_crops else 0,
        remove_dc=config.remove_dc,
    )


def cut_data(cut: CutParameters) -> dict[str, Any]:
    """Return the JSON-ready form of the cutting parameters."""
    fields = {field.name: _plain(getattr(cut, field.name)) for field in dataclasses.fields(cut)}
    return fields | {"spectrogram": to_data(cut.spectrogram)}


def parameters_of(config: PrepareConfig) -> dict[str, Any]:
    """Return every setting that the dataset depends on, by its key on the command line."""
    plain = {
        field.name: _plain(getattr(config, field.name))
        for field in dataclasses.fields(config)
        if field.name not in _FREE
    }
    codec = to_data(config.spectrogram)["spectrogram"]
    return plain | {"audio": _absolute(config.audio)} | {f"spectrogram.{key}": codec[key] for key in codec}


def refuse_differences(made: Mapping[str, Any], asked: Mapping[str, Any], where: Path) -> None:
    """Refuse to go on with other settings than a dataset was begun with.

    Raises:
        InputError: Naming the first keys that differ, with both values.
    """
    defaults = {field.name: _plain(field.default) for field in dataclasses.fields(PrepareConfig)}
    made = {**defaults, **made}  # what an older version did not know, it did not change
    differing = [key for key in {**made, **asked} if key in asked and made.get(key) != asked[key]]
    if not differing:
        return
    shown = ", ".join(f"{key}={_typed(made.get(key))} (now {_typed(asked[key])})" for key in differing[:3])
    more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
    raise InputError(f"{where} was made with {shown}{more}; choose another out=, or replace it with overwrite=true")


def read_parameters(path: Path) -> dict[str, Any] | None:
    """Read the settings of an unfinished run; None where there are none."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None


def _absolute(audio: str) -> str:
    return audio if is_url(audio) or audio.startswith(PREFIX) else str(Path(audio).resolve())


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, enum.Enum) else value


def _typed(value: Any) -> str:
    return "null" if value is None else str(value)
