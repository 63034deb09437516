"""One run of `prepare`: its config, sources and settings, and the check that two runs have the same settings."""

import dataclasses
import enum
import functools
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep.inputs.fetch import PREFIX
from data_prep.inputs.tracks import Sources
from data_prep.tracks.track_worker import CutParameters
from riffusion_train.config.prepare import PrepareConfig
from riffusion_train.config.spectrogram import to_data
from riffusion_train.runtime.errors import InputError
from riffusion_train.runtime.files import is_url

_HOW_IT_RUNS = (
    *("num_workers", "engine", "ray_address", "dry_run", "overwrite", "push_to_hub", "private", "part"),
    *("page", "page_slices", "page_audio", "page_mb", "push_page", "captioner_key_env", "captioner_batch_size"),
)
_NOT_SETTINGS = ("out", *_HOW_IT_RUNS, "license", "language", "spectrogram")
"""Keys that do not change the dataset, two that change its card only, and the one that is listed field by field."""
_READ_BEFORE_CUTTING = {"auto", "sidecar", "table", "review", "listen"}
"""Sources of captions that leave the slices as they are: what is heard for them is stored beside."""
_FIX = "choose another out=, or replace it with overwrite=true"


@dataclasses.dataclass(frozen=True)
class PrepareRun:
    """What a run makes a dataset of, and with which settings."""

    config: PrepareConfig
    sources: Sources
    parameters: dict[str, Any]
    """Every setting that the dataset depends on, by its key on the command line, as `stats.json` records it."""
    digest: str
    """Hash of all sources as they were found, before captions were composed."""
    arguments: tuple[str, ...] = ()
    """The command line after the verb, for the card; empty when called from Python."""

    @property
    def out(self) -> Path:
        """The dataset folder."""
        return Path(self.config.out)

    @functools.cached_property
    def cut(self) -> CutParameters:
        """The cutting parameters."""
        return CutParameters.from_config(self.config)

    @functools.cached_property
    def key(self) -> str:
        """Key of the cutting parameters."""
        return self.cut.key

    @property
    def command(self) -> str:
        """The command for the card; empty when called from Python."""
        return command_line(self.arguments, self.out) if self.arguments else ""


def make_run(config: PrepareConfig, sources: Sources, arguments: Sequence[str] = ()) -> PrepareRun:
    """Build the run of a config."""
    return PrepareRun(config, sources, parameters_of(config), sources.digest(), tuple(arguments))


def parameters_of(config: PrepareConfig) -> dict[str, Any]:
    """Return every setting that the dataset depends on, by its key on the command line."""
    plain = {
        field.name: _plain(getattr(config, field.name))
        for field in dataclasses.fields(config)
        if field.name not in _NOT_SETTINGS
    }
    codec = to_data(config.spectrogram)["spectrogram"]
    return plain | {"audio": _absolute(config.audio)} | {f"spectrogram.{key}": codec[key] for key in codec}


def command_line(arguments: Sequence[str], out: Path) -> str:
    """Return the command for the card: the arguments that decide what the dataset is, and the name of its folder.

    It is the same for any number of workers and parts, and wherever the folder is.
    """
    left_out = tuple(f"{key}=" for key in ("out", *_HOW_IT_RUNS))
    shown = [argument for argument in arguments if not argument.startswith(left_out)]
    return shlex.join(["riffusion", "prepare", *shown, f"out={out.name}"])


def refuse_differences(made: Mapping[str, Any], asked: Mapping[str, Any], where: Path, fix: str = _FIX) -> None:
    """Refuse to continue a dataset with other settings than it was begun with.

    Args:
        made: The settings that it was begun with.
        asked: The settings now.
        where: Its folder.
        fix: What to do, for the message.

    Raises:
        InputError: Naming the first keys that differ, with both values.
    """
    defaults = {field.name: _plain(field.default) for field in dataclasses.fields(PrepareConfig)}
    made = {**defaults, **made}  # a setting that an older version did not have was at its default
    differing = [key for key in {**made, **asked} if key in asked and made.get(key) != asked[key]]
    if not differing:
        return
    shown = ", ".join(f"{key}={_typed(made.get(key))} (now {_typed(asked[key])})" for key in differing[:3])
    more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
    raise InputError(f"{where} was made with {shown}{more}; {fix}")


def with_new_table(made: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a finished dataset, except that a table of captions that is named now may be another one.

    Captions are then written anew, and no audio is decoded: `captions.csv` of the dataset page comes back in this way. The
    source of the captions may change with it as long as the audio is cut in the same manner.
    """
    replaced = ["table"] if asked.get("table") is not None else []
    if replaced and {made.get("captions"), asked.get("captions")} <= _READ_BEFORE_CUTTING:
        replaced.append("captions")
    return {**made, **{key: asked[key] for key in replaced}}


def read_parameters(path: Path) -> dict[str, Any] | None:
    """Read the settings of an unfinished run; None if there are none."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None


def _absolute(audio: str) -> str:
    return audio if is_url(audio) or audio.startswith(PREFIX) else str(Path(audio).resolve())


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, enum.Enum) else value


def _typed(value: Any) -> str:
    """Return a value as the user would type it."""
    return "null" if value is None else str(value)
