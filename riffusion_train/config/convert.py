"""The options of `riffusion spectrogram` and of `riffusion sample seeds`: between sound and image with the codec alone."""

import dataclasses
import enum

from riffusion_train.config.sample import Inverter, Quality
from riffusion_train.config.spectrogram import Channels

DEFAULT_PRESET = "riffusion_v1"


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
