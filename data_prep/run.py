"""Which settings a dataset was made with, and the refusal to mix two."""

import dataclasses
import enum
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep.inputs.fetch import PREFIX
from data_prep.inputs.storage import is_url
from data_prep.tracks.measuring import parse_attributes
from data_prep.tracks.track_worker import CutParameters
from riffusion_train.config.prepare import CaptionSource, Duplicates, PrepareConfig
from riffusion_train.config.spectrogram import to_data
from riffusion_train.runtime.errors import InputError

_RUNNING = ("num_workers", "engine", "ray_address", "dry_run", "overwrite", "push_to_hub", "private", "part")
_FREE = ("out", *_RUNNING, "license", "spectrogram")
"""Keys that do not change the dataset, one that changes its card alone, and the one that is listed field by field."""
_MEND = "choose another out=, or replace it with overwrite=true"


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


def command_line(words: Sequence[str], out: Path) -> str:
    """Return the command for the card: the words that decide what the dataset is, and the folder's name.

    It is the same for any number of workers, parts and places.
    """
    left_out = tuple(f"{key}=" for key in ("out", *_RUNNING))
    told = [word for word in words if not word.startswith(left_out)]
    return shlex.join(["riffusion", "prepare", *told, f"out={out.name}"])


def refuse_differences(made: Mapping[str, Any], asked: Mapping[str, Any], where: Path, mend: str = _MEND) -> None:
    """Refuse to go on with other settings than a dataset was begun with.

    Args:
        made: The settings that it was begun with.
        asked: The settings now.
        where: What was begun.
        mend: What to do, for the message.

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
    raise InputError(f"{where} was made with {shown}{more}; {mend}")


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
