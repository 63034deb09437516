"""What the judge says of single clips, read from a `scores.json` beside them, to sort and filter by."""

import json
from collections.abc import Mapping, Set
from pathlib import Path, PurePosixPath
from typing import Any

from riffusion_train.audition.measures import Metric

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
