"""Measures of a clip from its files, to sort and filter by, and to play all clips equally loud."""

import dataclasses
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from riffusion_train.audio.codec.codec import make_codec
from riffusion_train.audio.codec.image_file import load_image
from riffusion_train.audio.io.loudness import measure_lufs
from riffusion_train.audio.io.read import read_audio

_LARGEST_CUT_DB = 12.0
_SILENT_DBFS = -120.0
_BOTH_SPEAKERS_DB = 10 * math.log10(2)


@dataclasses.dataclass(frozen=True)
class Metric:
    """A number that a clip may have."""

    name: str
    label: str
    unit: str
    decimals: int = 1
    meaning: str = ""
    """What it says, for people; empty where the label does."""


METRICS = (
    Metric("loudness_lufs", "loudness", "LUFS"),
    Metric("peak_dbfs", "peak", "dBFS"),
    Metric("image_error_percent", "sound ≠ image", "%", 2),
)
"""What `measure_clip` measures. `image_error_percent` is what the inversion could not turn into sound: the mean difference
between the pixels of the model's image and of the image of the sound, in percent of white to black."""


@dataclasses.dataclass(frozen=True)
class Measured:
    """The measures of a clip."""

    duration_s: float
    channels: int
    metrics: dict[str, float]
    """By name; one without a value, such as the loudness of silence, is left out."""


def measure_clip(audio: Path, image: Path) -> Measured:
    """Measure a clip.

    Args:
        audio: Its sound.
        image: Its image; if the file does not hold its codec, the image error is left out.

    Raises:
        InputError: If a file cannot be read.
    """
    wav, rate_hz = read_audio(audio)
    metrics = {}
    loudness = measure_lufs(wav, rate_hz, whole_clip=True)
    if loudness is not None:
        metrics["loudness_lufs"] = loudness
    peak = float(np.abs(wav).max(initial=0.0))
    metrics["peak_dbfs"] = max(20 * float(np.log10(max(peak, 1e-12))), _SILENT_DBFS)
    loaded = load_image(image)
    if loaded.config is not None and loaded.config.rate_hz == rate_hz and wav.shape[1]:
        sampled, heard = loaded.image, make_codec(loaded.config).encode(wav).image
        width = min(sampled.shape[1], heard.shape[1])
        if sampled.ndim == heard.ndim and len(sampled) == len(heard):
            difference = np.abs(sampled[:, :width].astype(np.float32) - heard[:, :width])
            metrics["image_error_percent"] = float(difference.mean() / 2.55)
    return Measured(wav.shape[1] / rate_hz, wav.shape[0], {name: round(value, 3) for name, value in metrics.items()})


def heard_lufs(measured: Measured) -> float | None:
    """Return the loudness of a clip as a player plays it; None for silence.

    The standard adds up the channels. A player sends the one channel of a mono clip to both speakers, which makes it 3 dB
    louder than the file's own loudness.
    """
    loudness = measured.metrics.get("loudness_lufs")
    if loudness is None or measured.channels != 1:
        return loudness
    return round(loudness + _BOTH_SPEAKERS_DB, 3)


def matching_target_lufs(loudnesses: Sequence[float]) -> float | None:
    """Return the loudness at which a page plays all clips; None if there is no clip with one.

    A page can turn clips down but not up. The quietest clip sets the target, but at most 12 dB below the median: a single
    faint clip must not turn all others down, and is then the one that is not matched.
    """
    if not loudnesses:
        return None
    return round(max(min(loudnesses), statistics.median(loudnesses) - _LARGEST_CUT_DB), 3)
