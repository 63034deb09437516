"""Captions against the sound: which statements of a caption contradict what was heard and measured in its track.

It is asked how well the sound fits what the caption says, not whether that is the best guess. A statement is called false
only where the evidence against it is strong; where it is unclear, nothing is said. The limits below were set on composed
clips with known truth, see `benchmarks/caption_checks.py`.
"""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from data_prep.captions.heard import Heard
from data_prep.captions.statements import Kind, Statement, find_statements, without
from riffusion_train.listening.attributes import key_fits, relative_key
from riffusion_train.listening.evidence import Evidence, support_of

MULTIPLES = (1.0, 0.5, 2.0)
"""Multiples of a stated tempo that are no contradiction: half and double time are a matter of taste."""
_LEAST_SUPPORT = 52
"""Percent of `Evidence.pulse` below which a tempo is false."""
_MOST_KEY_DISTANCE = 0.4
"""How much worse than the best key a stated key, or its relative, may fit the notes."""
_DRUM_BIAS = 12.97
_DRUM_BANDS = (-3.2, -0.63, 5.64)
_DRUM_TAGS = {
    "drums": 0.54, "beat": 0.26, "beats": 0.08, "pop": 0.51, "rock": 0.03, "solo": -0.38, "techno": 0.38, "dance": 0.52,
    "classical": 0.45, "classic": 0.08, "loud": 0.06, "electronic": -0.26, "synth": -0.61, "msd:80s": 0.71, "msd:funk": 0.38,
    "msd:instrumental": -0.6, "msd:electro": 0.22, "msd:electronica": 0.9, "msd:electronic": 0.03, "msd:folk": 0.28,
    "msd:sexy": 0.92, "msd:beautiful": -0.92, "msd:pop": 0.13, "msd:dance": -0.89,
}  # fmt: skip
"""Weights of the percussive shares from 500 Hz on and of the logarithms of the tags that tell most: a logistic regression on
548 composed clips."""
_FEWEST_DRUMS, _MOST_DRUMS = 0.1, 0.9
"""Probabilities of drums below which "drums" is false, and above which "no drums" is."""
_SLOWEST_FAST, _FASTEST_SLOW = -2.5, 3.0
"""See `speed_of`."""
_INSTRUMENTS: dict[str, tuple[tuple[str, ...], float, float]] = {
    "guitar": (("guitar",), 0.0, 0.6),
    "piano": (("piano",), 0.012, 0.75),
    "violin": (("violin", "strings"), 0.008, 1.0),
    "flute": (("flute",), 0.0, 0.6),
    "choir": (("choir", "choral", "opera"), 0.0, 0.05),
    "synth": (("synth", "electronic", "msd:electronic", "techno"), 0.04, 0.65),
}
"""Tags of an instrument, the score below which it is not there, and that above which it is; others are too uncertain."""
_LEAST_SCORE = 0.002
"""Scores below this are all the same."""


@dataclasses.dataclass(frozen=True)
class Contradiction:
    """A false statement of a caption."""

    statement: Statement
    measured: str
    """What the sound says, in a few words."""


def contradictions(caption: str, heard: Heard) -> list[Contradiction]:
    """Return the statements of a caption that are false, in the order of the text.

    Args:
        caption: The caption.
        heard: What was heard and measured in its track.
    """
    if heard.evidence is None:
        return []
    judged = ((statement, _against(statement, heard, heard.evidence)) for statement in find_statements(caption))
    return [Contradiction(statement, measured) for statement, measured in judged if measured is not None]


def corrected(caption: str, heard: Heard) -> str:
    """Return a caption without its false statements; empty if nothing else is in it."""
    while found := contradictions(caption, heard):
        shorter = without(caption, found[-1].statement)
        if len(shorter) >= len(caption):
            return ""
        caption = shorter
    return caption


