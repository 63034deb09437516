"""The codec between sound and image: its parameters, their on-disk form `spectrogram.json`, and the commands that use it alone.

The commands are `riffusion spectrogram …` and `riffusion sample seeds`.
"""

import dataclasses
import enum
import json
from pathlib import Path
from typing import Any

from riffusion_train.runtime.errors import InputError
from riffusion_train.runtime.files import write_json

DEFAULT_PRESET = "riffusion_v1"
"""Of commands that are given no model."""
SPECTROGRAM_FILE = "spectrogram.json"
SCHEMA_VERSION = 2
"""Version 1 had no `scale` and no `reference_value`: its images were all scaled to their own maximum."""


class Channels(enum.Enum):
    """How the audio channels map to the colours of the image."""

    mono = "mono"
    """One spectrogram, the same grey in R, G and B."""
    stereo = "stereo"
    """R is empty (0), G is the left channel and B the right one, on one common scale."""
    stereo_phase = "stereo_phase"
    """R is the left channel and G the right one, on one common scale; B is the cosine of the phase between them, 255 for
    in phase (and for silence), 0 for opposite phase."""


class Scale(enum.Enum):
    """What black stands for."""

    per_image = "per_image"
    """The loudest band of the image itself; the true level is kept beside the image."""
    absolute = "absolute"
    """`reference_value`, the same for every image: silence is white and quiet sounds are pale."""


class Rounding(enum.Enum):
    """How a pixel value becomes an integer."""

    truncate = "truncate"
    """Drop the fraction, as the original Riffusion does."""
    nearest = "nearest"
    """Round to the nearest of the 256 levels."""


class Inverter(enum.Enum):
    """How a spectrogram becomes sound."""

    pghi = "pghi"
    """Phase-gradient heap integration, then refinement by the image: the best sound for the time on a CPU."""
    fast_griffin_lim = "fast_griffin_lim"
    """Griffin-Lim with momentum from a random phase, then the same refinement."""
    griffin_lim = "griffin_lim"
    """torchaudio's least squares and Griffin-Lim: the compatible reference, slow."""


class Quality(enum.Enum):
    """How long to search for the phase."""

    draft = "draft"
    normal = "normal"
    best = "best"


@dataclasses.dataclass
class SpectrogramConfig:
    """One codec preset. Image height is `n_mels`, image width `width_px`; a clip has `(width_px - 1) * hop_length` samples."""

    name: str = "riffusion_v1"
    """Name of the preset, for messages and cards."""
    rate_hz: int = 44100
    """Sample rate of the audio."""
    hop_length: int = 441
    """Samples between two columns of the image."""
    win_length: int = 4410
    """Length of the periodic Hann window in samples."""
    n_fft: int = 17640
    """Length of the zero-padded FFT of the analysis, in samples."""
    n_mels: int = 512
    """Number of mel bands, the height of the image in pixels."""
    width_px: int = 512
    """Number of frames in one image, its width in pixels."""
    f_min_hz: float = 0.0
    """Lower edge of the lowest band."""
    f_max_hz: float = 10000.0
    """Upper edge of the highest band."""
    mel_corner_hz: float = 700.0
    """Corner of the warp mel(f) = 2595 log10(1 + f / corner); 700 is the HTK scale."""
    power: float = 0.25
    """Exponent of the level curve: pixel = 255 - 255 (magnitude / reference) ** power."""
    scale: Scale = Scale.per_image
    """What black stands for: the image's own maximum, or `reference_value`."""
    reference_value: float = 10_000_000.0
    """Mel magnitude of black under `scale=absolute`, on the scale of 16-bit samples; louder bands are clipped to it."""
    rounding: Rounding = Rounding.truncate
    """How the pixel value becomes an integer."""
    channels: Channels = Channels.mono
    """How the audio channels map to the colours of the image."""
    decode_rate_hz: int = 22400
    """Sample rate at which the sound is rebuilt, before resampling to `rate_hz`; a hop must be a whole number of samples."""
    decode_n_fft: int = 3360
    """Length of the FFT with which the sound is rebuilt, at `decode_rate_hz`."""

    @property
    def num_channels(self) -> int:
        """Number of audio channels in the image, 1 or 2."""
        return 1 if self.channels is Channels.mono else 2

    @property
    def clip_samples(self) -> int:
        """Number of samples that give exactly `width_px` columns."""
        return (self.width_px - 1) * self.hop_length

    @property
    def clip_s(self) -> float:
        """Duration of one image in seconds."""
        return self.clip_samples / self.rate_hz


_NEW_IN_VERSION_2 = {"scale", "reference_value"}

_ENUMS: dict[str, type[enum.Enum]] = {"rounding": Rounding, "channels": Channels, "scale": Scale}


def to_data(config: SpectrogramConfig) -> dict[str, Any]:
    """Return the JSON-ready form of `config`: its fields and the schema version."""
    fields = {
        name: value.value if isinstance(value, enum.Enum) else value
        for name, value in dataclasses.asdict(config).items()
    }
    return {"schema_version": SCHEMA_VERSION, "spectrogram": fields}


