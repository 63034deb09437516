"""What was heard and measured in a track: the facts that captions are made from, and that captions are checked against."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import numpy as np

from riffusion_train.listening.evidence import Evidence

PATCH_S = 3.0
"""Length of the patches that the taggers hear."""
_LEAST_SCORE = 0.005
"""Scores below this in every patch are not kept."""
_SMOOTHING_S = 4.0
"""Standard deviation of the Gaussian window over which the scores of a moment are averaged."""


@dataclasses.dataclass(frozen=True)
class Heard:
    """What was heard in a track, and measured in it.

    Scores are those of the two taggers of `riffusion_train.listening.musicnn`, from 0 to 1. Tags of MagnaTagATune have their
    own names (`drums`, `female vocal`), those of the Million Song Dataset have `msd:` before them (`msd:jazz`).
    """

    starts_s: tuple[float, ...]
    """Start of each patch that was heard, ascending; each lasts `PATCH_S` or, in shorter tracks, the whole track."""
    scores: Mapping[str, tuple[float, ...]]
    """Score of each tag in each patch; tags that no patch has are left out: their scores are 0."""
    slices: tuple[tuple[float, float], ...] = ()
    """Start and length of each slice of the track in seconds, in order."""
    bpm: float | None = None
    """Tempo in beats per minute; None without onsets."""
    bpm_strength: float = 0.0
    """How regular the onsets are at that tempo: their autocorrelation at one beat, from 0 to 1."""
    key: str | None = None
    """Key, for example `A minor` or `C# major`; None without pitch."""
    key_strength: float = 0.0
    """Correlation of the chroma with the profile of the key, up to 1."""
    lufs: float | None = None
    """Integrated loudness of the track as it is in the file."""
    loudness: str | None = None
    """`quiet`, `moderately loud` or `loud`, as `measure=loudness` says."""
    brightness_hz: float | None = None
    """Spectral centroid."""
    brightness: str | None = None
    """`dark`, `balanced` or `bright`, as `measure=brightness` says."""
    drums: bool | None = None
    """Whether there are drums, as `measure=drums` says."""
    evidence: Evidence | None = None
    """What captions are checked against; None unless they are."""

    @functools.cached_property
    def track_scores(self) -> dict[str, float]:
        """The mean score of each tag over the track. Tags that are not in it were not heard: their score is 0."""
        return {name: float(np.mean(values)) for name, values in self.scores.items()}

    def scores_at(self, start_s: float, duration_s: float) -> dict[str, float]:
        """Return the score of each tag in a stretch of the track.

        It is the mean of the patches, weighted by a Gaussian window of their distance to the stretch: patches in it count
        fully, those further away count less. So no single patch decides, and between patches the scores change gradually.

        Args:
            start_s: Start of the stretch in seconds.
            duration_s: Its length.
        """
        centres_s = np.array(self.starts_s) + PATCH_S / 2
        distance_s = np.maximum(np.abs(centres_s - (start_s + duration_s / 2)) - duration_s / 2, 0.0)
        # Relative to the nearest patch, so that the weights do not vanish where all patches are far away.
        weights = np.exp(-(np.square(distance_s) - np.square(distance_s.min())) / (2 * _SMOOTHING_S**2))
        return {name: float(np.average(values, weights=weights)) for name, values in self.scores.items()}

    @property
    def slice_scores(self) -> list[dict[str, float]]:
        """The scores of each slice, see `scores_at`."""
        return [self.scores_at(start_s, duration_s) for start_s, duration_s in self.slices]

    def as_data(self) -> dict[str, Any]:
        """Return it as JSON-ready data, as the manifest holds it."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        scores = {name: list(values) for name, values in self.scores.items()}
        return fields | {
            "starts_s": list(self.starts_s),
            "scores": scores,
            "slices": [list(one) for one in self.slices],
            "evidence": self.evidence and self.evidence.as_data(),
        }

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Self:
        """Read what `as_data` returned.

        Raises:
            TypeError: If it is something else.
        """
        scores = {name: tuple(values) for name, values in data["scores"].items()}
        slices = tuple((start_s, duration_s) for start_s, duration_s in data["slices"])
        evidence = data.get("evidence")
        plain = {"starts_s": tuple(data["starts_s"]), "evidence": evidence and Evidence.from_data(evidence)}
        return cls(**{**data, **plain, "scores": scores, "slices": slices})


class HeardFile(NamedTuple):
    """An audio file, and what was heard in it."""

    file_hash: str
    heard: Heard | None
    """None if it was not heard."""


def kept_scores(scores: Mapping[str, np.ndarray]) -> dict[str, tuple[float, ...]]:
    """Return the scores to keep, of three decimals: those of tags that some patch has."""
    return {
        name: tuple(round(float(value), 3) for value in values)
        for name, values in scores.items()
        if values.max() >= _LEAST_SCORE
    }