def _against(statement: Statement, heard: Heard, evidence: Evidence) -> str | None:
    """Return what the sound says against a statement; None if it fits, or if that is unclear."""
    match statement.kind:
        case Kind.tempo:
            return _against_tempo(statement, heard, evidence)
        case Kind.key:
            return _against_key(statement, heard, evidence)
        case Kind.drums:
            return _against_drums(statement, heard, evidence)
        case Kind.speed:
            return _against_speed(statement, heard, evidence)
        case Kind.instrument:
            return _against_instrument(statement, heard, evidence)


def _against_tempo(statement: Statement, heard: Heard, evidence: Evidence) -> str | None:
    if not evidence.pulse or statement.bpm is None:
        return None
    low, high = statement.bpm
    tempi = np.geomspace(low, high, max(1, math.ceil(50 * math.log(high / low)) + 1)) if high > low else [high]
    support = max(support_of(evidence.pulse, float(bpm) * factor) for bpm in tempi for factor in MULTIPLES)
    if support >= _LEAST_SUPPORT:
        return None
    return f"measured {heard.bpm:.0f} bpm" if heard.bpm is not None else "the onsets do not repeat at that tempo"


def _against_key(statement: Statement, heard: Heard, evidence: Evidence) -> str | None:
    """A key and its relative have the same notes, so that one is no contradiction of the other."""
    if not evidence.chroma:
        return None
    fits = key_fits(np.asarray(evidence.chroma))
    fit = max(fits[statement.name], fits[relative_key(statement.name)])
    best = max(fits, key=lambda key: fits[key])
    return f"measured {best}" if fits[best] - fit > _MOST_KEY_DISTANCE else None


def _against_drums(statement: Statement, heard: Heard, evidence: Evidence) -> str | None:
    """Percussion that is said to be there may be too soft to be heard; that there is none is judged as of drums."""
    probability = drum_probability(heard, evidence)
    if probability is None:
        return None
    if statement.present:
        return "no drums are heard" if statement.name == "drums" and probability < _FEWEST_DRUMS else None
    return "drums are heard" if probability > _MOST_DRUMS else None


def drum_probability(heard: Heard, evidence: Evidence) -> float | None:
    """Return how surely there are drums, from 0 to 1, by the percussive shares and the tagger; None in silence."""
    if not evidence.percussive or not heard.starts_s:
        return None
    shares = sum(weight * share for weight, share in zip(_DRUM_BANDS, evidence.percussive[2:], strict=True))
    tags = sum(weight * _log_score(heard.track_scores, tag) for tag, weight in _DRUM_TAGS.items())
    return 1.0 / (1.0 + math.exp(-_DRUM_BIAS - shares - tags))


def _against_speed(statement: Statement, heard: Heard, evidence: Evidence) -> str | None:
    if not heard.starts_s:
        return None
    speed = speed_of(heard)
    if statement.name == "fast":
        return "the onsets are slow" if speed < _SLOWEST_FAST else None
    return "the onsets are fast" if speed > _FASTEST_SLOW else None


def speed_of(heard: Heard) -> float:
    """Return how fast a track sounds: the logarithm of the tagger's score for "fast" over that for "slow"."""
    return _log_score(heard.track_scores, "fast") - _log_score(heard.track_scores, "slow")


def _against_instrument(statement: Statement, heard: Heard, evidence: Evidence) -> str | None:
    """The tagger's highest score anywhere in the track counts: an instrument may play in one place only."""
    limits = _INSTRUMENTS.get(statement.name)
    if limits is None or not heard.starts_s:
        return None
    tags, floor, ceiling = limits
    score = max(max(heard.scores.get(tag, (0.0,))) for tag in tags)
    if statement.present:
        return f"no {statement.name} is heard (score {score:.3f})" if score < floor else None
    return f"{statement.name} is heard (score {score:.2f})" if score > ceiling else None


def _log_score(scores: Mapping[str, float], tag: str) -> float:
    return math.log(max(scores.get(tag, 0.0), _LEAST_SCORE))