def from_data(data: Any, where: str) -> SpectrogramConfig:
    """Build a config from its JSON form.

    Raises:
        InputError: If the schema is newer than this version knows, or a field is unknown, missing or of another kind.
    """
    if not isinstance(data, dict) or "spectrogram" not in data:
        raise InputError(f"{where}: not a spectrogram description (it needs the key 'spectrogram')")
    version = data.get("schema_version")
    if version not in range(1, SCHEMA_VERSION + 1):
        raise InputError(
            f"{where}: schema version {version} is not one of 1 to {SCHEMA_VERSION}; use a matching riffusion-train"
        )
    fields = {field.name for field in dataclasses.fields(SpectrogramConfig)}
    if version == 1:
        fields -= _NEW_IN_VERSION_2
    if not isinstance(data["spectrogram"], dict):
        raise InputError(f"{where}: 'spectrogram' must be an object of named parameters")
    values = dict(data["spectrogram"])
    if set(values) != fields:
        odd = ", ".join(sorted(set(values) ^ fields))
        raise InputError(f"{where}: unknown or missing fields: {odd}")
    try:
        for name, kind in _ENUMS.items():
            if name in values:
                values[name] = kind(values[name])
    except ValueError as error:
        raise InputError(f"{where}: {error}") from None
    for field in dataclasses.fields(SpectrogramConfig):
        value = values.get(field.name, 0)
        if field.type in (int, float) and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise InputError(f"{where}: {field.name} must be a number, not {value!r}")
    return SpectrogramConfig(**values)


def write_spectrogram(folder: Path, config: SpectrogramConfig) -> None:
    """Write `spectrogram.json` into `folder`."""
    write_json(folder / SPECTROGRAM_FILE, to_data(config), ascii_only=True)


def load_spectrogram(folder: Path) -> SpectrogramConfig | None:
    """Read `spectrogram.json` from `folder`; None where there is none.

    Raises:
        InputError: If the file is there and cannot be used.
    """
    path = folder / SPECTROGRAM_FILE
    if not path.is_file():
        return None
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON: {error}") from None
    return from_data(data, str(path))


def load_preset(name: str) -> SpectrogramConfig:
    """Return the preset `conf/spectrogram/<name>.yaml`.

    Raises:
        InputError: If there is no such preset; the message names the choices.
    """
    from riffusion_train.config.compose import conf_dir, group_options, load_saved

    if name not in group_options("spectrogram"):
        choices = ", ".join(group_options("spectrogram"))
        raise InputError(f"unknown spectrogram preset '{name}'; choose from: {choices}")
    return load_saved(conf_dir() / "spectrogram" / f"{name}.yaml", SpectrogramConfig)


def preset_words(config: SpectrogramConfig) -> list[str]:
    """Return the words that ask `riffusion prepare` for a codec: its preset, or every field where no preset has these."""
    from riffusion_train.config.compose import group_options

    if config.name in group_options("spectrogram") and load_preset(config.name) == config:
        return [f"spectrogram={config.name}"]
    return [f"spectrogram.{name}={value}" for name, value in to_data(config)["spectrogram"].items()]


def find_preset(name: str) -> SpectrogramConfig:
    """Return the preset of that name, or the codec in a `spectrogram.json` or in a folder that holds one.

    Args:
        name: A preset of `conf/spectrogram/`, or a path.

    Raises:
        InputError: If there is no such preset, or the file cannot be used.
    """
    from riffusion_train.config.compose import group_options

    path = Path(name)
    if name not in group_options("spectrogram"):
        if path.is_dir() and (config := load_spectrogram(path)) is not None:
            return config
        if path.is_file():
            try:
                return from_data(json.loads(path.read_text(encoding="utf-8")), str(path))
            except ValueError:
                raise InputError(f"{path}: not valid JSON") from None
    return load_preset(name)


# --- the commands ----------------------------------------------------------------------------------------------------


class Level(enum.Enum):
    """What a comparison does with a difference in loudness."""

    match = "match"
    """The second sound is brought to the level of the first."""
    keep = "keep"
    """The difference counts."""


@dataclasses.dataclass
class EncodeConfig:
    """The options of `riffusion spectrogram encode`."""

    preset: str = DEFAULT_PRESET
    """A preset of `conf/spectrogram/`, a `spectrogram.json`, or a folder that holds one."""
    channels: Channels | None = None
    """How the audio channels are laid into the image; null is as the preset says."""
    slices: bool = False
    """Write a folder of images of the preset's width instead of one image as wide as the audio is long."""
    width: int | None = None
    """Width of the slices in pixels; null is the preset's. Naming one makes slices."""
    overlap: int | None = None
    """Columns that neighbouring slices share; null is 16, at most a quarter of the width."""


@dataclasses.dataclass
class DecodeConfig:
    """The options of `riffusion spectrogram decode`."""

    preset: str | None = None
    """The codec; null is what the image says, or else the preset that its height fits."""
    quality: Quality = Quality.normal
    """How long to search for the phase."""
    inverter: Inverter = Inverter.pghi
    """How the phase is found."""
    overlap: int | None = None
    """Columns that neighbouring images share; null is what slices say, and 0 for other images."""


@dataclasses.dataclass
class CompareConfig:
    """The options of `riffusion spectrogram compare`, of which all but `level` are for images."""

    preset: str | None = None
    """The codec; null is what the image says, or else the preset that its height fits."""
    quality: Quality = Quality.normal
    """How long to search for the phase."""
    inverter: Inverter = Inverter.pghi
    """How the phase is found."""
    level: Level = Level.match
    """What is done with a difference in loudness."""


@dataclasses.dataclass
class InspectConfig:
    """`riffusion spectrogram inspect` has no options."""


@dataclasses.dataclass
class SeedImagesConfig:
    """The options of `riffusion sample seeds`."""

    preset: str = DEFAULT_PRESET
    """A preset of `conf/spectrogram/`, a `spectrogram.json`, or a folder that holds one."""
