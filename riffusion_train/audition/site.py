"""The audition site: the clips of a folder as one HTML page that opens from disk, and as JSON for other programs.

Each clip is measured from its files, to sort and filter by, and to play all clips equally loud. What the judge says of single
clips is read from a `scores.json` beside them, to sort and filter by as well.
"""

import dataclasses
import hashlib
import json
import math
import statistics
from collections.abc import Mapping, Sequence, Set
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from riffusion_train.audio.codec import make_codec
from riffusion_train.audio.image_file import load_image
from riffusion_train.audio.loudness import measure_lufs
from riffusion_train.audio.read import read_audio
from riffusion_train.runtime.errors import InputError
from riffusion_train.runtime.files import static_page, write_atomically, write_json

# --- measures of a clip ----------------------------------------------------------------------------------------------

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


# --- what the judge says ---------------------------------------------------------------------------------------------

SCORES_FILE = "scores.json"
IS_COPY = "is_copy"
_SAME_LOUDNESS_LU = 0.01

_JUDGED = (
    Metric(
        "caption_match", "caption match", "%", 0,
        "how many of the other captions fit the clip less well than its own; 50 % is chance",
    ),
    Metric("realness", "realness", "%", 0, "how typical the clip is among real ones; 0 % is unlike all of them"),
    Metric(
        "copy_similarity", "similarity to training", "%", 0,
        "to the training slice that is most like the clip; a flagged one is more alike than different real tracks are",
    ),
    Metric("tempo_bpm", "tempo", "bpm", 0, "measured where the caption names one"),
    Metric("silent_share", "silence", "%", 0, "how much of the clip is silent"),
    Metric("clipped_share", "clipping", "%", 3, "samples cut off at full scale"),
    Metric("bandwidth_hz", "bandwidth", "kHz", 1, "the highest frequency that holds energy"),
    Metric("dc_offset", "DC offset", "% of full scale", 3, "the mean of the samples; music has none"),
    Metric("repetition", "repetition", "%", 0, "how exactly the clip repeats itself after a second or more"),
)  # fmt: skip
_FACTORS = {"%": 100.0, "% of full scale": 100.0, "kHz": 0.001, "bpm": 1.0}


def read_scores(folder: Path) -> dict[str, dict[str, Any]]:
    """Return what `scores.json` in a folder says of its clips, by the path of the sound below the folder.

    A file that is missing, damaged, or of another form gives nothing: the page is shown without scores.
    """
    try:
        clips = json.loads((folder / SCORES_FILE).read_text(encoding="utf-8"))["clips"]
        return {str(clip["file"]): dict(clip) for clip in clips}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def scores_of(
    audio: str, scores: Mapping[str, dict[str, Any]], loudness_lufs: float | None
) -> tuple[dict[str, float], dict[str, Any]]:
    """Return the scores of a clip as metrics of the page, and what else is said of it.

    Args:
        audio: Path of its sound below the folder.
        scores: What `read_scores` returns.
        loudness_lufs: Its loudness as the page measured it. Scores with another one are of a clip that was there before.

    Returns:
        Values by the name of the metric, in its unit; and `is_copy` with `nearest`, and `key`, where they are known.
    """
    clip = scores.get(audio)
    if clip is None or not _same(clip.get("loudness_lufs"), loudness_lufs):
        return {}, {}
    nearest = clip.get("nearest")
    known = {**clip, "copy_similarity": nearest["similarity"]} if isinstance(nearest, dict) else clip
    values = {}
    for metric in _JUDGED:
        value = known.get(metric.name)
        if isinstance(value, int | float):
            values[metric.name] = round(value * _FACTORS[metric.unit], metric.decimals + 2)
    more: dict[str, Any] = {}
    if isinstance(nearest, dict):
        more = {IS_COPY: bool(nearest[IS_COPY]), "nearest": nearest_text(nearest)}
    if clip.get("key"):
        more["key"] = str(clip["key"])
    return values, more


def score_metrics(names: Set[str]) -> tuple[Metric, ...]:
    """Return the metrics of the given names, in the order of the page."""
    return tuple(metric for metric in _JUDGED if metric.name in names)


def nearest_text(nearest: Mapping[str, Any]) -> str:
    """Return in words which training slice a clip is most like, and how."""
    parts = [f"{100 * nearest['similarity']:.0f} % similar to a slice of {PurePosixPath(str(nearest['track'])).name}"]
    shift_s, semitones = round(float(nearest["shift_s"]), 1), int(nearest["transposition"])
    if shift_s:
        parts.append(f"{abs(shift_s):g} s {'later' if shift_s > 0 else 'earlier'}")
    if semitones:
        parts.append(
            f"{abs(semitones)} semitone{'s' if abs(semitones) > 1 else ''} {'up' if semitones > 0 else 'down'}"
        )
    return ", ".join(parts)


def _same(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return abs(one - other) <= _SAME_LOUDNESS_LU


# --- the page --------------------------------------------------------------------------------------------------------

SCRIPTS = ("elements.js", "ratings.js", "player.js", "grid.js", "details.js", "link.js", "main.js")
"""The parts of the page's script, in order; they share one scope."""


def page_html(data: Mapping[str, Any]) -> str:
    """Return the page of a site's data; all texts in it are data, and none becomes markup."""
    return static_page("riffusion_train.audition", SCRIPTS, str(data["title"]), data)


PAGE_FILE = "index.html"
SITE_FILE = "site.json"
SCHEMA_VERSION = 1

_MEASURED = {"stamp", "duration_s", "channels", "metrics"}


@dataclasses.dataclass(frozen=True)
class Version:
    """A column of the grid: a model, or one model at one strength of guidance."""

    name: str
    """Its name on the page; no two have the same."""
    source: str
    """The model's path or hub id."""
    step: int | None = None
    """Training steps, if known."""
    note: str = ""
    """What else is known of it, in a few words, such as its figures."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """A clip of the grid. Its `.png`, its `.json` (the settings) and its sound are side by side."""

    stem: str
    """Path of its files without the suffix, relative to the site's folder, with forward slashes."""
    version: str
    """The name of its version."""
    command: str
    """The command that makes exactly this clip."""
    audio_format: str = "wav"


@dataclasses.dataclass(frozen=True)
class Site:
    """Everything that the page shows."""

    title: str
    command: str
    """The command that makes all of it, or empty."""
    versions: Sequence[Version]
    cells: Sequence[Cell]


def write_site(folder: Path, site: Site) -> Path:
    """Write `index.html` and `site.json` into the folder of the clips; return the page's path.

    A clip is measured once: the next call takes its measures from `site.json`. The scores of the clips are taken from
    `scores.json` in the folder, if there is one.

    Raises:
        InputError: If a clip's image, sound or settings are missing or cannot be read.
    """
    known = _known_measures(folder / SITE_FILE)
    versions = {version.name: f"v{number}" for number, version in enumerate(site.versions, start=1)}
    if len(versions) != len(site.versions):
        raise ValueError("two versions have the same name")
    cells = [_cell_data(folder, cell, versions[cell.version], known) for cell in site.cells]
    metrics = (*METRICS, *_add_scores(folder, cells))
    loudnesses = [cell["heard_lufs"] for cell in cells if cell["heard_lufs"] is not None]
    data = {
        "schema_version": SCHEMA_VERSION,
        "title": site.title,
        "command": site.command,
        "target_lufs": matching_target_lufs(loudnesses),
        "metrics": [dataclasses.asdict(metric) for metric in metrics],
        "versions": [{"id": versions[version.name], **dataclasses.asdict(version)} for version in site.versions],
        "cells": cells,
    }
    write_json(folder / SITE_FILE, data, indent=1)
    shown = [{name: value for name, value in cell.items() if name != "stamp"} for cell in cells]
    write_atomically(folder / PAGE_FILE, page_html({**data, "cells": shown}))
    return folder / PAGE_FILE


def _cell_data(folder: Path, cell: Cell, version: str, known: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    path = PurePosixPath(cell.stem)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{cell.stem} is not inside the site's folder")
    audio, image, settings_file = (f"{cell.stem}.{kind}" for kind in (cell.audio_format, "png", "json"))
    for name in (audio, image, settings_file):
        if not (folder / name).is_file():
            raise InputError(f"{folder / name}: missing; make the clip again, or leave it out")
    settings = _read_settings(folder / settings_file)
    stamp = [_stamp(folder / audio), _stamp(folder / image)]
    earlier = known.get(cell.stem)
    if earlier is not None and earlier["stamp"] == stamp:
        measures = {
            metric.name: earlier["metrics"][metric.name] for metric in METRICS if metric.name in earlier["metrics"]
        }
        measured = Measured(earlier["duration_s"], earlier["channels"], measures)
    else:
        measured = measure_clip(folder / audio, folder / image)
    return {
        "id": _identity(cell.stem, settings),
        "version": version,
        "stem": cell.stem,
        "audio": audio,
        "image": image,
        "duration_s": measured.duration_s,
        "channels": measured.channels,
        "heard_lufs": heard_lufs(measured),
        "metrics": measured.metrics,
        "settings": settings,
        "command": cell.command,
        "stamp": stamp,
    }


def _add_scores(folder: Path, cells: Sequence[dict[str, Any]]) -> tuple[Metric, ...]:
    """Add the scores of clips to their data; return the metrics that at least one clip has."""
    scores, names = read_scores(folder), set[str]()
    for cell in cells:
        values, more = scores_of(cell["audio"], scores, cell["metrics"].get("loudness_lufs"))
        cell["metrics"] = {**cell["metrics"], **values}
        cell.update(more)
        names |= values.keys()
    return score_metrics(names)


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        fits = isinstance(settings["prompt"], str) and isinstance(settings["seed"], int)
    except (ValueError, KeyError, TypeError):
        fits = False
    if not fits:
        raise InputError(f"{path}: holds no settings of a generated clip; make the clip again, or leave it out")
    return dict(settings)


def _identity(stem: str, settings: Mapping[str, Any]) -> str:
    """Return an id that a clip keeps while the site grows and moves, so that its ratings and links stay valid."""
    text = json.dumps([stem, settings], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def _known_measures(path: Path) -> dict[str, dict[str, Any]]:
    """Return the cells that a site already lists, by stem; none if it cannot be read or has other measures."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["metrics"][: len(METRICS)] != [dataclasses.asdict(metric) for metric in METRICS]:
            return {}
        return {cell["stem"]: cell for cell in data["cells"] if cell.keys() >= _MEASURED}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _stamp(path: Path) -> list[int]:
    """Return what changes when a file does."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]
